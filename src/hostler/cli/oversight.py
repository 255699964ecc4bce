"""`hostler approvals` and `hostler audit`: what waits for a person, and who administered what, on a running server."""

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


def audit(address: Address, *, limit: int, act: str | None, target: str | None, as_json: bool) -> None:
    """Newest first. JSON: `{"audit": [<entry of the API>, …]}`."""
    rows = rows_of(address, "/hostler/v1/audit", limit, act=act, target_id=target)
    if as_json:
        print(json.dumps({"audit": rows}))
        return
    console = terminal.out()
    if not rows:
        console.print("No such entry.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("when", "who", "act", "on", "details"):
        table.add_column(title, no_wrap=title in ("when", "act"), overflow="fold")
    for row in rows:
        who = plain_line(f"{row['actor']['type']} {row['actor']['id']}", 60)
        details = plain_line(json.dumps(row["details"], ensure_ascii=False), 200)
        table.add_row(row["created_at"][:19], who, row["act"], row["target_id"], details)
    console.print(table)


def age(seconds: float) -> str:
    """`3 m`, for a person: the largest unit that fits, rounded down."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def rows_of(address: Address, path: str, limit: int, **filters: str | None) -> list[dict[str, Any]]:
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
