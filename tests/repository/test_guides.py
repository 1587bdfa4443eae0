"""The site does what it says: every block of code of every page in docs runs, in the order of the page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = sorted(path for path in DOCS.rglob("*.md") if "generated" not in path.parts)
NAMES = [path.relative_to(DOCS).with_suffix("").as_posix() for path in GUIDES]


def blocks(guide: Path) -> list[tuple[str, str, int]]:
    """Language, text and line of each; `text` is output, and what installs packages is for `.ci/run`."""
    text = guide.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    listed = [(match[1], match[2], text[: match.start()].count("\n") + 1) for match in found]
    return [block for block in listed if block[0] != "text" and "pip install" not in block[1]]


# runs each block, of Python or of the shell, after a mark; what frameworks do to their process stays in it
RUN = """
import json, subprocess, sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # PyTorch's exporter, of itself
warnings.filterwarnings("ignore", "The tensor attributes", UserWarning)  # likewise
warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # Keras, of its own arrays
guide, blocks = json.load(sys.stdin)
names = {"__name__": guide}
for language, text, line in blocks:
    print("\\x1e", end="", flush=True)
    if language == "bash":
        subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True)
        continue
    first = text.partition("\\n")[0]
    if first.startswith("# ") and first.endswith(".py"):  # is a file, too
        with open(first[2:], "w") as file:
            file.write(text)
    exec(compile("\\n" * line + text, guide, "exec"), names)
"""

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_every_block_runs(guide: Path, tmp_path: Path) -> None:
    """All in one namespace, in an empty folder. What a line says that it prints, `print(...)  # this`, it prints."""
    for library in re.findall(
        r"^import (keras|flax|equinox|dask|ndonnx|mlx|onnx|onnxruntime)\b",
        guide.read_text(encoding="utf-8"),
        re.MULTILINE,
    ):
        if find_spec(library) is None:
            pytest.skip(f"{library} is missing")
    found = blocks(guide)
    assert {language for language, _, _ in found} <= {"python", "bash"}
    program = json.dumps([str(guide), found])
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, input=program, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-4000:]
    for said, (_, text, line) in zip(done.stdout.split("\x1e")[1:], found, strict=True):
        for promised in re.findall(r"^\s*print\(.*\)\s+# (.*)$", text, re.MULTILINE):
            assert promised.removesuffix("...") in said, f"{guide.name}:{line}: {promised}"


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_links_lead_somewhere(guide: Path) -> None:
    """But those to generated pages, which the site's build follows."""
    for target in re.findall(r"\]\(([^)#]+)\)", guide.read_text(encoding="utf-8")):
        generated = "generated/" in target
        assert target.startswith("https://") or generated or (guide.parent / target).exists(), target
