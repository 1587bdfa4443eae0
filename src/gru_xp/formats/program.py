"""A GRU as a program: one readable file that needs NumPy alone, `gru.py`, and its weights in `gru_weights.npz`.

Only what the model has is written: no branch for biases that are not there, no clip that does not clip.
"""

from __future__ import annotations

import sys
from keyword import iskeyword
from pathlib import Path
from typing import Any

from gru_xp.activations import SIGMOID, TANH, Activation
from gru_xp.atomic import write_whole
from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError
from gru_xp.files import Format
from gru_xp.formats.program_weights import (
    ENDING,
    is_of_a_program,
    reading,
    ways_of,
    weights_file,
    weights_path,
)
from gru_xp.stored import Note, Report, StoredGRU

__all__ = ["NumpyProgram", "program", "source_of"]


class NumpyProgram(Format):
    """Written, never read: nothing here runs a program that it did not write."""

    name = "numpy"
    title = "a program for NumPy (.py, and its weights in _weights.npz beside it), written only"
    suffixes = (".py",)
    holds_narrow = True

    def write(self, gru: StoredGRU, path: Path) -> Report:
        if path.suffix != ".py" or not path.stem.isidentifier() or iskeyword(path.stem):
            raise ConversionError(f"{path}: expected the name of a module, such as model.py")
        if path.stem in (*sys.stdlib_module_names, "numpy"):
            raise ConversionError(
                f"{path}: expected another name, for `import {path.stem}` beside it would find it and not that module"
            )
        weights = weights_path(path)
        if weights.exists() and not is_of_a_program(weights):
            raise ConversionError(f"{weights}: is there and holds something else, so {path.name} needs another name")
        write_whole(weights, weights_file(gru))
        write_whole(path, source_of(gru, path.stem).encode())
        notes = [Note("exact", "weights and biases", f"bit for bit, in {weights.name}")]
        if gru.narrow is not None:
            how = "widened to float32 when the program loads them"
            notes.append(Note("exact", f"{gru.narrow.weights} weights", how))
            if gru.narrow.activations == "int8":
                why = "the program does not round x and the state to 8 bits"
                notes.append(Note("changed", "int8 activations", why))
        if gru.dtype in ("float16", "bfloat16"):
            why = f"the program computes in float32; {gru.dtype} would round the state after each step"
            notes.append(Note("changed", "rounding", why))
        if gru.dropout:
            notes.append(Note("ignored", "dropout", "it acts in training alone, and the program does not train"))
        return Report(tuple(notes))

    def needs(self, path: Path) -> str:
        if not path.name.endswith(ENDING) or not path.exists() or not is_of_a_program(path):
            return ""
        owner = path.with_name(f"{path.name.removesuffix(ENDING)}.py")
        return owner.name if owner.exists() else ""


program = NumpyProgram()
# ---- the program -----------------------------------------------------------------------------------------------------


def source_of(gru: StoredGRU, module: str) -> str:
    """The program's text, as `ruff format` would leave it."""
    parts = [_head(gru, module), *_activations(gru), _cell(gru), _layer(gru), _whole(gru)]
    if ways_of(gru) == ("forward",):
        parts.append(_step(gru))
    return "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def _head(gru: StoredGRU, module: str) -> str:
    sizes, spec, ways = sizes_of(gru.params), gru.spec, ways_of(gru)
    layers = "one layer" if sizes.L == 1 else f"{sizes.L} layers"
    directions = {1: f"{ways[0]} in time", 2: "both directions of time"}[sizes.D]
    x, y = (f"(N, T, {n})" if gru.batch_first else f"(T, N, {n})" for n in (sizes.I, sizes.D * sizes.H))
    streaming = (
        f"\n    y_t, h = {module}.step(x_t, h)               # one step: (N, {sizes.I}), ({sizes.L}, N, {sizes.H})"
        if ways == ("forward",)
        else ""
    )
    bias_ih, bias_hh = (" + b_ih", " + b_hh") if sizes.bias else ("", "")
    f, g = (name if spec.clip is None else f"{name}(clipped to +-{spec.clip!r})" for name in ("f", "g"))
    if spec.reset_after:
        candidate = f"n  = {g}(gi_n + r * gh_n)"
    else:
        candidate = f"n  = {g}(gi_n + (r * h) @ W_hn.T{' + b_hn' if sizes.bias else ''})"
    function, call = reading(gru)
    function = f"{function}\n" if function else ""
    weights = "W_ih: np.ndarray  # (3H, I); gates r, z, n on axis 0\n    W_hh: np.ndarray  # (3H, H)"
    if sizes.bias:
        weights += "\n    b_ih: np.ndarray  # (3H,)\n    b_hh: np.ndarray  # (3H,)"
    return f'''
"""A gated recurrent unit (GRU) in NumPy: {layers}, {directions}, I = {sizes.I} inputs, H = {sizes.H} units.

    import {module}
    y, h_n = {module}.gru(x, h0, lengths)        # x {x}, y {y}; h0 and lengths may be left out{streaming}

    gi = x @ W_ih.T{bias_ih}        gh = h @ W_hh.T{bias_hh}
    r  = {f}(gi_r + gh_r)       z  = {f}(gi_z + gh_z)
    {candidate}
    h' = (1 - z) * n + z * h         with f = {spec.gate_activation}, g = {spec.candidate_activation}

T, N are time steps and batch. The weights are in {module}{ENDING} beside this file. Written by gru_xp.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

H = {sizes.H}
LAYERS = {sizes.L}
DIRECTIONS = {_tuple(ways)}


class Cell(NamedTuple):
    """The weights of one layer in one direction."""

    {weights}

{function}
def load(path=Path(__file__).with_name(Path(__file__).stem + "{ENDING}")):
    """All cells, as layers of directions{"" if gru.h0 is None else ", and the first state"}."""
    with np.load(path, allow_pickle=False) as file:
        cells = [
            [Cell(*({call} for name in Cell._fields)) for way in DIRECTIONS]
            for layer in range(LAYERS)
        ]
        return cells{"" if gru.h0 is None else ', file["h0"]'}


CELLS{"" if gru.h0 is None else ", H0"} = load()
'''


def _tuple(ways: tuple[str, ...]) -> str:
    return "(" + ", ".join(f'"{way}"' for way in ways) + ("," if len(ways) == 1 else "") + ")"


def _activations(gru: StoredGRU) -> list[str]:
    """The functions `gate` and `candidate`."""
    spec = gru.spec
    roles = (("gate", spec.gate_activation, "gates r and z"), ("candidate", spec.candidate_activation, "candidate n"))
    clipped, clip = "", ""
    if spec.clip is not None:
        clipped, clip = " of a clipped argument", f"    a = np.clip(a, -{spec.clip!r}, {spec.clip!r})\n"
    return [
        f"""
def {name}(a):
    \"\"\"The activation of the {whose}: {activation}{clipped}.\"\"\"
{clip}    return {formula_of(activation)}
"""
        for name, activation, whose in roles
    ]


FORMULAS = {
    SIGMOID.name: "0.5 * (1.0 + np.tanh(0.5 * a))",
    TANH.name: "np.tanh(a)",
    "relu": "np.maximum(a, 0.0)",
    "affine": "{alpha} * a + {beta}",
    "leaky_relu": "np.where(a > 0.0, a, {alpha} * a)",
    "thresholded_relu": "np.where(a > {alpha}, a, 0.0)",
    "scaled_tanh": "{alpha} * np.tanh({beta} * a)",
    "hard_sigmoid": "np.clip({alpha} * a + {beta}, 0.0, 1.0)",
    "elu": "np.where(a > 0.0, a, {alpha} * np.expm1(np.minimum(a, 0.0)))",
    "selu": "1.0507009873554805 * np.where(a > 0.0, a, 1.6732632423543772 * np.expm1(np.minimum(a, 0.0)))",
    "softsign": "a / (1.0 + np.abs(a))",
    "softplus": "np.logaddexp(a, 0.0)",
    "swish": "a * (0.5 * (1.0 + np.tanh(0.5 * a)))",
    "exponential": "np.exp(a)",
}


def formula_of(activation: Activation) -> str:
    """The activation of `a` as an expression of NumPy, with its constants."""
    if activation.name not in FORMULAS:
        raise ConversionError(f"{activation}: the program has only {', '.join(FORMULAS)}")
    return FORMULAS[activation.name].format(alpha=repr(activation.alpha), beta=repr(activation.beta))


def _cell(gru: StoredGRU) -> str:
    bias = " + w.b_hh" if gru.params[0][0].b_hh is not None else ""
    if gru.spec.reset_after:
        return f'''
def cell(gi, h, w):
    """One step: gate arguments from the input (N, 3H), the state (N, H) -> the next state (N, H)."""
    gi_r, gi_z, gi_n = np.split(gi, 3, axis=-1)
    gh_r, gh_z, gh_n = np.split(h @ w.W_hh.T{bias}, 3, axis=-1)
    r = gate(gi_r + gh_r)
    z = gate(gi_z + gh_z)
    n = candidate(gi_n + r * gh_n)
    return (1.0 - z) * n + z * h
'''
    lines = {"rz": "", "n": ""} if not bias else {"rz": " + w.b_hh[: 2 * H]", "n": " + w.b_hh[2 * H :]"}
    return f'''
def cell(gi, h, w):
    """One step: gate arguments from the input (N, 3H), the state (N, H) -> the next state (N, H)."""
    gi_r, gi_z, gi_n = np.split(gi, 3, axis=-1)
    gh_r, gh_z = np.split(h @ w.W_hh[: 2 * H].T{lines["rz"]}, 2, axis=-1)
    r = gate(gi_r + gh_r)
    z = gate(gi_z + gh_z)
    n = candidate(gi_n + (r * h) @ w.W_hh[2 * H :].T{lines["n"]})
    return (1.0 - z) * n + z * h
'''


def _layer(gru: StoredGRU) -> str:
    bias = " + w.b_ih" if gru.params[0][0].b_ih is not None else ""
    steps = {
        ("forward",): "range(T)",
        ("reverse",): "reversed(range(T))",
        ("forward", "reverse"): 'reversed(range(T)) if way == "reverse" else range(T)',
    }[ways_of(gru)]
    padding = "y" if gru.spec.padding == "hold" else "np.where(valid, y, 0.0)"
    told = "is the state there" if gru.spec.padding == "hold" else "is 0 there"
    way = ", way" if len(gru.params[0]) == 2 else ""
    return f'''
def layer(x, h, w, valid{way}):
    """All steps of a layer: x (T, N, I), h (N, H), valid (T, N, 1) -> y (T, N, H), and the last state (N, H).

    Where a step is not valid the state stands still, and y {told}.
    """
    T, N, _ = x.shape
    gi = x @ w.W_ih.T{bias}
    y = np.empty((T, N, H), gi.dtype)
    for t in {steps}:
        h = np.where(valid[t], cell(gi[t], h, w), h)
        y[t] = h
    return {padding}, h
'''


def _whole(gru: StoredGRU) -> str:
    sizes = sizes_of(gru.params)
    dtype = "float64" if gru.dtype == "float64" else "float32"
    x, y = (f"(N, T, {n})" if gru.batch_first else f"(T, N, {n})" for n in (sizes.I, sizes.D * sizes.H))
    states = sizes.L * sizes.D
    default = f"np.zeros(({states}, N, H), x.dtype)" if gru.h0 is None else f"np.broadcast_to(H0, ({states}, N, H))"
    missing = "0" if gru.h0 is None else "that of the model"
    if sizes.D == 2:
        body = """
    for directions in CELLS:
        ys = []
        for way, w in zip(DIRECTIONS, directions):
            y, h = layer(x, next(states), w, valid, way)
            ys.append(y)
            last.append(h)
        x = np.concatenate(ys, axis=-1)"""
    else:
        body = """
    for (w,) in CELLS:
        x, h = layer(x, next(states), w, valid)
        last.append(h)"""
    return f'''
def gru(x, h0=None, lengths=None):
    """A whole sequence.

    Args:
        x: {x}.
        h0: the first state, ({states}, N, {sizes.H}){_rows(sizes)}; {missing} if left out.
        lengths: how many steps of each row count, (N,); all of them if left out.

    Returns:
        y {y} and the last state ({states}, N, {sizes.H}).
    """
    x = np.asarray(x, np.{dtype}){".swapaxes(0, 1)" if gru.batch_first else ""}
    T, N, _ = x.shape
    h0 = {default} if h0 is None else np.asarray(h0, x.dtype)
    lengths = np.full(N, T) if lengths is None else np.asarray(lengths)
    valid = (np.arange(T)[:, None] < lengths)[:, :, None]
    states, last = iter(h0), []{body}
    return x{".swapaxes(0, 1)" if gru.batch_first else ""}, np.stack(last)
'''


def _rows(sizes: Any) -> str:
    """What the rows of a state are."""
    if sizes.D == 2:
        return ", layer by layer, each forward and reverse"
    return "" if sizes.L == 1 else ", layer by layer"


def _step(gru: StoredGRU) -> str:
    sizes = sizes_of(gru.params)
    bias = " + w.b_ih" if sizes.bias else ""
    dtype = "float64" if gru.dtype == "float64" else "float32"
    state = f"({sizes.L}, N, {sizes.H})"
    return f'''
def step(x_t, h):
    """One step as data arrives: x_t (N, {sizes.I}), state {state} -> y_t (N, {sizes.H}), next state {state}."""
    y_t = np.asarray(x_t, np.{dtype})
    following = []
    for (w,), h_layer in zip(CELLS, h):
        y_t = cell(y_t @ w.W_ih.T{bias}, h_layer, w)
        following.append(y_t)
    return y_t, np.stack(following)
'''
