"""What the package index is told, from the one address of the repository in pyproject.toml: links and the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAGES = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md", "Security": "SECURITY.md"}


class Metadata(MetadataHookInterface):
    """Fill in `urls` and `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Make every relative link of the README absolute, for pages that are not in the repository."""
        repository = self.config["repository"]

        def absolute(match: re.Match[str]) -> str:
            kind = "raw" if match[1] == "!" else "blob"  # a picture itself, or the page that shows a file
            return f"{match[1]}[{match[2]}]({repository}/{kind}/main/{match[3]})"

        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = re.sub(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)", absolute, text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = {"Repository": repository, "Issues": f"{repository}/issues"}
        metadata["urls"] |= {name: f"{repository}/blob/main/{path}" for name, path in PAGES.items()}
