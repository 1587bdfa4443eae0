"""What can go wrong, one class per thing that a caller could fix.

Every message names the argument, what was expected, what came and what to do:

    b_hh: expected (3H,) = (96,), got (64,); H = 32 comes from W_hh
"""

__all__ = [
    "BackendError",
    "ConversionError",
    "ConversionWarning",
    "DTypeError",
    "FileFormatError",
    "GRUError",
    "KernelError",
    "MixedArraysError",
    "NotDifferentiableError",
    "RangeError",
    "ShapeError",
    "StructureError",
    "VariableError",
]


class GRUError(ValueError):
    """The base of all errors that gru_xp raises on purpose."""


class ShapeError(GRUError):
    """An array has the wrong shape."""


class DTypeError(GRUError):
    """An array has the wrong dtype, or the dtypes do not agree."""


class StructureError(GRUError, TypeError):
    """An argument is not of the kind that is needed: a bare CellParams, a list instead of an array, ..."""


class RangeError(GRUError):
    """A value lies outside what makes sense, such as a length that is greater than T."""


class MixedArraysError(GRUError):
    """The arrays of one call belong to different libraries or devices."""


class BackendError(GRUError):
    """A backend is unknown, its library is missing, or it cannot do what was asked."""


class VariableError(GRUError):
    """An environment variable has a value that means nothing."""


class KernelError(GRUError):
    """A fused kernel was required and none can serve the call, or what is installed as one is no kernel."""


class NotDifferentiableError(GRUError):
    """A gradient is asked for where there is none, or would have to cross from one library to another."""


class FileFormatError(GRUError):
    """A file is damaged, or is not what it is said to be."""


class ConversionError(GRUError):
    """A GRU is there, and cannot be represented where it was to go; the message says why."""


class ConversionWarning(UserWarning):
    """A model was read that puts out something else than where it comes from; `GRU.report` says it too."""
