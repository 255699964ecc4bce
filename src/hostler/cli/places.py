"""`hostler sessions live` and `hostler sessions waiting`: who has a process on a running server, and who waits."""

from __future__ import annotations

import json

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address
from hostler.cli.oversight import rows_of
from hostler.cli.terminal import plain_line


def live(address: Address, *, limit: int, as_json: bool) -> None:
    """Longest first. JSON: `{"live": [<live session of the API>, …]}`."""
    rows = rows_of(address, "/hostler/v1/live_sessions", limit)
    if as_json:
        print(json.dumps({"live": rows}))
        return
    if not rows:
        terminal.out().print("No session has a process.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("session", "since", "does", "server", "environment"):
        table.add_column(name, no_wrap=name == "session", overflow="ellipsis")
    for row in rows:
        does = "idle" if row["idle"] else "working"
        table.add_row(row["session_id"], row["since"][:19], does, plain_line(row["server"], 40), row["environment_id"])
    terminal.out().print(table)


def waiting(address: Address, *, limit: int, as_json: bool) -> None:
    """Longest first. JSON: `{"waiting": [<waiting session of the API>, …]}`."""
    rows = rows_of(address, "/hostler/v1/waiting_sessions", limit)
    if as_json:
        print(json.dumps({"waiting": rows}))
        return
    if not rows:
        terminal.out().print("No session waits for a place.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("session", "since", "place", "why"):
        table.add_column(name, no_wrap=name == "session", overflow="fold")
    for row in rows:
        table.add_row(row["session_id"], row["since"][:19], str(row["place"]), plain_line(row["message"], 300))
    terminal.out().print(table)
