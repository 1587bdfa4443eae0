"""What each format says of an option is what its reader does: each is set to a value that is not its default."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox
import flax.linen as linen
import jax
import jax.numpy as jnp
import mlx.core as mx
import mlx.nn
import numpy as np
import options_of_onnx
import options_of_tensorflow
import options_of_torch
import pytest
import torch
from flax import nnx
from option_case import RNG, Case, H, I, N, T, X, rows

import gru_xp
from gru_xp import errors, files
from gru_xp.formats.keras.options import SOURCES
from gru_xp.formats.live import BIDIRECTIONAL, EQUINOX, MLX, NNX, RNN


def drawn(tree: Any) -> Any:
    """The same tree with other numbers, biases among them, which frameworks begin at zero."""
    return jax.tree.map(lambda a: jnp.asarray(RNG.uniform(-0.7, 0.7, a.shape), a.dtype), tree)


# ---- names -----------------------------------------------------------------------------------------------------------


def of_torch(kind: Any = torch.nn.GRU, *, size: int = I, hidden: int = H, **options: Any) -> Case:
    torch.manual_seed(0)
    dtype = options.pop("dtype", torch.float32)
    layer = kind(size, hidden, **options).to(dtype).eval()
    x = torch.tensor(np.resize(X, (T, N, size)), dtype=dtype)
    with torch.no_grad():
        if kind is torch.nn.GRU:
            y = layer(x.swapaxes(0, 1))[0].swapaxes(0, 1) if layer.batch_first else layer(x)[0]
        else:
            state, states = None, []
            for x_t in x:
                states.append(state := layer(x_t, state))
            y = torch.stack(states)
    return Case({name: a.numpy() for name, a in layer.state_dict().items()}, y.numpy(), str(dtype).rpartition(".")[2])


def of_an_lstm() -> Case:
    layer = torch.nn.LSTM(I, H, proj_size=2)
    return Case({name: a.numpy() for name, a in layer.state_dict().items()}, None)


def of_equinox(*, live: bool, size: int = I, hidden: int = H, **options: Any) -> Case:
    cell = drawn(equinox.nn.GRUCell(size, hidden, key=jax.random.key(0), **options))
    state, states = jnp.zeros((N, hidden), cell.weight_hh.dtype), []
    for x_t in jnp.asarray(np.resize(X, (T, N, size)), cell.weight_hh.dtype):
        states.append(state := jax.vmap(cell)(x_t, state))
    names = ("weight_ih", "weight_hh", "bias", "bias_n")
    thing = cell if live else {n: np.asarray(a) for n in names if (a := getattr(cell, n)) is not None}
    return Case(thing, np.stack(states), cell.weight_hh.dtype.name)


def of_linen(cell: Any = None, features: int = H, **options: Any) -> Case:
    layer = linen.RNN(linen.GRUCell(features, **(cell or {})), **({"time_major": True} | options))
    x = jnp.asarray(X if layer.time_major else rows(X), (cell or {}).get("param_dtype", "f4"))
    variables = drawn(layer.init(jax.random.key(0), x))
    y = layer.apply(variables, x)
    return Case(jax.tree.map(np.asarray, variables), y if layer.time_major else rows(y), variables_dtype(variables))


def variables_dtype(tree: Any) -> str:
    return jax.tree.leaves(tree)[0].dtype.name


def of_nnx(cell: Any = None, size: int = I, hidden: int = H, *, live: bool = True, **options: Any) -> Case:
    inner = nnx.GRUCell(size, hidden, rngs=nnx.Rngs(0), **(cell or {}))
    nnx.update(inner, drawn(nnx.state(inner, nnx.Param)))
    layer = nnx.RNN(inner, **({"time_major": True} | options))
    x = jnp.asarray(np.resize(X, (T, N, size)), (cell or {}).get("param_dtype", "f4"))
    y = layer(x if layer.time_major else rows(x))
    y = y[1] if layer.return_carry else y
    thing = layer if live else nnx.to_pure_dict(nnx.state(layer, nnx.Param))
    return Case(thing, y if layer.time_major else rows(y), inner.dense_h.kernel[...].dtype.name)


def of_both(half: Any = None, **options: Any) -> Case:
    halves = [of_nnx(**(half or {})).thing for _ in range(2)]
    layer = nnx.Bidirectional(*halves, **({"time_major": True} | options))
    y = layer(jnp.asarray(X if layer.time_major else rows(X)))
    y = y[1] if layer.return_carry else y
    return Case(layer, y if layer.time_major else rows(y))


def of_a_cell() -> Case:
    case = of_nnx(time_major=False)
    return Case(case.thing.cell, case.y)


def of_mlx(*, live: bool, size: int = I, hidden: int = H, **options: Any) -> Case:
    layer = mlx.nn.GRU(size, hidden, **options)
    y = rows(np.array(layer(mx.array(rows(np.resize(X, (T, N, size)))))))
    return Case(layer if live else {name: np.array(a) for name, a in layer.parameters().items()}, y)


def half_precision() -> Case:
    case = of_mlx(live=False)
    return Case({name: a.astype("f2") for name, a in case.thing.items()}, case.y, "float16")


def of_arraymancer(**options: Any) -> Case:
    case = of_torch(**({"num_layers": 2} | options))
    L = sum("weight_hh" in name for name in case.thing)
    arrays = [np.stack([case.thing[f"{kind}_l{n}"] for n in range(L)]) for kind in ("weight_hh", "bias_ih", "bias_hh")]
    upper = [case.thing[f"weight_ih_l{n}"] for n in range(1, L)]
    names = ("U3s", "bW3s", "bU3s", "W3s0", *(["W3sN"] if upper else []))
    given = (
        arrays[0],
        *(a[:, None] for a in arrays[1:]),
        case.thing["weight_ih_l0"],
        *([np.stack(upper)] if upper else []),
    )
    return Case(dict(zip(names, given, strict=True)), case.y, case.dtype)


# ---- files -----------------------------------------------------------------------------------------------------------


def own(**options: Any) -> Callable[[Path], Case]:
    def made(folder: Path) -> Case:
        model = gru_xp.GRU(**({"input_size": I, "hidden_size": H, "seed": 0} | options))
        model.save(folder / "m.safetensors")
        x = np.resize(X, (T, N, model.input_size)).astype(model.dtype)
        y = rows(model(rows(x))[0]) if model.batch_first else model(x)[0]
        again = gru_xp.load(folder / "m.safetensors")
        assert repr(again) == repr(model) and again.report is not None and again.report.exact
        return Case(folder / "m.safetensors", y, model.dtype)

    return made


def rtneural(change: Callable[[Any], None] = lambda layers: None, layers: int = 1, hidden: int = H) -> Any:
    """Keras's arrays by hand, from PyTorch's: gates z, r, n, transposed."""

    def made(folder: Path) -> Case:
        case = of_torch(num_layers=layers, hidden=hidden)

        def turned(a: Any) -> Any:
            r, z, n = np.split(a, 3)
            return np.concatenate([z, r, n]).T.tolist()

        content = []
        for n in range(layers):
            arrays = [turned(case.thing[f"{kind}_l{n}"]) for kind in ("weight_ih", "weight_hh")]
            biases = [turned(case.thing[f"{kind}_l{n}"]) for kind in ("bias_ih", "bias_hh")]
            content.append(
                {"type": "gru", "activation": "", "shape": [None, None, hidden], "weights": [*arrays, biases]}
            )
        change(content)
        (folder / "m.json").write_text(json.dumps({"in_shape": [None, None, I], "layers": content}))
        return Case(folder / "m.json", case.y)

    return made


def relu(layers: Any) -> None:
    layers[0]["activation"] = "relu"


def plain_sum(a: Any, b: Any) -> Any:
    return a + b


def promoted(arrays: Any, dtype: Any = None, inexact: bool = True) -> Any:
    return arrays


Made = Callable[[], Case] | Callable[[Path], Case]
RELU, ONES = {"activation_fn": jax.nn.relu}, {"carry_init": linen.initializers.ones_init()}
HALF = {"param_dtype": jnp.float16, "recurrent_kernel_init": linen.initializers.lecun_normal()}
FLAX: dict[str, Any] = {"gate_fn": {"gate_fn": jax.nn.hard_sigmoid}, "activation_fn": RELU, "carry_init": ONES}
SHAPES: dict[str, dict[str, Any]] = {"input_size": {"size": 5}, "hidden_size": {"hidden": 5}}
TORCH: dict[str, dict[str, Any]] = {
    **SHAPES,
    "num_layers": {"num_layers": 3},
    "bias": {"bias": False},
    "bidirectional": {"bidirectional": True},
    "dtype": {"dtype": torch.float64},
    "batch_first": {"batch_first": True},
    "dropout": {"num_layers": 2, "dropout": 0.5},
}
OWN: dict[str, Any] = {
    "input_size": 5,
    "hidden_size": 5,
    "num_layers": 3,
    "bias": False,
    "batch_first": True,
    "dropout": 0.25,
    "bidirectional": True,
    "reset_after": False,
    "gate_activation": "relu",
    "candidate_activation": "softsign",
    "clip": 0.5,
    "reverse": True,
    "padding": "hold",
    "dtype": "float64",
}
NNX_CASES: dict[str, Made] = {
    "in_features": lambda: of_nnx(size=5),
    "hidden_features": lambda: of_nnx(hidden=5),
    "param_dtype": lambda: of_nnx(HALF),
    "gate_fn": lambda: of_nnx(FLAX["gate_fn"]),
    "activation_fn": lambda: of_nnx(RELU),
    "dtype": lambda: of_nnx({"dtype": jnp.float16}),
    "promote_dtype": lambda: of_nnx({"promote_dtype": promoted}),
    "carry_init": lambda: of_nnx(ONES),
    "batch_first": of_a_cell,
    **dict.fromkeys(("dense_i", "dense_h", "rngs"), of_nnx),
}
CASES: dict[str, dict[str, Made]] = {
    "gru_xp's own files": {name: own(**{name: value}) for name, value in OWN.items()},
    **options_of_torch.CASES,
    **options_of_onnx.CASES,
    **options_of_tensorflow.CASES,
    "PyTorch's names: weight_ih_l0": {
        **{name: lambda options=options: of_torch(**options) for name, options in TORCH.items()},
        **options_of_torch.NAMES,
        "proj_size": of_an_lstm,
    },
    "a PyTorch cell's names: weight_ih": {
        name: lambda options=TORCH[name]: of_torch(torch.nn.GRUCell, **options)
        for name in ("input_size", "hidden_size", "bias", "dtype")
    }
    | {"batch_first": lambda: of_torch(torch.nn.GRUCell)},
    "Equinox's names: weight_ih, bias_n": {
        **{name: lambda options=options: of_equinox(live=False, **options) for name, options in SHAPES.items()},
        "use_bias": lambda: of_equinox(live=False, use_bias=False),
        "dtype": lambda: of_equinox(live=False, dtype=jnp.float16),
        "batch_first": lambda: of_equinox(live=False),
    },
    "Flax linen's names: ir.kernel": {
        **{name: lambda cell=cell: of_linen(cell) for name, cell in FLAX.items()},
        "features": lambda: of_linen(features=5),
        "param_dtype": lambda: of_linen(HALF),
        "reverse": lambda: of_linen(reverse=True),
        "time_major": lambda: of_linen(time_major=False),
    },
    "Flax NNX's names: dense_i.kernel": {
        **{name: lambda cell=cell: of_nnx(cell, live=False) for name, cell in FLAX.items()},
        "in_features": lambda: of_nnx(size=5, live=False),
        "hidden_features": lambda: of_nnx(hidden=5, live=False),
        "param_dtype": lambda: of_nnx(HALF, live=False),
        "reverse": lambda: of_nnx(reverse=True, live=False),
        "time_major": lambda: of_nnx(time_major=False, live=False),
    },
    "MLX's names: Wx": {
        **{name: lambda options=options: of_mlx(live=False, **options) for name, options in SHAPES.items()},
        "bias": lambda: of_mlx(live=False, bias=False),
        "dtype": half_precision,
    },
    "Arraymancer's names: W3s0": {
        **{name: lambda options=options: of_arraymancer(**options) for name, options in SHAPES.items()},
        "num_layers": lambda: of_arraymancer(num_layers=1),
        "dtype": lambda: of_arraymancer(dtype=torch.float64),
    },
    "RTNeural's layers": {
        "type": rtneural(layers=2),
        "shape": rtneural(hidden=5),
        "weights": rtneural(),
        "activation": rtneural(relu),
    },
    f"a live {NNX}": NNX_CASES,
    f"a live {RNN}": {
        "time_major": lambda: of_nnx(time_major=False),
        "reverse": lambda: of_nnx(reverse=True, keep_order=True),
        "keep_order": lambda: of_nnx(reverse=True),
        "cell": of_nnx,
        "return_carry": lambda: of_nnx(return_carry=True),
        "unroll": lambda: of_nnx(unroll=2),
        "state_axes": lambda: of_nnx(state_axes={...: None}),
        "broadcast_rngs": lambda: of_nnx(broadcast_rngs=...),
        "rngs": lambda: of_nnx(rngs=nnx.Rngs(5)),
    },
    f"a live {BIDIRECTIONAL}": {
        "time_major": lambda: of_both(time_major=False),
        "forward_rnn": lambda: of_both({"reverse": True, "time_major": False}),
        "backward_rnn": lambda: of_both({"keep_order": True}),
        "merge_fn": lambda: of_both(merge_fn=plain_sum),
        "return_carry": lambda: of_both(return_carry=True),
        "rngs": lambda: of_both(rngs=nnx.Rngs(5)),
    },
    f"a live {EQUINOX}": {
        **{name: lambda options=options: of_equinox(live=True, **options) for name, options in SHAPES.items()},
        **dict.fromkeys(("weight_ih", "weight_hh", "bias", "bias_n", "batch_first"), lambda: of_equinox(live=True)),
        "use_bias": lambda: of_equinox(live=True, use_bias=False),
    },
    f"a live {MLX}": {
        **dict.fromkeys(("Wx", "Wh", "b", "bhn"), lambda: of_mlx(live=True)),
        "hidden_size": lambda: of_mlx(live=True, hidden=5),
    },
}
SAME = {"PyTorch's names in JSON": "PyTorch's names: weight_ih_l0"}  # read by the same code
OPTIONS = {
    source: options for each in files.formats().values() for source, options in each.options.items() if source in CASES
}
ELSEWHERE = dict.fromkeys(SOURCES, "test_keras_options.py")  # those that have tests of their own
ALL = [(source, option) for source, options in OPTIONS.items() for option in options if option.fate != "fixed"]


def test_every_option_of_every_format_has_a_case() -> None:
    for each in files.formats().values():
        assert each.options or each.name == "numpy"  # which is written alone
        for source, options in each.options.items():
            if source in ELSEWHERE:
                assert (Path(__file__).parent / ELSEWHERE[source]).exists()
                continue
            tested = {option.name for option in options if option.fate != "fixed"}
            assert tested == CASES[SAME.get(source, source)].keys(), source


def test_the_page_in_the_documentation_says_the_same() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = runpy.run_path(str(docs / "make_options.py"))["page"]()
    assert (docs / "options.md").read_text() == page, "run python docs/make_options.py"


@pytest.mark.filterwarnings("ignore:carry_init is provided", "ignore:.*:gru_xp.errors.ConversionWarning")
@pytest.mark.filterwarnings(
    "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning", "ignore:.*:UserWarning"
)  # torch's
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("source", "option"), ALL, ids=[f"{source}-{option.name}" for source, option in ALL])
def test_an_option_does_what_its_format_says(source: str, option: files.Option, tmp_path: Path) -> None:
    make: Any = CASES[source][option.name]
    case = make(tmp_path) if make.__code__.co_argcount and not make.__defaults__ else make()
    read: Any = gru_xp.load if isinstance(case.thing, Path) else gru_xp.from_framework
    if option.fate == "refused":
        with pytest.raises(errors.ConversionError):
            read(case.thing)
        return
    model = read(case.thing)
    assert model.dtype == case.dtype
    x = X if model.input_size == I else np.resize(X, (T, N, model.input_size))
    x = x.astype(case.dtype)
    y = rows(model(rows(x))[0]) if model.batch_first else model(x)[0]
    near = (
        case.y is not None
        and y.shape == case.y.shape
        and np.abs(y - case.y).max() < (1e-5 if "16" not in case.dtype else 1e-2)
    )
    told = [f"{note.what}: {note.why}" for note in model.report.notes]
    assumed = ", ".join(model.report.assumed)
    if option.fate == "read":
        assert near and option.name not in assumed
        assert not any(option.name in words for words in told if "assumed" in words)
    elif option.fate == "noted":
        assert any((case.said or option.name) in words for words in told)
    elif option.name == "zero_output_for_mask":  # which shows in what is masked alone
        assert option.words in assumed and near
    elif option.name in ("batch_first", "time_major"):
        assert option.words.partition(";")[0] in assumed
        assert read(case.thing, batch_first=True).report.assumed == tuple(
            each for each in model.report.assumed if each != "batch_first=False"
        )
        assert near  # of one x in the order that was taken
    else:
        assert option.words in assumed and not near  # so an assumption is all that it is


def test_an_attribute_that_is_not_known_is_a_warning() -> None:
    case = of_nnx()
    case.thing.cell.clip_gates = 1.0
    with pytest.warns(errors.ConversionWarning, match=r"clip_gates of .*GRUCell: not known here, and not used"):
        gru_xp.from_framework(case.thing)


def test_mlx_before_0_32_forgets_a_bias_at_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = mlx.nn.GRU(I, H)
    layer.bhn = mx.array(RNG.normal(size=H).astype("f4"))
    gru_xp.from_framework(layer)
    monkeypatch.setattr("gru_xp.formats.live.version", lambda name: "0.31.1")
    with pytest.warns(errors.ConversionWarning, match="bhn at the first step: MLX before 0.32 leaves it out"):
        gru_xp.from_framework(layer)


def test_a_key_of_rtneural_that_is_not_known_is_a_warning(tmp_path: Path) -> None:
    path = rtneural(lambda layers: layers[0].update(reset_after=False))(tmp_path).thing
    with pytest.warns(errors.ConversionWarning, match="reset_after: not known here, and not used"):
        gru_xp.load(path)
