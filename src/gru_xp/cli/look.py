"""`gru-xp look`: what a model does with an input, and how it was trained, as one page with heat maps over time."""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from gru_xp.atomic import write_whole
from gru_xp.checks import sizes_of
from gru_xp.errors import RangeError, ShapeError, StructureError
from gru_xp.files import read
from gru_xp.functional import gru_forward
from gru_xp.params import map_params
from gru_xp.training import read_log

from .main import read_npy
from .terminal import BatchFirstOption, NameOption, errors, make_console, say

__all__ = ["look"]

MOST_STEPS = 1000  # of a page: the width of a heat map in pixels, and a megabyte of numbers
SMALLEST = 1e-6  # norm that a heat map shows, as a share of the largest
NEAR = 0.05  # a gate nearer than that to an end of its range is saturated

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #6b7280; --line: #d8dce2 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15181c; --faint: #9aa3ad; --line: #333a42 } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 1rem auto;
       max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.4rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem }
h3 { font-size: .9rem; margin: .6rem 0 .2rem }
table { border-collapse: collapse }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .6rem; text-align: right }
.faint { color: var(--faint) } .wide { overflow-x: auto }
canvas { image-rendering: pixelated; border: 1px solid var(--line); width: 100%; touch-action: pan-y; display: block }
canvas:focus { outline: 2px solid #3b82f6 }
output { position: sticky; top: 0; display: block; background: var(--paper); padding: .3rem 0; min-height: 1.5em;
         font-variant-numeric: tabular-nums }
"""
SCRIPT = """
const parts = JSON.parse(document.getElementById('data').textContent)
const dark = matchMedia('(prefers-color-scheme: dark)')
const mix = (a, b, f) => a.map((v, i) => v + (b[i] - v) * f)
function colour(kind, v, part) {
  const paper = dark.matches ? [21, 24, 28] : [255, 255, 255]
  if (v === null) return [220, 38, 38]
  const share = v => Math.max(0, Math.log(v / part.least) / Math.log(part.most / part.least))
  if (kind == 'norm') return mix(paper, dark.matches ? [251, 146, 60] : [154, 52, 18], share(v))
  if (kind == 'r' || kind == 'z') return mix(paper, dark.matches ? [94, 234, 212] : [15, 118, 110], v)
  const far = v < 0 ? (dark.matches ? [96, 165, 250] : [29, 78, 216]) : (dark.matches ? [251, 146, 60] : [194, 65, 12])
  return mix(paper, far, Math.min(1, Math.abs(v)))
}
const digits = (kind, v) => v === null ? 'not finite' : kind == 'norm' ? v.toPrecision(3) : v.toFixed(3)
document.querySelectorAll('section').forEach((section, index) => {
  const part = parts[index], out = section.querySelector('output'), maps = [...section.querySelectorAll('canvas')]
  let at = [0, 0]
  function draw() {
    for (const map of maps) {
      const values = part[map.dataset.kind], T = values.length, U = values[0].length, pen = map.getContext('2d')
      const image = pen.createImageData(T, U)
      for (let t = 0; t < T; t++) for (let u = 0; u < U; u++)
        image.data.set([...colour(map.dataset.kind, values[t][u], part), 255], 4 * (u * T + t))
      pen.putImageData(image, 0, 0)
      pen.fillStyle = dark.matches ? '#fff' : '#000'
      pen.globalAlpha = .35; pen.fillRect(at[0], 0, 1, U); pen.fillRect(0, at[1], T, 1); pen.globalAlpha = 1
    }
    const said = maps.map(m => m.dataset.kind + ' = ' + digits(m.dataset.kind, part[m.dataset.kind][at[0]][at[1]]))
    const [step, line] = part.steps ? [part.steps[at[0]], part.lines[at[1]]] : [at[0], 'unit ' + part.units[at[1]]]
    out.textContent = `step ${step}, ${line}: ${said.concat(part.figures ? part.figures[at[0]] : []).join(', ')}`
  }
  function go(t, u, map) {
    at = [Math.max(0, Math.min(map.width - 1, t)), Math.max(0, Math.min(map.height - 1, u))]
    draw()
  }
  for (const map of maps) {
    map.addEventListener('keydown', event => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key]
      if (by) { event.preventDefault(); go(at[0] + by[0], at[1] + by[1], map) }
    })
    for (const name of ['pointerdown', 'pointermove']) map.addEventListener(name, event => {
      const box = map.getBoundingClientRect()
      go(Math.floor((event.clientX - box.left) / box.width * map.width),
         Math.floor((event.clientY - box.top) / box.height * map.height), map)
    })
  }
  dark.addEventListener('change', draw)
  draw()
})
"""
WORDS = {"h": "state h", "r": "reset gate r", "z": "update gate z", "n": "candidate n"}


def look(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="a model file of any format")],
    input_file: Annotated[Path, typer.Argument(metavar="INPUT.npy", help="x (T, N, I), or (T, I) without a batch")],
    output_file: Annotated[Path, typer.Option("--output", "-o", metavar="PAGE.html", help="one page, for a browser")],
    row: Annotated[int, typer.Option("--row", min=0, help="which row of the batch")] = 0,
    units: Annotated[str | None, typer.Option("--units", help="such as 0,3,8-11; by default the first 32")] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="LOG.jsonl", help="of gru_xp.training.log_step: norms of gradients while training"
        ),
    ] = None,
    name: NameOption = None,
    batch_first: BatchFirstOption = None,
) -> None:
    """Show states and gates over time: heat maps of h, r, z and n for each layer and direction, and what is saturated.

    Computed by NumPy in float32, or in float64 if the model has that.
    """
    with errors():
        stored = read(model_file, name=name, batch_first=batch_first)
        if stored.narrow is not None:
            raise StructureError(
                f"{model_file}: expected weights of 16 bits or more, got narrow ones, which leave no tape"
            )
        x = read_npy(input_file)
        if x.ndim not in (2, 3) or x.dtype.kind not in "fiu":
            raise ShapeError(f"{input_file}: expected numbers x (T, N, I) or (T, I), got {x.dtype} {x.shape}")
        x = x[:, None] if x.ndim == 2 else x.swapaxes(0, 1) if stored.batch_first else x
        if row >= x.shape[1]:
            raise RangeError(f"--row: expected less than N = {x.shape[1]}, got {row}")
        if not 1 <= x.shape[0] <= MOST_STEPS:
            raise RangeError(f"{input_file}: expected 1 to {MOST_STEPS} steps, got T = {x.shape[0]}; save a part of it")
        chosen = _units(units, sizes_of(stored.params).H)
        dtype = np.float64 if stored.dtype == "float64" else np.float32
        params = map_params(lambda a: a.astype(dtype), stored.params)
        _, _, tape = gru_forward(x.astype(dtype), params, spec=stored.spec, backend="numpy")
        log = [] if log_file is None else _finite_norms(read_log(log_file), log_file)
        text = page(f"{model_file.name}, {input_file.name}, row {row}", tape.layers, row, chosen, log)
        write_whole(output_file, text.encode())
        say(make_console(stderr=True), f"wrote {output_file}: {x.shape[0]} steps, {len(chosen)} units")


def _units(text: str | None, H: int) -> list[int]:
    """Numbers of units, from 0,3,8-11."""
    if text is None:
        return list(range(min(H, 32)))
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise StructureError(f"--units: expected numbers and ranges such as 0,3,8-11, got {text!r}")
        found += range(int(first), int(last or first) + 1)
    if not found or max(found) >= H:
        raise RangeError(f"--units: expected numbers below H = {H}, got {text!r}")
    return found


def _finite_norms(log: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The log with the norm of all gradients too, None where one is not finite, and at most `MOST_STEPS` lines.

    Of a longer log, each line is the last of several with the largest of their norms.
    """
    if not log:
        raise StructureError(f"{path}: expected a training log, got one without a line")
    found = []
    each = math.ceil(len(log) / MOST_STEPS)
    for first in range(0, len(log), each):
        lines = log[first : first + each]
        norms: dict[str, Any] = {}
        for line in lines:
            for name, norm in {"all": math.hypot(*line["norms"].values()), **line["norms"]}.items():
                known = norms.get(name, 0.0)
                norms[name] = None if known is None or not math.isfinite(norm) else max(norm, known)
        found.append(lines[-1] | {"norms": norms})
    return found


def page(title: str, layers: Any, row: int, units: list[int], log: list[dict[str, Any]]) -> str:
    """The whole page, which needs nothing from elsewhere."""
    data, sections, saturated = [], [], []
    for number, directions in enumerate(layers):
        for direction, tape in enumerate(directions):
            called = f"layer {number}, {'reverse' if tape.reverse or direction else 'forward'} direction"
            gates = {"h": (1 - tape.z) * tape.n + tape.z * tape.h_prev, "r": tape.r, "z": tape.z, "n": tape.n}
            data.append({kind: np.round(a[:, row, units], 4).tolist() for kind, a in gates.items()} | {"units": units})
            said = f"of {called}: {len(units)} units over {len(tape.r)} steps"
            maps = "".join(
                f"<h3>{words}</h3>{_canvas(kind, len(tape.r), len(units), f'{words} {said}')}"
                for kind, words in WORDS.items()
            )
            sections.append(f"<section><h2>{called}</h2><output aria-live='polite'></output>{maps}</section>")
            shares = [np.mean(a) for kind in "rz" for a in (gates[kind] < NEAR, gates[kind] > 1 - NEAR)]
            shares.append(np.mean(np.abs(tape.n) > 1 - NEAR))
            saturated.append(f"<tr><th>{called}</th>{''.join(f'<td>{share:.1%}</td>' for share in shares)}</tr>")
    if log:
        part = _norms(log)
        data.append(part)
        label = f"norms of {len(part['lines'])} gradients while training"
        canvas = _canvas("norm", len(log), len(part["lines"]), label, line=20)
        sections.append(
            "<section><h2>Norms of the gradients while training</h2><p class='faint'>Training steps go to the right, "
            "and each line is an array of the log; the first is all of them. On a logarithmic scale from the paper, "
            f"{part['least']:.2g} or less, to {part['most']:.2g}; red is not finite.</p>"
            f"<output aria-live='polite'></output>{canvas}</section>"
        )
    heads = "".join(f"<th>{head}</th>" for head in ("", "r near 0", "r near 1", "z near 0", "z near 1", "n near ±1"))
    numbers = json.dumps(data).replace("<", "\\u003c")
    return "\n".join(
        [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>",
            "<p class='faint'>Time goes to the right; each line is a hidden unit. r and z: from 0, the paper,",
            "to 1. h and n: blue below 0, orange above. Touch a map, or focus it and use the arrow keys.</p>",
            f"<h2>Saturated</h2><p class='faint'>Share of all rows, units and steps within {NEAR} of the end.</p>",
            f"<div class='wide'><table><tr>{heads}</tr>{''.join(saturated)}</table></div>",
            *sections,
            f"<script type='application/json' id='data'>{numbers}</script><script>{SCRIPT}</script></body></html>",
        ]
    )


def _canvas(kind: str, width: int, height: int, label: str, line: int = 8) -> str:
    return (
        f"<canvas data-kind='{kind}' width='{width}' height='{height}' tabindex='0' "
        f"style='height: {max(60, line * height)}px' aria-label='{escape(label)}; the arrow keys move'></canvas>"
    )


def _norms(log: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page knows of a training log: `norm` has a row for each step, as the other maps have."""
    lines = list(dict.fromkeys(name for entry in log for name in entry["norms"]))
    rows = [[entry["norms"].get(name, 0.0) for name in lines] for entry in log]
    known = [norm for row in rows for norm in row if norm]
    most = max(known, default=1.0)
    return {
        "norm": [[norm and float(f"{norm:.4g}") for norm in row] for row in rows],
        "lines": lines,
        "steps": [entry["step"] for entry in log],
        "figures": [
            [f"{name} = {figure:.4g}" for name, figure in entry.items() if name not in ("step", "norms")]
            for entry in log
        ],
        "most": most,
        "least": max(SMALLEST * most, min((norm for norm in known if norm < most), default=SMALLEST * most)),
    }
