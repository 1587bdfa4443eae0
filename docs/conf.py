"""The site: `python -m pip install '.[docs]' && python -m sphinx -W -b html docs build/site`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import make_reference

HERE = Path(__file__).parent
project = "gru_xp"
author = copyright = "the gru_xp authors"  # noqa: A001
release = version = re.search(r'__version__ = "(.*)"', (HERE.parent / "src/gru_xp/__init__.py").read_text())[1]

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "fieldlist", "deflist", "attrs_inline"]
myst_heading_anchors = 4
exclude_patterns = ["examples"]
suppress_warnings = ["ref.python"]  # a name of several modules, such as GRU: the first is linked, which is gru_xp's
nitpicky = False
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries = False
maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"gru_xp {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"sidebar_hide_name": False}

#: pages in this folder that index.md names in another part than "How to"; the others are how-to guides
MARK = "@the other pages of this folder@"


def how_to_guides(index: str) -> str:
    """The pages of this folder that the index does not name; so a new page is in the site without being listed."""
    pages = sorted(path.stem for path in HERE.glob("*.md") if path.stem != "index")
    named = set(re.findall(r"^([\w-]+)$", index, re.MULTILINE))
    return "\n".join(page for page in pages if page not in named)


def read(app: Any, name: str, source: list[str]) -> None:
    """Fill in the list of guides, and lead links out of this folder to the repository."""
    folder = (HERE / name).parent
    if name == "index":
        source[0] = source[0].replace(MARK, how_to_guides(source[0]))
    if not name.startswith("generated/"):
        source[0] = make_reference.outward(source[0], folder, "../" * name.count("/"))


def write_llms_txt(app: Any, error: Exception | None) -> None:
    """A list of all pages with their first paragraphs, for programs that read (https://llmstxt.org)."""
    if error is not None or app.builder.format != "html":
        return
    lines = [f"# {project}", "", "> One gated recurrent unit (GRU) for every array library.", ""]
    for name in sorted(app.env.found_docs):
        text = Path(app.env.doc2path(name)).read_text(encoding="utf-8")
        paragraph = next((p for p in re.split(r"\n\s*\n", text)[1:] if p[:1].isalpha() or p[:1] == "`"), "")
        lines.append(f"- [{app.env.titles[name].astext()}]({name}.html): {' '.join(paragraph.split())}")
    (Path(app.outdir) / "llms.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")


def setup(app: Any) -> None:
    """Generate first, so that Sphinx finds the pages."""
    make_reference.main()
    app.connect("source-read", read)
    app.connect("build-finished", write_llms_txt)
