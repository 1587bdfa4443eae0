"""How near models of the frameworks come out here, and ours there: differences in units of eps * T, float32's eps.

    python tests/formats/test_frameworks.py       prints the table of docs/bring-your-model.md

Every model has random biases, several layers and directions where its framework has them, and lengths or a mask.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest

import gru_xp

T, N, I, H = 100, 5, 12, 20
LENGTHS = np.array([T, 1, 60, 99, 7])
VALID = np.arange(T)[:, None] < LENGTHS
MOST = 1  # eps * T
RNG = np.random.default_rng(0)
X = RNG.normal(size=(T, N, I)).astype("f4")
H0 = RNG.uniform(-1, 1, size=(4, N, H)).astype("f4")

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras, of its own arrays


class Ways(NamedTuple):
    """Results, each a pair of ours and theirs: of a model that came in, and of the same on its way back out."""

    came: tuple[Any, Any]
    went: tuple[Any, Any]


def randomized(arrays: dict[str, Any]) -> dict[str, Any]:
    """Of the same shapes, biases too."""
    return {name: RNG.uniform(-0.4, 0.4, size=a.shape).astype("f4") for name, a in arrays.items()}


def by_pytorch(folder: Path) -> Ways:
    torch = pytest.importorskip("torch")

    def run(module: Any) -> Any:
        packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(X), torch.tensor(LENGTHS), enforce_sorted=False)
        with torch.no_grad():
            y, h_n = module(packed, torch.tensor(H0))
        return torch.nn.utils.rnn.pad_packed_sequence(y)[0].numpy(), h_n.numpy()

    there = torch.nn.GRU(I, H, 2, bidirectional=True)
    there.load_state_dict({k: torch.tensor(a) for k, a in randomized(there.state_dict()).items()})
    torch.save(there.state_dict(), folder / "m.pt")
    model = gru_xp.load(folder / "m.pt")
    model.save(folder / "back.pt")
    back = torch.nn.GRU(I, H, 2, bidirectional=True)
    back.load_state_dict(torch.load(folder / "back.pt", weights_only=True))
    ours = model(X, H0, lengths=LENGTHS)
    return Ways((ours, run(there)), (ours, run(back)))


def by_onnxruntime(folder: Path) -> Ways:
    torch, runtime = pytest.importorskip("torch"), pytest.importorskip("onnxruntime")
    module = torch.nn.GRU(I, H, 2, bidirectional=True).eval()
    module.load_state_dict({k: torch.tensor(a) for k, a in randomized(module.state_dict()).items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter, of itself
        given, names = (torch.tensor(X), torch.tensor(H0)), ["x", "h0"]
        torch.onnx.export(module, given, str(folder / "m.onnx"), dynamo=False, input_names=names)

    def run(path: Path, **given: Any) -> Any:
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return session.run(None, given)

    model = gru_xp.load(folder / "m.onnx")
    model.save(folder / "back.onnx")
    went = run(folder / "back.onnx", x=X, h0=H0, lengths=LENGTHS.astype("i4"))
    return Ways((model(X, H0), run(folder / "m.onnx", x=X, h0=H0)), (model(X, H0, lengths=LENGTHS), went))


def by_keras(folder: Path) -> Ways:
    keras = pytest.importorskip("keras")
    L, mask = keras.layers, VALID.T

    def run(model: Any) -> Any:
        y = X.swapaxes(0, 1)
        for layer in model.layers:
            y = layer(y, mask=mask)
        return (keras.ops.convert_to_numpy(y),)

    there = keras.Sequential([keras.Input((None, I))])
    for _ in range(2):
        there.add(L.Bidirectional(L.GRU(H, return_sequences=True)))
    there.set_weights(list(randomized(dict(enumerate(there.get_weights()))).values()))
    there.save(folder / "m.keras")
    model = gru_xp.load(folder / "m.keras")
    model.save(folder / "back.keras")
    ours = model(X.swapaxes(0, 1), lengths=LENGTHS)[:1]
    return Ways((ours, run(there)), (ours, run(keras.saving.load_model(folder / "back.keras"))))


def by_linen(folder: Path) -> Ways:
    jax, nn = pytest.importorskip("jax"), pytest.importorskip("flax.linen")
    import gru_xp_jax

    layer = nn.Bidirectional(nn.RNN(nn.GRUCell(H)), nn.RNN(nn.GRUCell(H)), time_major=True)

    def run(layers: Any) -> Any:
        y = X
        for params in layers:
            y = layer.apply({"params": params}, y, seq_lengths=LENGTHS)
        return (np.where(VALID[..., None], y, 0),)  # Flax puts out what its cell makes of the padding

    there = []
    for size in (I, 2 * H):
        shapes = jax.eval_shape(layer.init, jax.random.key(0), np.zeros((T, N, size), "f4"))["params"]
        leaves, tree = jax.tree.flatten(shapes)
        there.append(jax.tree.unflatten(tree, randomized(dict(enumerate(leaves))).values()))
    model = gru_xp.from_framework({"a": there[0], "b": there[1]}, name="a+b")
    cells = gru_xp_jax.to_linen(model).cells
    back = [{"forward_rnn": {"cell": one}, "backward_rnn": {"cell": other}} for one, other in cells]
    ours = model(X, lengths=LENGTHS)[:1]
    return Ways((ours, run(there)), (ours, run(back)))


def by_nnx(folder: Path) -> Ways:
    nnx = pytest.importorskip("flax.nnx")
    import gru_xp_jax

    def layer(one: Any, other: Any) -> Any:
        return nnx.Bidirectional(nnx.RNN(one), nnx.RNN(other), time_major=True)

    def run(layers: Any) -> Any:
        y = X
        for each in layers:
            y = each(y, seq_lengths=LENGTHS)
        return (np.where(VALID[..., None], y, 0),)

    there = []
    for size in (I, 2 * H):
        made = layer(*(nnx.GRUCell(size, H, rngs=nnx.Rngs(0)) for _ in range(2)))
        for cell in (made.forward_rnn.cell, made.backward_rnn.cell):
            for parameter in (cell.dense_i.kernel, cell.dense_i.bias, cell.dense_h.kernel):
                parameter[...] = RNG.uniform(-0.4, 0.4, size=parameter.shape).astype("f4")
        there.append(made)
    models = [gru_xp.from_framework(each) for each in there]
    params = tuple(layer for model in models for layer in model.params)
    model = gru_xp.GRU.from_params(params)
    back = [layer(*cells) for cells in gru_xp_jax.to_nnx(model).cells]
    ours = model(X, lengths=LENGTHS)[:1]
    return Ways((ours, run(there)), (ours, run(back)))


def by_equinox(folder: Path) -> Ways:
    jax, equinox = pytest.importorskip("jax"), pytest.importorskip("equinox")
    import gru_xp_jax

    def run(cells: Any) -> Any:
        y, states = X, []
        for cell in cells:

            def step(h: Any, x: Any, cell: Any = cell) -> Any:
                h = jax.vmap(cell)(x, h)
                return h, h

            h, y = jax.lax.scan(step, np.zeros((N, H), "f4"), y)
            states.append(h)
        return y, np.stack(states)

    there = []
    for size in (I, H):
        leaves, tree = jax.tree.flatten(equinox.nn.GRUCell(size, H, key=jax.random.key(0)))
        there.append(jax.tree.unflatten(tree, map(jax.numpy.asarray, randomized(dict(enumerate(leaves))).values())))
    model = gru_xp.from_framework({"a": there[0], "b": there[1]}, name="a+b")
    ours = model(X)
    return Ways((ours, run(there)), (ours, run([cell for (cell,) in gru_xp_jax.to_equinox(model).cells])))


def by_mlx(folder: Path) -> Ways:
    mx, nn = pytest.importorskip("mlx.core"), pytest.importorskip("mlx.nn")

    def run(layers: Any) -> Any:
        return (np.array(layers(mx.array(X.swapaxes(0, 1)))),)

    there, back = (nn.Sequential(nn.GRU(I, H), nn.GRU(H, H)) for _ in range(2))
    for layer in there.layers:
        layer.update({name: mx.array(a) for name, a in randomized(layer.parameters()).items()})
    there.save_weights(str(folder / "m.safetensors"))
    model = gru_xp.load(folder / "m.safetensors", name="layers.0+layers.1")
    model.save(folder / "back.safetensors", format="mlx")
    back.load_weights(str(folder / "back.safetensors"))
    ours = model(X.swapaxes(0, 1))[:1]
    return Ways((ours, run(there)), (ours, run(back)))


FRAMEWORKS: dict[str, tuple[Callable[[Path], Ways], str, tuple[str, ...]]] = {
    "PyTorch": (by_pytorch, "2 layers, 2 directions, first state, lengths", ("torch",)),
    "onnxruntime": (by_onnxruntime, "2 layers, 2 directions, first state; lengths on the way out", ("onnxruntime",)),
    "Keras on PyTorch": (by_keras, "2 layers, 2 directions, mask", ("keras",)),
    "Flax linen": (by_linen, "2 layers, 2 directions, lengths", ("flax",)),
    "Flax NNX": (by_nnx, "2 layers, 2 directions, lengths", ("flax",)),
    "Equinox": (by_equinox, "2 layers", ("equinox",)),
    "MLX": (by_mlx, "2 layers", ("mlx",)),
}


def units(ours: Any, theirs: Any) -> float:
    """The largest difference."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and np.abs(b).max() > 0.1
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)) / (T * np.finfo("f4").eps)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_conversions_differ_by_rounding_alone(name: str, tmp_path: Path) -> None:
    for pair in FRAMEWORKS[name][0](tmp_path):
        assert units(*pair) <= MOST


def main() -> None:
    """Print the table."""
    from importlib.metadata import version

    print("| | seen with | in | out |\n|---|---|--:|--:|")
    for name, (measure, what, packages) in FRAMEWORKS.items():
        came, went = (units(*pair) for pair in measure(Path(tempfile.mkdtemp())))
        versions = ", ".join(version(package) for package in packages)
        print(f"| {name} {versions} | {what} | {came:.2f} | {went:.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
