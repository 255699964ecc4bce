"""Every relative link in README and docs leads to a file, and every anchor to a heading."""

from __future__ import annotations

from pathlib import Path

import pytest
from docpages import DOCS, ROOT, anchors, links

PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_page_lead_somewhere(page: Path) -> None:
    broken = []
    for target in links(page.read_text("utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        found = file.is_relative_to(ROOT) and file.exists()
        if found and anchor:
            found = file.suffix == ".md" and anchor in anchors(file.read_text("utf-8"))
        if not found:
            broken.append(target)
    assert broken == []


def test_links_and_anchors_are_found() -> None:
    page = "# A `b` title!\n\nSee [x](y.md#z), `[not](this)`.\n\n```text\n[nor](that)\n```\n"
    assert list(links(page)) == ["y.md#z"]
    assert list(links("See [a\nb](c.md).")) == ["c.md"]
    assert anchors(page) == {"a-b-title"}
