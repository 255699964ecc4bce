"""How does a table that is made from the code stay in its page of the docs? Written by `scripts/generate-docs`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def with_table(text: str, begin: str, end: str, table: str) -> str:
    """`text` with `table` between the two marks. Raises ValueError for a page without a place for it."""
    before, found, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not found or not last:
        raise ValueError(f"the page has no place for the table: {begin}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def keep_up(path: Path, page: Callable[[str], str]) -> int:
    """Write the page as it is now; with `--check`, say whether it is stale. The exit code. `page`: of the old text."""
    text = path.read_text("utf-8")
    new = page(text)
    if "--check" in sys.argv:
        if new != text:
            print(f"{path} is stale: scripts/generate-docs", file=sys.stderr)
        return int(new != text)
    path.write_text(new, "utf-8")
    return 0
