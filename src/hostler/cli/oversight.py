"""`hostler approvals`: what waits for a person, on a running server. And lists of the API, over all their pages."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.problem import spelled
from hostler.cli.terminal import plain_line

_PAGE = 100


def approvals(address: Address, *, limit: int, as_json: bool) -> None:
    """Oldest first. JSON: `{"approvals": [<approval of the API>, …]}`."""
    rows = rows_of(address, "/hostler/v1/approvals", limit)
    if as_json:
        print(json.dumps({"approvals": rows}))
        return
    console = terminal.out()
    if not rows:
        console.print("Nothing waits for a person.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("session", "waits", "for", "tool", "input", "title"):
        table.add_column(title, no_wrap=title == "session", overflow="ellipsis")
    for row in rows:
        shown = plain_line(json.dumps(row["input"], ensure_ascii=False), 60)
        title = plain_line(row["session_title"] or "", 30)
        what = "a result" if row["kind"] == "custom_tool" else "approval"
        table.add_row(row["session_id"], age(row["age_seconds"]), what, plain_line(row["tool_name"], 30), shown, title)
    console.print(table)
    console.print(f"Answer with: {spelled('hostler run --session SESSION')}", style="dim")


def age(seconds: float) -> str:
    """`3 m`, for a person: the largest unit that fits, rounded down."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def rows_of(address: Address, path: str, limit: int, **filters: Any) -> list[dict[str, Any]]:
    """Up to `limit` rows over all pages."""
    rows: list[dict[str, Any]] = []
    after: str | None = None
    with connected(address) as client:
        while len(rows) < limit:
            wanted = {"limit": min(_PAGE, limit - len(rows)), "page": after, **filters}
            query = {name: value for name, value in wanted.items() if value is not None}
            answer: Any = client.get(path, cast_to=object, options={"params": query})
            rows += answer["data"]
            after = answer["next_page"]
            if after is None:
                break
    return rows
