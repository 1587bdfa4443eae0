"""The judge: makes native arrays of a problem, calls what is judged, compares, and says what is wrong, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gru_xp.backend import Backend
from gru_xp.discovery import Place, load, owner
from gru_xp.interfaces import Kernel
from gru_xp.kernels import kernels_of
from gru_xp.params import GRUGrads

from . import tolerance
from .implementation import Arguments, Assembled, Library, public
from .problems import (
    GATES_ON_TAPE,
    ON_TAPE,
    Config,
    Quantity,
    expected,
    largest_error,
    of_forward,
    of_gradients,
    plain_errors,
    problem,
    within,
)

__all__ = ["Judge", "MismatchError", "NotRunError", "Target", "compiles"]

A = npt.NDArray[Any]
GATES = ("r", "z", "n")


class MismatchError(AssertionError):
    """A result is wrong; the message says which quantity, gate and time step."""


class NotRunError(Exception):
    """The case has nothing to judge here; the message says why."""


@dataclass(frozen=True)
class Target:
    """A row of the matrix: a backend, one of its devices, and a kernel or the plain path."""

    name: str
    device: str
    kernel: str = "plain"

    def __str__(self) -> str:
        return f"{self.name}:{self.device} {self.kernel}"

    @property
    def place(self) -> Place:
        backend = load(self.name)
        return Place(backend, backend.device(self.device))

    def implementation(self) -> Library:
        """The public doors for the plain path (with GRU_XP_KERNELS=off), and each kernel by itself."""
        return public if self.kernel == "plain" else Assembled(self.place, self._kernel())

    def _kernel(self) -> Kernel:
        return next(kernel for kernel in kernels_of(self.name) if kernel.name == self.kernel)


def compiles(backend: Backend) -> bool:
    """Whether each new shape costs this backend a compilation."""
    return type(backend).stack is not Backend.stack


class Judge:
    """One target and dtype: what the cases ask for and compare with."""

    def __init__(self, target: Target, dtype: str, implementation: Library | None = None):
        self.target, self.dtype = target, dtype
        self.place = target.place
        self.backend = self.place.backend
        self.gru = implementation if implementation is not None else target.implementation()
        self._made: list[tuple[Config, Arguments]] = []
        self.errors: dict[str, float] = {}  # the worst error of each kind of quantity, as a fraction of its bound

    # ---- arrays -----------------------------------------------------------------------------------------------------

    def native(self, a: A, device: Any = None) -> Any:
        """A new array of the backend, on the device; floating-point values in the dtype."""
        backend, device = self.backend, self.place.device if device is None else device
        if a.dtype == bool:
            return backend.xp.reshape(backend.from_host(a.tolist(), backend.xp.bool, device), a.shape)
        if np.issubdtype(a.dtype, np.integer):
            return backend.from_host(a.tolist(), None, device)
        step = "float64" if self.dtype == "float64" else "float32"
        made = backend.from_dlpack(np.array(a, dtype=step, order="C"), device)
        return made if step == self.dtype else backend.xp.astype(made, backend.dtype(self.dtype))

    def host(self, array: Any) -> A:
        """The values of a native array, widened to float64."""
        backend = self.backend
        if backend.dtype_name(array.dtype) == "bfloat16":
            array = backend.xp.astype(array, backend.xp.float32)
        values = np.from_dlpack(backend.exportable(array, to_host=True))
        return values.astype(np.float64) if values.dtype != bool else values

    def flipped(self, array: Any) -> Any:
        """A native array with its first axis in reverse."""
        return self.native(np.ascontiguousarray(self.host(array)[::-1]))

    def arguments(self, config: Config) -> Arguments:
        """The arrays of a config as native ones, made anew."""
        made = Arguments.of(problem(config, self.dtype), self.native)
        self._made.append((config, made))
        return made

    def written_to(self) -> list[str]:
        """Name the arguments that are not as they were made: somebody wrote to them."""
        changed: dict[str, None] = {}
        for config, made in self._made:
            again = Arguments.of(problem(config, self.dtype), self.native)
            for (name, a), (_, b) in zip(made.named(), again.named(), strict=True):
                if not np.array_equal(self.host(a), self.host(b), equal_nan=True):
                    changed[name] = None
        return list(changed)

    # ---- calls ------------------------------------------------------------------------------------------------------

    def inference(
        self, config: Config, args: Arguments | None = None, function: str = "gru_inference"
    ) -> tuple[Any, Any]:
        args = self.arguments(config) if args is None else args
        y, h_n = getattr(self.gru, function)(*args.positional, **args.options(config.spec))
        return y, h_n

    def forward(self, config: Config, args: Arguments | None = None, save: str = "all") -> tuple[Any, Any, Any]:
        args = self.arguments(config) if args is None else args
        y, h_n, tape = self.gru.gru_forward(*args.positional, **args.options(config.spec), save=save)
        return y, h_n, tape

    def gradients(self, config: Config, args: Arguments | None = None, save: str = "all") -> GRUGrads:
        args = self.arguments(config) if args is None else args
        _, _, tape = self.forward(config, args, save)
        return self.gru.gru_backward(tape, args.dy, args.dh_n)

    # ---- comparisons ------------------------------------------------------------------------------------------------

    def assert_forward(self, config: Config, y: Any, h_n: Any, tape: Any = None) -> None:
        """The outputs, and what the tape holds, are the reference's."""
        self.assert_quantities(config, of_forward(y, h_n, () if tape is None else tape.layers))

    def assert_gradients(self, config: Config, grads: Any) -> None:
        """The gradients are the reference's."""
        self.assert_quantities(config, of_gradients(grads))

    def assert_quantities(self, config: Config, got: Iterable[tuple[Quantity, Any]]) -> None:
        """Each has the place, dtype and shape that it should have, and is within its bound of the reference."""
        wanted, plain = expected(config, self.dtype), plain_errors(config, self.dtype)
        wrong: list[_Wrong] = []
        right: list[Quantity] = []
        for quantity, array in got:
            ref = wanted[quantity]
            if ref is None or (array is None and quantity.kind in ON_TAPE):  # no biases; gates that were not saved
                if ref is None and array is not None:
                    raise MismatchError(f"{quantity}: expected None, got an array of shape {tuple(array.shape)}")
                continue
            self.assert_belongs(array, str(quantity), ref.shape, gate=quantity.kind in GATES_ON_TAPE)
            limit = tolerance.bound(plain[quantity], ref, self.dtype)
            values = within(config, quantity, self.host(array))
            assert values is not None
            error = largest_error(values, ref)
            self.note(quantity.kind, error, limit)
            if error <= limit:
                right.append(quantity)
            else:
                wrong.append(_Wrong(quantity, values, ref, limit, config))
        if wrong:
            raise MismatchError(_report(wrong, right, config, self))

    def assert_belongs(self, array: Any, name: str, shape: tuple[int, ...], *, gate: bool = False) -> None:
        """The array is of the backend, the dtype and the device, and has the shape. Gates may be wider than 16 bits."""
        if array is None:
            raise MismatchError(f"{name}: expected an array of shape {shape}, got None")
        backend = self.backend
        if owner(array, name) is not backend:
            raise MismatchError(
                f"{name}: expected an array of {backend.name}, got {type(array).__module__}.{type(array).__name__}"
            )
        dtype = backend.dtype_name(array.dtype)
        if dtype != self.dtype and not (gate and dtype == "float32" and self.dtype in ("float16", "bfloat16")):
            raise MismatchError(f"{name}: expected {self.dtype}, got {dtype}")
        if tuple(array.shape) != shape:
            raise MismatchError(f"{name}: expected the shape {shape}, got {tuple(array.shape)}")
        device = backend.device_name(backend.device_of(array))
        if device != backend.device_name(self.place.device):
            raise MismatchError(f"{name}: expected on {backend.device_name(self.place.device)}, got on {device}")

    def assert_agree(self, config: Config, quantity: Quantity, one: A, other: A, what: str) -> None:
        """Two results for one quantity, each within its bound of the truth, are within two bounds of one another.

        `one` and `other` may be parts of it, such as some of its steps or rows.
        """
        ref = expected(config, self.dtype)[quantity]
        assert ref is not None
        limit = tolerance.bound(
            plain_errors(config, self.dtype)[quantity], ref, self.dtype, results=tolerance.TWO_RESULTS
        )
        error = largest_error(one, other)
        self.note(quantity.kind, error, limit)
        if not error <= limit:
            raise MismatchError(f"{what}: {_Wrong(quantity, one, other, limit, config)}\n  in {config}, {self.dtype}")

    def assert_identical(self, one: Any, other: Any, what: str) -> None:
        """Two native arrays have the same bits."""
        a, b = self.host(one), self.host(other)
        if a.shape != b.shape or not np.array_equal(a, b, equal_nan=True):
            raise MismatchError(f"{what}: expected the same bits, got a difference of {largest_error(a, b):.2g}")

    def note(self, kind: str, error: float, limit: float) -> None:
        """Remember the worst error as a fraction of its bound."""
        fraction = 0.0 if error == 0.0 else error / limit if limit > 0.0 else float("inf")
        self.errors[kind] = max(fraction, self.errors.get(kind, 0.0))


# ---- what is off, and where ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Wrong:
    """A quantity that is out of its bound."""

    quantity: Quantity
    got: A
    ref: A
    limit: float
    config: Config

    @cached_property
    def off(self) -> A:
        """Where it is out of its bound."""
        if self.got.shape != self.ref.shape:
            return np.ones(self.ref.shape, dtype=bool)
        with np.errstate(invalid="ignore"):
            near = np.abs(self.got - self.ref) <= self.limit
        same = (self.got == self.ref) | (np.isnan(self.got) & np.isnan(self.ref))
        return ~(near | same)

    @cached_property
    def steps(self) -> list[int]:
        """The time steps that are off, the first to be computed first."""
        kind, d = self.quantity.kind, self.quantity.d
        if kind not in (*ON_TAPE, "y", "dx"):
            return []
        steps = np.flatnonzero(self.off.reshape(len(self.off), -1).any(axis=1)).tolist()
        return steps[::-1] if (d == 1) != (kind == "dx") else steps

    @property
    def gates(self) -> list[str]:
        """The gates that are off, in what is stacked by gates."""
        if self.quantity.kind not in ("dW_ih", "dW_hh", "db_ih", "db_hh") or self.got.shape != self.ref.shape:
            return []
        return [gate for gate, part in zip(GATES, np.split(self.off, 3), strict=True) if part.any()]

    @property
    def cause(self) -> tuple[int, int, int, int]:
        """What comes first in the order of the computation, and so is likely to be the cause."""
        kind, layer, d = self.quantity
        if kind in ON_TAPE:
            position = (self.config.T - 1 - self.steps[0] if d else self.steps[0]) if self.steps else 0
            return layer, d, position, ON_TAPE.index(kind)
        return len(GATES) + layer, d, 0, 0

    def __str__(self) -> str:
        if self.got.shape != self.ref.shape:
            return f"{self.quantity}: expected the shape {self.ref.shape}, got {self.got.shape}"
        with np.errstate(invalid="ignore"):
            distance = np.where(self.off, np.abs(self.got - self.ref), 0.0)
        distance = np.where(np.isnan(distance), np.inf, distance)
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(distance)), distance.shape))
        words = f"{self.quantity}: {self.off.sum()} of {self.off.size} wrong"
        if self.gates:
            good = [gate for gate in GATES if gate not in self.gates]
            words += f", in gate {' and '.join(self.gates)}" + (f" ({' and '.join(good)} right)" if good else "")
        if self.steps:
            first = "first computed" if self.quantity.d or self.quantity.kind == "dx" else "first"
            words += f", at t = {_listed(sorted(self.steps))} of {len(self.got)}, {first} at t = {self.steps[0]}"
        times = distance[at] / self.limit if self.limit > 0 else float("inf")
        words += f"; worst at {list(at)}: got {self.got[at]:.9g}, expected {self.ref[at]:.9g}"
        return f"{words}, {times:.3g} times the bound"


def _listed(steps: list[int]) -> str:
    return (
        ", ".join(map(str, steps))
        if len(steps) <= 8
        else f"{steps[0]}, {steps[1]} ... {steps[-1]} ({len(steps)} steps)"
    )


def _report(wrong: list[_Wrong], right: list[Quantity], config: Config, judge: Judge) -> str:
    """What is likely to be the cause first, then everything that is off, then what is right."""
    wrong = sorted(wrong, key=lambda one: one.cause)
    wanted = expected(config, judge.dtype)
    lines = [f"{one}{_taken_for(one, wanted)}" for one in wrong[:12]]
    if len(wrong) > len(lines):
        lines.append(f"and {len(wrong) - len(lines)} more")
    partly = {one.quantity.kind for one in wrong}
    named = dict.fromkeys(str(q) if q.kind in partly else q.kind for q in right)
    lines.append(f"right: {', '.join(named) or 'nothing'}")
    lines.append(f"in {config}, {judge.dtype}, {judge.target}")
    return "\n  ".join(lines)


def _taken_for(one: _Wrong, wanted: Mapping[Quantity, A | None]) -> str:
    """Says so where a gate is another one at the first step that is off; later its state is another one too."""
    if one.quantity.kind not in GATES or not one.steps:
        return ""
    step = one.steps[0]
    for gate in GATES:
        ref = wanted[one.quantity._replace(kind=gate)]
        if ref is not None and largest_error(one.got[step], ref[step]) <= one.limit:
            return f"; at t = {step} it is what {gate} should be"
    return ""
