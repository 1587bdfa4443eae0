"""The guides do what they say: every block of code in docs/*.md runs, in the order in which it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = sorted(DOCS.glob("*.md"))


def blocks(guide: Path) -> list[tuple[str, str, int]]:
    """Language, text and line of each."""
    text = guide.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(match[1], match[2], text[: match.start()].count("\n") + 1) for match in found]


# runs (text, line) of each block and tells where the next begins; what frameworks do to their process stays in it
RUN = """
import json, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # PyTorch's exporter, of itself
warnings.filterwarnings("ignore", "The tensor attributes", UserWarning)  # likewise
warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # Keras, of its own arrays
guide, blocks = json.load(sys.stdin)
names = {"__name__": guide}
for text, line in blocks:
    print("\\x1e", end="")
    exec(compile("\\n" * line + text, guide, "exec"), names)
"""


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_every_block_runs(guide: Path, tmp_path: Path) -> None:
    """All in one namespace, in an empty folder. What a line says that it prints, `print(...)  # this`, it prints."""
    for library in re.findall(
        r"^import (keras|flax|equinox|mlx|onnx|onnxruntime)\b", guide.read_text(encoding="utf-8"), re.MULTILINE
    ):
        if find_spec(library) is None:
            pytest.skip(f"{library} is missing")
    found = blocks(guide)
    assert [language for language, _, _ in found] == ["python"] * len(found)
    program = json.dumps([str(guide), [(text, line) for _, text, line in found]])
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, input=program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for said, (_, text, line) in zip(done.stdout.split("\x1e")[1:], found, strict=True):
        for promised in re.findall(r"^\s*print\(.*\)\s+# (.*)$", text, re.MULTILINE):
            assert promised.removesuffix("...") in said, f"{guide.name}:{line}: {promised}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_links_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", guide.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (guide.parent / target).exists(), target
