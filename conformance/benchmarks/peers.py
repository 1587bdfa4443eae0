"""The peers of gru_xp on the CPU, each as an engine of `gru_xp_conformance.timing`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp_conformance.timing import Problem

__all__ = ["PEERS"]


class Torch:
    """torch.nn.GRU with autograd."""

    def __init__(self, problem: Problem):
        import torch

        x, dy, params = problem.x, problem.dy, problem.params
        self.torch = torch
        D, H = len(params[0]), params[0][0][1].shape[1]
        self.module = torch.nn.GRU(x.shape[2], H, len(params), bidirectional=D == 2)
        with torch.no_grad():
            for layer, directions in enumerate(params):
                for d, weights in enumerate(directions):
                    for name, weight in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True):
                        getattr(self.module, f"{name}_l{layer}{'_reverse' * d}").copy_(torch.from_numpy(weight))
        self.x, self.dy = torch.from_numpy(x), torch.from_numpy(dy)
        self.x_grad = self.x.clone().requires_grad_()

    def inference(self) -> Any:
        with self.torch.inference_mode():
            return self.module(self.x)[0].numpy()

    def training(self) -> None:
        self.module.zero_grad()
        self.x_grad.grad = None
        self.module(self.x_grad)[0].backward(self.dy)

    def gradients(self, _: None) -> Any:
        weights = [weight.grad for directions in self.module.all_weights for weight in directions]
        return [self.x_grad.grad, *weights]


class Jax:
    """The textbook GRU in JAX: one input product, lax.scan, jit."""

    def __init__(self, problem: Problem):
        import jax
        import jax.numpy as jnp

        x, dy, params = problem.x, problem.dy, problem.params

        def layer(x: Any, w: Any, reverse: bool) -> Any:
            W_ih, W_hh, b_ih, b_hh = w
            H = W_hh.shape[1]

            def step(h: Any, gi: Any) -> Any:
                gh = h @ W_hh.T + b_hh
                r, z = jax.nn.sigmoid(gi[:, :H] + gh[:, :H]), jax.nn.sigmoid(gi[:, H : 2 * H] + gh[:, H : 2 * H])
                n = jnp.tanh(gi[:, 2 * H :] + r * gh[:, 2 * H :])
                h = (1 - z) * n + z * h
                return h, h

            h0 = jnp.zeros((x.shape[1], H), x.dtype)
            return jax.lax.scan(step, h0, x @ W_ih.T + b_ih, reverse=reverse)[1]

        def gru(x: Any, params: Any) -> Any:
            for directions in params:
                x = jnp.concatenate([layer(x, w, d == 1) for d, w in enumerate(directions)], axis=-1)
            return x

        self.x, self.dy = jnp.asarray(x), jnp.asarray(dy)
        self.params = jax.tree.map(jnp.asarray, params)
        self.run = jax.jit(gru)
        self.gradient = jax.jit(jax.grad(lambda x, params: (gru(x, params) * self.dy).sum(), (0, 1)))
        self.block = jax.block_until_ready

    def inference(self) -> Any:
        return self.block(self.run(self.x, self.params))

    def training(self) -> Any:
        return self.block(self.gradient(self.x, self.params))

    def gradients(self, trained: Any) -> Any:
        dx, dparams = trained
        return [dx, *(a for directions in dparams for dw in directions for a in dw)]


class Onnxruntime:
    """The GRU operator of onnxruntime; it has no training."""

    def __init__(self, problem: Problem):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(onnx_model(problem.x.shape, problem.params))
        self.x = problem.x

    def inference(self) -> Any:
        return self.session.run(None, {"x": self.x})[0]


class Openvino:
    """OpenVINO's GRUSequence, from the same file; it has no training."""

    def __init__(self, problem: Problem):
        import openvino

        model = openvino.Core().read_model(onnx_model(problem.x.shape, problem.params))
        # where the processor has instructions for it, it would compute in bfloat16
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self.request = openvino.compile_model(model, "CPU", options).create_infer_request()
        self.x = openvino.Tensor(problem.x, shared_memory=True)

    def inference(self) -> Any:
        return self.request.infer({0: self.x}, share_outputs=True)[0]


def onnx_model(shape: tuple[int, ...], params: Any) -> bytes:
    """A file of the ONNX format, opset 17, written by hand: each layer's Y (T, D, N, H) as (T, N, D*H)."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    def field(number: int, value: Any) -> bytes:
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        value = value.encode() if isinstance(value, str) else value
        return varint(number << 3 | 2) + varint(len(value)) + value

    def tensor(name: str, a: Any) -> bytes:
        kind = 1 if a.dtype == np.float32 else 7
        return field(8, name) + b"".join(field(1, n) for n in a.shape) + field(2, kind) + field(9, a.tobytes())

    def attribute(name: str, value: Any) -> bytes:
        if isinstance(value, int):
            return field(1, name) + field(3, value) + field(20, 2)
        if isinstance(value, str):
            return field(1, name) + field(4, value) + field(20, 3)
        return field(1, name) + b"".join(field(8, n) for n in value) + field(20, 7)

    def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> bytes:
        parts = [field(1, name) for name in inputs] + [field(2, name) for name in outputs] + [field(4, kind)]
        return b"".join(parts + [field(5, attribute(*pair)) for pair in attributes.items()])

    def value(name: str, dims: tuple[int, ...]) -> bytes:
        dimensions = b"".join(field(1, field(1, n)) for n in dims)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dimensions)))

    def gates(a: Any) -> Any:  # r, z, n -> z, r, n
        r, z, n = np.split(a, 3)
        return np.concatenate([z, r, n])

    T, N, _ = shape
    D, H = len(params[0]), params[0][0][1].shape[1]
    body, last = b"", "x"
    for layer, directions in enumerate(params):
        names = [f"{name}{layer}" for name in "WRB"]
        stacked = [np.stack([gates(w[i]) for w in directions]) for i in (0, 1)]
        stacked.append(np.stack([np.concatenate([gates(w[2]), gates(w[3])]) for w in directions]))
        body += b"".join(field(5, tensor(name, a)) for name, a in zip(names, stacked, strict=True))
        direction = "bidirectional" if D == 2 else "forward"
        options: Any = {"hidden_size": H, "linear_before_reset": 1, "direction": direction}
        body += field(1, node("GRU", [last, *names], [f"Y{layer}"], **options))
        body += field(1, node("Transpose", [f"Y{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]))
        body += field(5, tensor(f"s{layer}", np.array([T, N, D * H])))
        body += field(1, node("Reshape", [f"t{layer}", f"s{layer}"], [f"y{layer}"]))
        last = f"y{layer}"
    graph = body + field(2, "g") + field(11, value("x", shape)) + field(12, value(last, (T, N, D * H)))
    return field(1, 8) + field(7, graph) + field(8, field(2, 17))


PEERS = {"torch": Torch, "jax": Jax, "onnxruntime": Onnxruntime, "openvino": Openvino}
