"""JAX: the backend. Its loop over time is `lax.scan`, and each call is compiled once for its shapes.

The kernel for the CPU: `cpu.py` over `operations.py`. Differentiation of the plain path: `autodiff.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from gru_xp.backend import Backend, Step
from gru_xp.cell import Gates
from gru_xp.kernels import stack_for
from gru_xp.params import LayerTape, Tape
from gru_xp.stack import Stack

from .autodiff import DifferentiableLayer
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


class JaxBackend(Backend):
    """JAX arrays and tracers on any of its devices."""

    name = "jax"
    xp = jnp

    def owns(self, array: Any) -> bool:
        return isinstance(array, jax.Array)

    def float_names(self) -> tuple[str, ...]:
        # read at every call, because jax_enable_x64 can be switched
        return self._float_names if _setting("jax_enable_x64") else self._float_names[:-1]

    def devices(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(self.device_name, [*jax.devices(), *jax.devices("cpu")])))

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

    def _device(self, name: str) -> Any:
        return next(d for d in [*jax.devices(), *jax.devices("cpu")] if self.device_name(d) == name)

    def to_device(self, array: Any, device: Any) -> Any:
        if device is None or self.device_of(array) == device:
            return array
        with jax.ensure_compile_time_eval():  # what is kept may not be part of what is being traced
            return jax.device_put(array, device)

    def refuses_crossing(self, array: Any) -> str | None:
        return "is traced (by jit, grad or vmap)" if isinstance(array, jax.core.Tracer) else None

    def requires_grad(self, array: Any) -> bool:
        return isinstance(array, jax.core.Tracer)

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

    def owned(self, array: Any) -> Any:
        return array

    def handed_out(self, array: Any) -> Any:
        return array

    def rows_times(self, a: Any, B: Any) -> Any:
        return a @ B  # N may be sharded, and to merge it with T would gather it

    def sum_of_rows(self, a: Any) -> Any:
        # as a product, which XLA is faster at on a CPU
        ones = jnp.ones_like(a[..., 0])
        return jnp.tensordot(ones, a, axes=((0, 1), (0, 1)), precision=jax.lax.Precision.HIGHEST)

    def scan(
        self, step: Step, carry: Any, xs: tuple[Any, ...], *, reverse: bool = False
    ) -> tuple[Any, tuple[Any, ...]]:
        carry, _ = alike((carry, xs))
        return jax.lax.scan(step, carry, xs, reverse=reverse)

    def compiled(self, stack: Any) -> Any:
        return _Compiled(stack)

    def modes(self) -> dict[str, str]:
        return {
            "jax_enable_x64": str(_setting("jax_enable_x64")),
            "matmul precision": str(_setting("jax_default_matmul_precision") or "default"),
            "platform": jax.devices()[0].client.platform_version.partition("\n")[0],
        }

    def wait(self, array: Any) -> None:
        array.block_until_ready()

    def full_precision(self) -> AbstractContextManager[Any]:
        return jax.default_matmul_precision("highest")

    def recording(self, arrays: list[Any]) -> bool:
        return any(isinstance(a, jax.core.Tracer) for a in arrays)

    def differentiable(self, choose: Callable[[], Any]) -> Any:
        kernel = choose()
        return _differentiable(self) if kernel is None else stack_for(self, kernel)


@cache
def _differentiable(backend: JaxBackend) -> Any:
    """The stack over layers with a derivative of their own; the same object each time, as `jax.jit` needs it."""
    return backend.compiled(Stack(backend.xp, DifferentiableLayer(backend, Gates(backend.xp))))


def _setting(name: str) -> Any:
    """One of JAX's options as it is in this thread and context."""
    return getattr(jax.config, name)


class _Compiled:
    """A stack under `jax.jit`: without it each call of `lax.scan` outside a user's own jit would compile anew."""

    def __init__(self, stack: Any):
        stack = OnMeshes(stack)
        self.name = stack.name
        self.inference = partial(jax.jit, static_argnames=("spec",))(stack.inference)
        self.forward = partial(jax.jit, static_argnames=("spec", "save"))(stack.forward)
        self.backward = jax.jit(stack.backward)
