"""JAX: the backend. Its loop over time is `lax.scan`, and each call is compiled once for its shapes.

The kernel for the CPU: `cpu.py` over `operations.py`. Differentiation of the plain path: `autodiff.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from gru_xp.backend import HALF, Backend, Purpose, Recorded, Step, stack_over
from gru_xp.cell import Gates
from gru_xp.errors import NotDifferentiableError
from gru_xp.integers import NO_GRADIENT, IntegerMatrix
from gru_xp.interfaces import Options
from gru_xp.params import LayerTape, Tape
from gru_xp.stack import Stack

from . import pytrees  # noqa: F401 - registers models
from .autodiff import DifferentiableLayer, PlainLayer
from .meshes import OnMeshes, alike
from .trees import to_equinox, to_linen, to_nnx

__all__ = ["JaxBackend", "to_equinox", "to_linen", "to_nnx"]

jax.tree_util.register_dataclass(
    LayerTape,
    data_fields=["x", "h_prev", "r", "z", "n", "u", "w", "valid", "resets"],
    meta_fields=["spec", "reverse"],
)
jax.tree_util.register_dataclass(
    Tape,
    data_fields=["layers", "params", "valid", "resets", "dropout_masks"],
    meta_fields=["spec", "batched", "place", "caller"],
)


jax.tree_util.register_dataclass(Options, data_fields=["valid", "resets"], meta_fields=["spec", "reverse", "save"])


class JaxBackend(Backend):
    """JAX arrays and tracers on any of its devices."""

    name = "jax"
    xp = jnp
    layer_type = PlainLayer
    writes = False

    def owns(self, array: Any) -> bool:
        return isinstance(array, jax.Array) or hasattr(type(array), "__jax_array__")

    def canonical(self, array: Any) -> Any:
        """What `__jax_array__` returns, as flax.nnx.Param has it."""
        return array if isinstance(array, jax.Array) else array.__jax_array__()

    def float_names(self) -> tuple[str, ...]:
        # read at every call, because jax_enable_x64 can be switched
        return self._float_names if _setting("jax_enable_x64") else self._float_names[:-1]

    def devices(self) -> Mapping[str, Any]:
        return {self.device_name(device): device for device in [*jax.devices(), *jax.devices("cpu")]}

    def device_of(self, array: Any) -> Any:
        """A device; None, which leaves the choice to JAX, for what is traced or lies on several."""
        if isinstance(array, jax.core.Tracer) or len(array.sharding.device_set) > 1:
            return None
        return array.device

    def device_beside(self, array: Any) -> Any:
        """None for an uncommitted array, so that what is created stays uncommitted too."""
        device = self.device_of(array)
        return device if device is not None and array.committed else None

    def beside(self, first: Any, second: Any) -> bool:
        if isinstance(first, jax.core.Tracer) or isinstance(second, jax.core.Tracer):
            return True
        if not (first.committed and second.committed):
            return True  # JAX brings an uncommitted array to wherever the others are
        return bool(first.sharding.device_set == second.sharding.device_set)

    def device_name(self, device: Any) -> str:
        if device is None:
            return "traced or sharded"
        platform = "cuda" if device.platform == "gpu" else device.platform
        return "cpu" if platform == "cpu" and device.id == 0 else f"{platform}:{device.id}"

    def to_device(self, array: Any, device: Any) -> Any:
        if device is None or isinstance(array, jax.core.Tracer) or self.device_of(array) == device:
            return array
        with jax.ensure_compile_time_eval():  # what is kept may not be part of what is being traced
            return jax.device_put(array, device)

    def refuses_crossing(self, array: Any, purpose: Purpose) -> str | None:
        if isinstance(array, jax.core.Tracer):
            return "is traced (by jit, grad or vmap)"
        if purpose != "copy" and len(array.devices()) > 1:
            return f"is sharded over {len(array.devices())} devices, and results would come back to one"
        return None

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        if to_host or len(array.devices()) > 1:
            array = jax.device_put(array, jax.devices("cpu")[0])
        return array

    def from_dlpack(self, array: Any, device: Any) -> Any:
        # Copied, because JAX takes its arrays to be immutable and others write to theirs. On the default device the
        # result is left uncommitted, so that JAX may bring it to where it is needed.
        with jax.ensure_compile_time_eval():  # what comes from outside is no part of what is being traced
            imported = jax.dlpack.from_dlpack(array)
            if imported.device.platform != "cpu":
                return jax.device_put(jnp.array(imported, copy=True), device)
            copied = jax.device_get(imported).copy()
            return jnp.asarray(copied) if device in (None, jax.devices()[0]) else jax.device_put(copied, device)

    def cast(self, array: Any, name: str) -> Any:
        narrow = super().cast(array, name)
        # XLA may drop a cast to 16 bits and back (xla_allow_excess_precision)
        return jax.lax.optimization_barrier(narrow) if name in HALF else narrow  # type: ignore[no-untyped-call]

    def straight_through(self, function: Callable[[Any], Any], array: Any) -> Any:
        return _straight_through(array, function(jax.lax.stop_gradient(array)))

    def owned(self, array: Any) -> Any:
        return array

    def handed_out(self, array: Any) -> Any:
        return array

    def product(self, a: Any, B: Any, bias: Any = None) -> Any:
        out = a @ B  # N may be sharded, and to merge it with T would gather it
        return out if bias is None else out + bias

    def scan(
        self, step: Step, carry: Any, xs: tuple[Any, ...], *, reverse: bool = False
    ) -> tuple[Any, tuple[Any, ...]]:
        carry, _ = alike((carry, xs))
        return jax.lax.scan(step, carry, xs, reverse=reverse)

    def computing(self, device: Any, *, recorded: bool, precise: bool = False) -> AbstractContextManager[Any]:
        if precise:
            return jax.default_matmul_precision("highest")
        return super().computing(device, recorded=recorded)

    def key(self, arrays: Sequence[Any], more: Hashable = None) -> Hashable | None:
        """Shapes, dtypes and shardings, where nothing is traced."""
        found: list[Any] = []
        for a in arrays:
            if a is None:
                found.append(None)
            elif isinstance(a, jax.Array) and not isinstance(a, jax.core.Tracer):
                found.append((a.shape, a.dtype, a.sharding, a.committed))
            else:
                return None
        return more, _setting("jax_enable_x64"), tuple(found)

    def constant(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = jax.ensure_compile_time_eval()
        return context

    def recorded(self, arrays: Sequence[Any]) -> Recorded:
        return "traced" if any(isinstance(a, jax.core.Tracer) for a in arrays) else "no"

    def asks_gradient(self, arrays: Sequence[Any]) -> bool:
        return False  # known once a traced call is differentiated: then the stack of integers refuses

    def stack(self, kernel: Any = None, call: Any = None, recorded: Recorded = "no") -> Any:
        return _stack(self, kernel, kernel is None and recorded != "no")

    def integer_stack(self, gates: Any) -> Any:
        return _integer_stack(self, gates)

    def modes(self) -> dict[str, str]:
        return {
            "jax_enable_x64": str(_setting("jax_enable_x64")),
            "matmul precision": str(_setting("jax_default_matmul_precision") or "default"),
            "platform": jax.devices()[0].client.platform_version.partition("\n")[0],
        }

    def wait(self, array: Any) -> None:
        array.block_until_ready()


@cache
def _stack(backend: JaxBackend, kernel: Any, differentiable: bool) -> Any:
    """The stack under `jax.jit`; of plain layers with a derivative of their own if `differentiable`."""
    if differentiable:
        return _Compiled(Stack(jnp, DifferentiableLayer(backend, Gates(jnp))))
    return _Compiled(stack_over(backend, kernel))


@cache
def _integer_stack(backend: JaxBackend, gates: Any) -> Any:
    _register_integers()
    stack = _Compiled(Backend.integer_stack(backend, gates))
    stack.inference = jax.jit(_not_differentiable(stack.inference))
    return stack


@cache
def _register_integers() -> None:
    """Let `jax.jit` know the weights that round what they are multiplied with."""
    jax.tree_util.register_pytree_node(
        IntegerMatrix, lambda W: ((W.q, W.scale), W.least), lambda least, arrays: IntegerMatrix(*arrays, least, jnp)
    )


def _setting(name: str) -> Any:
    """One of JAX's options as it is in this thread and context."""
    return getattr(jax.config, name)


class _Compiled:
    """A stack under `jax.jit`: without it each call of `lax.scan` outside a user's own jit would compile anew."""

    def __init__(self, stack: Any):
        stack = OnMeshes(stack)
        self.name = stack.name
        self.inference, self.forward, self.backward = map(jax.jit, (stack.inference, stack.forward, stack.backward))


def _not_differentiable(function: Callable[..., Any]) -> Any:
    """The function, which is an error once JAX differentiates it: rounding would make wrong derivatives of it."""
    guarded = jax.custom_jvp(function)

    @guarded.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise NotDifferentiableError(NO_GRADIENT)

    return guarded


@jax.custom_jvp
def _straight_through(array: Any, values: Any) -> Any:
    return values


@_straight_through.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return primals[1], tangents[0]
