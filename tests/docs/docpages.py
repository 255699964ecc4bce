"""What is in a page of the documentation? Its fenced blocks and its links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<name>\w*)\n(?P<body>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\\)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_HEADING = re.compile(r"^#{1,6} +(?P<title>.+?) *$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `line`: of its first line of text, from 1."""

    name: str
    body: str
    line: int


def blocks(page: str) -> list[Block]:
    return [
        Block(found["name"], found["body"], page.count("\n", 0, found.start("body")) + 1)
        for found in _FENCE.finditer(page)
    ]


def links(page: str) -> Iterator[str]:
    """Targets of the links in the prose of `page`."""
    prose = _INLINE_CODE.sub("", _FENCE.sub("", page))
    for found in _LINK.finditer(prose):
        yield found["target"]


def anchors(page: str) -> set[str]:
    """The names under which the headings of `page` can be linked to, as GitHub makes them."""
    prose = _FENCE.sub("", page)
    return {
        re.sub(r"[^\w\- ]", "", found["title"].replace("`", "").lower()).replace(" ", "-")
        for found in _HEADING.finditer(prose)
    }
