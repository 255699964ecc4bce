"""`hostler sessions checkpoints`, `checkpoint`, `rewind`, `fork` and `diff`: the points of a session."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.oversight import rows_of
from hostler.cli.problem import spelled
from hostler.cli.terminal import plain_line

_PREFIX = "/hostler/v1/sessions"
_NANOS_OF_A_DOLLAR = 1_000_000_000
_SHOWN = 40
"""Lines of one kind of a difference; the JSON has all."""


def show(address: Address, session_id: str, *, limit: int, as_json: bool) -> None:
    """Newest first. JSON: `{"checkpoints": [<checkpoint of the API>, …]}`."""
    rows = rows_of(address, f"{_PREFIX}/{session_id}/checkpoints", limit)
    if as_json:
        print(json.dumps({"checkpoints": rows}))
        return
    console = terminal.out()
    if not rows:
        command = spelled(f"hostler sessions checkpoint {session_id}")
        console.print(f"No checkpoints yet. Take one: {command}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("checkpoint", "taken", "why", "name", "events", "waits for", "cost so far"):
        table.add_column(title, no_wrap=title in ("checkpoint", "taken"), overflow="ellipsis")
    for row in rows:
        stop = (row["stop_reason"] or {}).get("type", "")
        waits = "an answer" if stop == "requires_action" else ""
        cost = _dollars(row["usage"])
        name = plain_line(row["name"] or "", 40)
        table.add_row(row["id"], row["created_at"][:19], row["reason"], name, str(row["events"]), waits, cost)
    console.print(table)


def take(address: Address, session_id: str, name: str | None, *, as_json: bool) -> None:
    """JSON: the checkpoint as the API shows it."""
    row = _post(address, f"{session_id}/checkpoints", {} if name is None else {"name": name})
    if as_json:
        print(json.dumps(row))
        return
    console = terminal.out()
    console.print(f"{row['id']} keeps {row['events']} events and the files of {session_id}.")
    command = spelled(f"hostler sessions rewind {session_id} {row['id']}")
    console.print(f"Back here: {command}", style="dim")


def delete(address: Address, session_id: str, checkpoint_id: str, *, as_json: bool) -> None:
    """JSON: `{"id": …, "type": "checkpoint_deleted"}`."""
    with connected(address) as client:
        row: Any = client.delete(f"{_PREFIX}/{session_id}/checkpoints/{checkpoint_id}", cast_to=object)
    if as_json:
        print(json.dumps(row))
    else:
        terminal.out().print(f"{checkpoint_id} is deleted.")


def rewind(address: Address, session_id: str, checkpoint_id: str, *, force: bool, as_json: bool) -> int:
    """JSON: the rewind as the API shows it. 1 when a memory was left as it is."""
    row = _post(address, f"{session_id}/rewind", {"checkpoint_id": checkpoint_id, "force": force})
    left = row["memories"]["left"]
    if as_json:
        print(json.dumps(row))
        return 1 if left else 0
    console = terminal.out()
    console.print(f"{session_id} is where it was at {checkpoint_id}.")
    command = spelled(f"hostler sessions rewind {session_id} {row['left_checkpoint_id']}")
    console.print(f"Undo: {command}", style="dim")
    for memory in left:
        why = plain_line(memory.get("message") or memory["reason"].replace("_", " "), 200)
        console.print(f"Left as it is: {plain_line(memory['path'], 200)} in {memory['memory_store_id']} ({why})")
    return 1 if left else 0


def fork(address: Address, session_id: str, checkpoint_id: str | None, title: str | None, *, as_json: bool) -> None:
    """JSON: the new session as the API shows it."""
    asked = {"checkpoint_id": checkpoint_id, "title": title}
    row = _post(address, f"{session_id}/fork", {name: value for name, value in asked.items() if value is not None})
    if as_json:
        print(json.dumps(row))
        return
    console = terminal.out()
    console.print(f"{row['id']} begins with the {row['forked_from']['events']} events of {session_id}.")
    command = spelled(f"hostler run --session {row['id']} --keep PROMPT")
    console.print(f"Go on: {command}", style="dim")


def diff(address: Address, session_id: str, before: str | None, after: str, path: str | None, *, as_json: bool) -> None:
    """JSON: the difference as the API shows it."""
    asked = {"from": before, "to": after, "path": path}
    query = {name: value for name, value in asked.items() if value is not None}
    with connected(address) as client:
        found: Any = client.get(f"{_PREFIX}/{session_id}/diff", cast_to=object, options={"params": query})
    if as_json:
        print(json.dumps(found))
        return
    console = terminal.out()
    events, files, used = found["events"], found["files"], found["cost"]
    console.print(f"{events['added']} events more, {events['removed']} that don't count any more")
    for message in events["messages"][:_SHOWN]:
        who = "user" if message["type"] == "user.message" else "agent"
        words = " ".join(block.get("text", "") for block in message["content"])
        console.print(f"  {who}: {plain_line(words, 100)}", markup=False, highlight=False)
    console.print(f"{files['count']} files differ")
    for change in files["changes"][:_SHOWN]:
        console.print(f"  {change['how']} {plain_line(change['path'], 200)}{_sizes(change)}", markup=False)
    if not files["complete"]:
        console.print("  The session runs: these are the files that an earlier turn has left.", style="yellow")
    console.print(f"{len(found['memories'])} memories differ")
    for memory in found["memories"][:_SHOWN]:
        console.print(f"  {memory['how']} {plain_line(memory['path'], 200)}", markup=False)
    console.print(f"{used['input_tokens']:,} tokens in, {used['output_tokens']:,} out, {_dollars(used)}")
    if (text := found["text"]) is not None:
        print(terminal.plain(text["unified"] or f"{text['path']} says the same at both points\n"), end="")


def _post(address: Address, path: str, body: dict[str, Any]) -> Any:
    with connected(address) as client:
        return client.post(f"{_PREFIX}/{path}", body=body, cast_to=object)


def _dollars(used: dict[str, Any]) -> str:
    if used["unpriced_requests"]:
        return "cost not known"
    return f"${used['list_cost_nanos'] / _NANOS_OF_A_DOLLAR:.4f}"


def _sizes(change: dict[str, Any]) -> str:
    sizes = [change["before_bytes"], change["after_bytes"]]
    known = [f"{size:,}" for size in sizes if size is not None]
    return f" ({' → '.join(known)} bytes)" if known else ""
