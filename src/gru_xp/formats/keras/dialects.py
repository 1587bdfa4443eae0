"""What differs between the Kerases: which one wrote a file, what its names mean, and what it computes unless told.

Read from the sources of Keras 1.0, 1.2, 2.0, 2.1, 2.2, 2.3, tf.keras 2.6, 2.9, 2.12, 2.15, tf_keras 2.19 and Keras 3.0,
3.3, 3.6, 3.15.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from gru_xp.activations import Activation
from gru_xp.errors import ConversionError

__all__ = ["KERAS_3", "TENSORFLOW_2", "Dialect", "dialect_of"]

NAMES = (  # of activations that Keras has in all versions, or has had since one
    *("tanh", "sigmoid", "hard_sigmoid", "relu", "linear", "elu", "selu", "softplus", "softsign", "exponential"),
    *("swish", "silu", "leaky_relu"),
)


class Dialect(NamedTuple):
    """One Keras: 1, 2 or 3, and whether a 2 is TensorFlow's; the text is what the file says of it."""

    major: int
    text: str
    tensorflow: bool = False
    minor: int = 0

    @property
    def zeroes_both(self) -> bool:
        """Whether `Bidirectional` makes its halves put zeros into the padding of y, whatever they say."""
        return self.major == 3 or self.tensorflow

    def activation(self, name: Any) -> Activation:
        """What a name of Keras's means there.

        hard_sigmoid is clip(0.2 a + 0.5, 0, 1) before Keras 3, and relu6(a + 3) / 6 since.
        """
        if isinstance(name, Mapping):  # an object with a description of its own
            kind = name.get("class_name") or "lambda"
            raise ConversionError(f"the activation {kind!r} is an object of its own, not a name")
        if name == "hard_sigmoid" and self.major < 3:
            return Activation("hard_sigmoid", 0.2, 0.5)
        if isinstance(name, str) and name not in NAMES:
            known = ", ".join(NAMES)
            raise ConversionError(f"activation: expected one of {known}, got {name!r}, which may be anybody's function")
        return Activation.keras("linear" if name is None else name)

    def default_gates(self, reset_after: bool) -> str:
        """The gates' activation of a `GRU` that was told none."""
        if self.major == 1 or (self.major == 2 and self.minor < 2 and not self.tensorflow):
            return "hard_sigmoid"
        if self.major == 2 and self.minor == 2 and not (self.tensorflow and reset_after):
            return "hard_sigmoid"  # "2.2.4-tf" is TensorFlow 1.13 to 2.1, of which 2.0 and 2.1 reset after
        return "sigmoid"


KERAS_3 = Dialect(3, "3")
TENSORFLOW_2 = Dialect(2, "2", True, 15)
JAVASCRIPT = re.compile(r"tfjs-layers\b")
NUMBER = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def dialect_of(text: Any) -> Dialect | None:
    """The Keras that calls itself so, "2.2.4-tf"; None for what is no version of one."""
    if not isinstance(text, str):
        return None
    if JAVASCRIPT.match(text):
        return Dialect(2, text, False, 3)
    found = NUMBER.match(text)
    if found is None or found[1] not in ("0", "1", "2", "3"):
        return None
    major, minor, patch = int(found[1]), int(found[2]), int(found[3] or 0)
    tensorflow = major == 2 and (minor >= 4 or (text.endswith("-tf") and (minor, patch) >= (2, 4)))
    return Dialect(max(major, 1), text, tensorflow, minor)
