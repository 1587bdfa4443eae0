"""Draw the figures of the explanation into docs/images, in a light and a dark theme: `python docs/make_figures.py`."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
THEMES = {
    "light": {"ink": "#1b1f24", "soft": "#6b7280", "fill": "#f3f4f6", "r": "#b45309", "z": "#1d4ed8", "n": "#15803d"},
    "dark": {"ink": "#e5e7eb", "soft": "#9ca3af", "fill": "#26292e", "r": "#fbbf24", "z": "#93c5fd", "n": "#86efac"},
}
MONO = "font-family='ui-monospace,Menlo,Consolas,monospace'"
SANS = "font-family='system-ui,Helvetica,Arial,sans-serif'"


class Drawing:
    """An SVG in one theme."""

    def __init__(self, width: int, height: int, title: str, colors: dict[str, str]):
        self.colors = colors
        ink = colors["ink"]
        shape = f"viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
        head = "viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7' orient='auto-start-reverse'"
        self.parts = [
            f"<svg xmlns='http://www.w3.org/2000/svg' {shape} role='img'><title>{escape(title)}</title>",
            f"<defs><marker id='a' {head}><path d='M0 0L10 5L0 10z' fill='{ink}'/></marker></defs>",
        ]

    def text(self, x: float, y: float, words: str, *, color: str = "ink", size: int = 14, at: str = "middle") -> None:
        """Words around a point; what looks like code is set in a monospaced font."""
        font = MONO if len(words) < 34 and any(letter in words for letter in "_=@[") else SANS
        self.parts.append(
            f"<text x='{x}' y='{y}' {font} font-size='{size}' text-anchor='{at}' "
            f"fill='{self.colors[color]}'>{escape(words)}</text>"
        )

    def box(self, x: float, y: float, w: float, h: float, words: str = "", *, color: str = "ink", fill: str = "fill"):
        """A rectangle with words in it, a line for each."""
        self.parts.append(
            f"<rect x='{x}' y='{y}' width='{w}' height='{h}' rx='5' fill='{self.colors.get(fill, fill)}' "
            f"stroke='{self.colors[color]}' stroke-width='1.5'/>"
        )
        lines = words.split("\n")
        for i, line in enumerate(lines):
            self.text(x + w / 2, y + h / 2 + 5 + 17 * (i - (len(lines) - 1) / 2), line, color=color)

    def line(self, *points: tuple[float, float], color: str = "ink", arrow: bool = True, dashed: bool = False) -> None:
        """A line through points, with a head at its end."""
        path = " ".join(f"{x},{y}" for x, y in points)
        head = "marker-end='url(#a)'" if arrow else ""
        dash = "stroke-dasharray='5 4'" if dashed else ""
        self.parts.append(
            f"<polyline points='{path}' fill='none' stroke='{self.colors[color]}' stroke-width='1.6' {head} {dash}/>"
        )

    def svg(self) -> str:
        """The whole."""
        return "\n".join([*self.parts, "</svg>", ""])


def cell(colors: dict[str, str]) -> Drawing:
    """One step."""
    d = Drawing(720, 380, "One step of the GRU: gates r and z, candidate n, new state", colors)
    d.text(50, 60, "h")
    d.text(50, 78, "(N, H)", color="soft", size=12)
    d.text(50, 330, "x")
    d.text(50, 348, "(N, I)", color="soft", size=12)
    d.box(100, 150, 150, 46, "gh = h @ W_hh.T\n+ b_hh")
    d.box(100, 300, 150, 46, "gi = x @ W_ih.T\n+ b_ih")
    d.line((65, 325), (98, 325))
    d.line((85, 55), (85, 173), (98, 173))
    for y, name, words in ((110, "r", "r = sigmoid"), (190, "z", "z = sigmoid"), (280, "n", "n = tanh")):
        d.box(345, y, 120, 40, words, color=name)
        d.line((250, 323), (290, 323), (290, y + 28), (343, y + 28), color="soft")
        d.line((250, 173), (310, 173), (310, y + 12), (343, y + 12), color="soft")
    d.line((405, 150), (405, 168), (328, 168), (328, 250), (405, 250), (405, 278), color="r")
    d.text(415, 268, "r * u, u is gh's third block", color="r", size=12, at="start")
    d.box(545, 170, 150, 80, "h' =\n(1 - z) * n\n+ z * h")
    d.line((465, 210), (543, 210), color="z")
    d.line((465, 300), (620, 300), (620, 252), color="n")
    d.line((65, 55), (620, 55), (620, 168))
    d.text(632, 115, "z * h", color="soft", size=12, at="start")
    d.line((695, 210), (714, 210))
    d.text(
        360,
        30,
        "z = 1: the state stays as it is; z = 0: it becomes n; r = 0: n forgets the state",
        color="soft",
        size=13,
    )
    return d


def sequences(colors: dict[str, str]) -> Drawing:
    """Lengths, masks and resets on a time line."""
    d = Drawing(720, 390, "Three rows of a batch on a time line: a length, a mask and resets", colors)
    T, left, size = 8, 190, 62
    for t in range(T):
        d.text(left + size * t + 25, 30, f"t = {t}", color="soft", size=12)
    rows = [
        ("lengths = [5, ...]", [1, 1, 1, 1, 1, 0, 0, 0], ()),
        ("mask[:, 1]", [1, 0, 1, 1, 0, 0, 1, 1], ()),
        ("resets[3, 2] = True", [1] * 8, (3,)),
    ]
    for i, (name, valid, resets) in enumerate(rows):
        y = 55 + 100 * i
        d.text(180, y + 30, name, at="end", size=13)
        for t, there in enumerate(valid):
            x = left + size * t
            d.box(
                x,
                y,
                50,
                50,
                f"x[{t}]" if there else "",
                color="ink" if there else "soft",
                fill="fill" if there else "none",
            )
            if not there:
                d.text(x + 25, y + 30, "z = 1", color="z", size=12)
            if t and t not in resets:
                d.line((x - 12, y + 25), (x, y + 25), color="soft" if not there else "ink")
            if t in resets:
                d.line((x - 5, y - 8), (x - 5, y + 58), color="r", arrow=False)
                d.text(x - 5, y + 76, "h = 0", color="r", size=12)
    d.text(left, 125, "h_n is the state after step 4; y is 0 in the padding", color="soft", size=12, at="start")
    d.text(left, 225, "the state stays as it is where the mask is false", color="soft", size=12, at="start")
    d.text(left + 220, 331, "no state and no gradient crosses the line", color="soft", size=12, at="start")
    d.text(left, 357, "The reverse direction reads the same rows from the right:", size=12, at="start")
    d.text(left, 375, "it begins at each row's last valid step, and is cut at the same lines.", size=12, at="start")
    return d


def parameters(colors: dict[str, str]) -> Drawing:
    """Layers of directions of CellParams."""
    d = Drawing(720, 340, "Parameters: a tuple of layers, each a tuple of directions, each a CellParams", colors)
    d.text(20, 28, "params = ((forward, reverse), (forward, reverse))", at="start", size=15)
    for layer in range(2):
        y = 50 + 145 * layer
        d.box(20, y, 430, 125, fill="none", color="soft")
        d.text(30, y + 20, f"params[{layer}], layer {layer}", at="start", size=13)
        for direction, name in enumerate(("forward", "reverse")):
            x = 35 + 205 * direction
            d.box(x, y + 32, 190, 82)
            d.text(x + 10, y + 52, f"params[{layer}][{direction}], {name}", at="start", size=12)
            inputs = "I" if layer == 0 else "2H"
            d.text(x + 10, y + 73, f"W_ih (3H, {inputs})", at="start", size=12)
            d.text(x + 10, y + 89, "W_hh (3H, H)", at="start", size=12)
            d.text(x + 10, y + 105, "b_ih, b_hh (3H,)", at="start", size=12)
    d.text(585, 68, "W_ih", size=13)
    for k, (gate, color) in enumerate((("r", "r"), ("z", "z"), ("n", "n"))):
        d.box(520, 80 + 50 * k, 130, 50, "", color=color)
        d.text(585, 110 + 50 * k, f"gate {gate}", color=color)
        d.text(662, 110 + 50 * k, "H", color="soft", at="start")
    d.text(585, 250, "I, or D*H from layer 1 on", color="soft", size=12)
    d.text(585, 290, "h_n[layer * D + direction]", size=13)
    d.text(585, 310, "is this direction's last state", color="soft", size=12)
    return d


def plan(colors: dict[str, str]) -> Drawing:
    """From a call to a kernel."""
    d = Drawing(720, 400, "The way of a call: arguments, plan, kernel, result", colors)
    d.box(20, 30, 150, 56, "gru(x, params)\nof any library")
    d.box(240, 30, 200, 56, "plan: sizes, place,\nkernel; kept by its key")
    d.box(510, 30, 190, 56, "bring: convert what\nis elsewhere, by DLPack")
    d.line((170, 58), (238, 58))
    d.line((440, 58), (508, 58))
    d.line((340, 86), (340, 98), arrow=False, color="soft")
    d.text(270, 115, "asks each kernel, the most fused first; it accepts, or says why not:", size=13)
    levels = [
        ("stack", "all layers and directions", "n"),
        ("layer", "one layer in one direction, as the CPU kernels", "z"),
        ("gates", "the pointwise part of one step", "r"),
        ("plain", "the equations in the array API", "ink"),
    ]
    for i, (level, words, color) in enumerate(levels):
        y = 130 + 52 * i
        d.box(60, y, 100, 40, level, color=color)
        d.text(175, y + 25, words, at="start", size=13)
        if i < 3:
            d.line((40, y + 20), (40, y + 72), (58, y + 72), color="soft")
    d.box(510, 210, 190, 56, "the first that accepts\ncomputes the call")
    d.box(510, 330, 190, 56, "home: to the library\nand device of x")
    d.line((605, 86), (605, 208))
    d.line((605, 266), (605, 328))
    return d


FIGURES: dict[str, Callable[[dict[str, str]], Drawing]] = {
    "cell": cell,
    "sequences": sequences,
    "parameters": parameters,
    "plan": plan,
}


def main() -> None:
    """Write every figure in every theme."""
    for name, draw in FIGURES.items():
        for theme, colors in THEMES.items():
            (IMAGES / f"{name}-{theme}.svg").write_text(draw(colors).svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
