"""`hostler sessions compact`, `compactions` and `archives`: long conversations on a running server."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.oversight import rows_of
from hostler.cli.terminal import plain_line

_LOOK_SECONDS = 0.5


def compact(address: Address, session_id: str, *, instructions: str | None, wait: bool, as_json: bool) -> int:
    """JSON: the compaction of the API. Gives the exit code."""
    here = f"/hostler/v1/sessions/{session_id}"
    with connected(address) as client:
        body = {} if instructions is None else {"instructions": instructions}
        row: dict[str, Any] = client.post(f"{here}/compact", body=body, cast_to=dict[str, Any])
        while wait and row["ended_at"] is None:
            time.sleep(_LOOK_SECONDS)
            rows: dict[str, Any] = client.get(f"{here}/compactions", cast_to=dict[str, Any])
            row = next((each for each in rows["data"] if each["id"] == row["id"]), row)
    if as_json:
        print(json.dumps(row))
    elif row["ended_at"] is None:
        terminal.out().print(f"{row['id']} waits for its turn.")
    else:
        terminal.out().print(_told(row))
    return 1 if wait and row["state"] != "completed" else 0


def compactions(address: Address, session_id: str, *, limit: int, as_json: bool) -> None:
    """Newest first. JSON: `{"state": <state of the API>, "compactions": [<compaction of the API>, …]}`."""
    with connected(address) as client:
        state: dict[str, Any] = client.get(f"/hostler/v1/sessions/{session_id}/compaction", cast_to=dict[str, Any])
    rows = rows_of(address, f"/hostler/v1/sessions/{session_id}/compactions", limit)
    if as_json:
        print(json.dumps({"state": state, "compactions": rows}))
        return
    console = terminal.out()
    if rows:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("when", "why", "how it went", "archive"):
            table.add_column(name, no_wrap=name in ("when", "archive"), overflow="fold")
        for row in rows:
            table.add_row(row["created_at"][:19], row["trigger"], _told(row), row["archive_id"] or "")
        console.print(table)
    else:
        console.print("Nothing was compacted yet.")
    if state["retry_at"]:
        console.print(f"Nothing is tried by itself before {state['retry_at'][:19]}.", style="dim")
    if state["next_due_at"]:
        console.print(f"Due next at {state['next_due_at'][:19]}.", style="dim")


def archives(address: Address, session_id: str, *, limit: int, as_json: bool) -> None:
    """Newest first. JSON: `{"archives": [<archive of the API>, …]}`."""
    rows = rows_of(address, f"/hostler/v1/sessions/{session_id}/archives", limit)
    if as_json:
        print(json.dumps({"archives": rows}))
        return
    console = terminal.out()
    if not rows:
        console.print("Nothing was archived yet.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("archive", "made", "entries", "bytes", "kept in", "state"):
        table.add_column(name, no_wrap=name == "archive", justify="right" if name in ("entries", "bytes") else "left")
    for row in rows:
        sizes = (f"{row['entries']:,}", f"{row['logical_bytes']:,}", f"{row['stored_bytes']:,}")
        table.add_row(row["id"], row["created_at"][:19], *sizes, row["state"])
    console.print(table)


def entries(
    address: Address, session_id: str, *, archive: str | None, search: str | None, limit: int, as_json: bool
) -> None:
    """JSON: `{"entries": [<entry of the API>, …]}`."""
    here = f"/hostler/v1/sessions/{session_id}/archives"
    if archive is not None:
        rows = rows_of(address, f"{here}/{archive}", limit)
    else:
        rows = rows_of(address, f"{here}/search", limit, q=search)
    if as_json:
        print(json.dumps({"entries": rows}))
        return
    console = terminal.out()
    shown = [row for row in rows if row["text"]]
    if not shown:
        console.print("Nothing found." if search else "Nothing to read in it.")
    for row in shown:
        head = f"{(row['at'] or '')[:19]} {row['role'] or row['kind']} {row['archive_id']} {row['number']}"
        console.print(plain_line(head, 120), style="dim", highlight=False)
        console.print(plain_line(row.get("excerpt") or row["text"], 2_000), highlight=False, markup=False)


def _told(row: dict[str, Any]) -> str:
    if row["state"] == "completed" and row["before_tokens"] is not None:
        return f"{row['before_tokens']:,} tokens became {row['after_tokens'] or 0:,}"
    return plain_line(f"{row['state']}: {row['reason']}" if row["reason"] else row["state"], 200)
