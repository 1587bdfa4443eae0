"""The guides do what they say: every block of code in docs/*.md runs, in the order in which it stands there."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parent.parent / "docs"
GUIDES = sorted(DOCS.glob("*.md"))


def blocks(guide: Path) -> list[tuple[str, str, int]]:
    """Language, text and line of each."""
    text = guide.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(match[1], match[2], text[: match.start()].count("\n") + 1) for match in found]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # PyTorch's exporter, of itself
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # likewise
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, of its own arrays
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_every_block_runs(
    guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All in one namespace, in an empty folder. What a line says that it prints, `print(...)  # this`, it prints."""
    for library in re.findall(
        r"^import (keras|flax|equinox|mlx|onnx|onnxruntime)\b", guide.read_text(encoding="utf-8"), re.MULTILINE
    ):
        if find_spec(library) is None:
            pytest.skip(f"{library} is missing")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": guide.stem}
    for language, text, line in blocks(guide):
        assert language == "python", f"{guide.name}:{line}: {language}"
        exec(compile("\n" * line + text, str(guide), "exec"), names)
        said = capsys.readouterr().out
        for promised in re.findall(r"^\s*print\(.*\)\s+# (.*)$", text, re.MULTILINE):
            assert promised.removesuffix("...") in said, f"{guide.name}:{line}: {promised}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_links_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", guide.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (guide.parent / target).exists(), target
