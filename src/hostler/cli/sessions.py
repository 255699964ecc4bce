"""`hostler sessions`: look at sessions of a running server, follow them, end them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.oversight import rows_of
from hostler.cli.problem import Problem, spelled
from hostler.cli.show import Show, tokens
from hostler.cli.terminal import plain_line
from hostler.cli.words import session_isolation, session_place

_STATUS_STYLE = {"running": "green", "rescheduling": "yellow", "terminated": "dim"}


def list_sessions(address: Address, *, limit: int, archived: bool, as_json: bool) -> None:
    """Newest first. JSON: one object, `{"sessions": [<session of the API>, …]}`."""
    with connected(address) as client:
        rows: list[dict[str, Any]] = []
        for session in client.beta.sessions.list(limit=min(limit, 100), include_archived=archived):
            rows.append(_dict(session))
            if len(rows) >= limit:
                break
    if as_json:
        print(json.dumps({"sessions": rows}))
        return
    console = terminal.out()
    if not rows:
        command = spelled('hostler run "Say hello"')
        console.print(f"No sessions yet. Try: {command}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("session", "status", "runs in", "agent", "title", "created"):
        table.add_column(name, no_wrap=name == "session", overflow="ellipsis")
    for row in rows:
        status = Text(row["status"], style=_STATUS_STYLE.get(row["status"], ""))
        title = plain_line(row.get("title") or "", 60)
        place = plain_line(session_place(row.get("isolation") or {}), 30)
        table.add_row(row["id"], status, place, plain_line(row["agent"]["name"], 30), title, row["created_at"][:19])
    console.print(table)


def show_session(address: Address, session_id: str, *, as_json: bool) -> None:
    """JSON: the session as the API shows it."""
    with connected(address) as client:
        row = _dict(client.beta.sessions.retrieve(session_id))
    if as_json:
        print(json.dumps(row))
        return
    total, cached, made = tokens(row.get("usage") or {})
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("session", row["id"])
    table.add_row("title", plain_line(row.get("title") or ""))
    table.add_row("status", row["status"])
    agent = row["agent"]
    table.add_row("agent", plain_line(f"{agent['name']} ({agent['id']}, version {agent['version']})"))
    table.add_row("model", plain_line(agent["model"]["id"]))
    table.add_row("environment", row["environment_id"])
    if row.get("isolation"):
        table.add_row("isolation", plain_line(session_isolation(row["isolation"]), 400))
    table.add_row("tokens", f"{total:,} in ({cached:,} from the cache), {made:,} out")
    table.add_row("created", row["created_at"])
    if row.get("archived_at"):
        table.add_row("archived", row["archived_at"])
    terminal.out().print(table)


def tail(address: Address, session_id: str, *, since: int, follow: bool, as_json: bool) -> None:
    """Events behind the sequence `since`; with `follow`, then what comes.

    JSON: one line for each event, `{"seq": <number>, "event": <event of the API>}`. Input that still waits for its turn
    has no sequence yet: `null`, and only without `follow`.
    """
    show = None if as_json else Show(terminal.out())
    with connected(address) as client:
        events = _followed(client, session_id, since) if follow else _recorded(client, session_id, since)
        try:
            for seq, event in events:
                if show is None:
                    print(json.dumps({"seq": seq, "event": event}), flush=True)
                elif event["type"] == "user.message":
                    show.pause()
                    show.prompt("".join(b.get("text", "") for b in event["content"]))
                else:
                    show.event(event)
        except KeyboardInterrupt:
            return
        finally:
            if show is not None:
                show.close()


def _recorded(client: Any, session_id: str, since: int) -> Iterator[tuple[int | None, dict[str, Any]]]:
    # The log has no gaps and starts at 1, so counting is knowing the sequence.
    for number, event in enumerate(client.beta.sessions.events.list(session_id, order="asc", limit=1000), 1):
        fact = _dict(event)
        waits = fact.get("processed_at") is None
        if number > since:
            yield (None if waits else number), fact


def _followed(client: Any, session_id: str, since: int) -> Iterator[tuple[int | None, dict[str, Any]]]:
    # The client's own stream keeps the events and drops their sequences, so the frames are read here.
    streaming = client.beta.sessions.events.with_streaming_response
    with streaming.stream(session_id, extra_headers={"Last-Event-ID": str(since)}) as response:
        name, seq = "", None
        for line in response.iter_lines():
            key, _, value = line.partition(": ")
            if key == "id":
                seq = int(value)
            elif key == "event":
                name = value
            elif key == "data" and name == "error":
                raise Problem(plain_line(value), next_command=f"hostler sessions tail {session_id} --follow")
            elif key == "data":
                yield seq, json.loads(value)
                if name == "session.deleted":
                    return
                seq = None
    raise Problem("the stream ended", next_command=f"hostler sessions tail {session_id} --follow")


def denials(address: Address, session_id: str, *, limit: int, as_json: bool) -> None:
    """What was denied on the way out, alike ones together, the newest first.

    JSON: `{"denials": [{"method", "host", "port", "path", "reason", "hint", "allow", "count", "last_at"}, …]}`.
    """
    told: dict[tuple[Any, ...], dict[str, Any]] = {}
    same = ("method", "host", "port", "path", "reason")
    for row in rows_of(address, f"/hostler/v1/sessions/{session_id}/egress", limit, allowed="false"):
        shown = {name: row[name] for name in (*same, "hint", "allow")}
        first = told.setdefault(tuple(row[name] for name in same), {**shown, "count": 0, "last_at": row["created_at"]})
        first["count"] += 1
    if as_json:
        print(json.dumps({"denials": list(told.values())}))
        return
    console = terminal.out()
    if not told:
        console.print("Nothing was denied.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("last", "times", "what", "reason", "what would allow it"):
        table.add_column(name, no_wrap=name in ("last", "times"), overflow="fold")
    for row in told.values():
        what = plain_line(f"{row['method']} {row['host']}:{row['port']}{row['path']}", 120)
        table.add_row(row["last_at"][:19], str(row["count"]), what, row["reason"], plain_line(row["hint"], 300))
    console.print(table)


def act(address: Address, session_id: str, action: str, *, as_json: bool) -> None:
    """`interrupt`, `archive` or `delete`. JSON: `{"id": …, "done": "<action>"}`."""
    with connected(address) as client:
        sessions: Any = client.beta.sessions
        if action == "interrupt":
            sessions.events.send(session_id, events=[{"type": "user.interrupt"}])
        elif action == "archive":
            sessions.archive(session_id)
        else:
            sessions.delete(session_id)
    if as_json:
        print(json.dumps({"id": session_id, "done": action}))
    else:
        past = {"interrupt": "will stop at its next safe point", "archive": "is archived", "delete": "is deleted"}
        terminal.out().print(f"{session_id} {past[action]}.")


def _dict(value: Any) -> dict[str, Any]:
    return dict(value.to_dict(mode="json"))
