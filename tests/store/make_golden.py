"""Writes `golden/<revision>.sql` and `.json` for a new schema. Run by hand, once for each, before it is released."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from storekit import add_catalog, add_session, append
from test_store_schema import GOLDEN, everything

from hostler.store import ledger
from hostler.store.database import Database
from hostler.store.eventlog import Change, LogView, NewEvent
from hostler.store.jsontext import encode
from hostler.store.migrate import HEAD
from hostler.store.sessions import Usage
from hostler.store.transcripts import TranscriptStore

WHEN = "2026-01-02T03:04:05.678901Z"
BODIES: list[dict[str, Any]] = [
    {"type": "user.message", "content": [{"type": "text", "text": "NUL \x00, half \ud800, é, 😀, \u2028"}]},
    {"type": "agent.message", "content": [{"type": "text", "text": "Hello"}]},
    {"type": "agent.tool_use", "name": "bash", "input": {"command": "ls"}, "evaluated_permission": "ask"},
    {"type": "user.tool_confirmation", "tool_use_id": "sevt_2", "result": "allow"},
    {"type": "agent.tool_result", "tool_use_id": "sevt_2", "content": [{"type": "text", "text": "a\nb"}]},
    {"type": "agent.custom_tool_use", "name": "lookup", "input": {}},
    {"type": "session.usage", "usage": {"input_tokens": 7}, "budget": None},
    {"type": "session.status_idle", "stop_reason": {"type": "end_turn"}, "stop_details": None},
]


def event(number: int, body: dict[str, Any], at: str) -> NewEvent:
    whole = {"id": f"sevt_{number}", **body, "processed_at": at}
    return NewEvent(whole["id"], body["type"], at, encode(whole))


async def fill(database: Database) -> None:
    await add_catalog(database)
    await add_session(database, "sesn_golden", title="Täst", metadata={"k": "v"})

    def decide(view: LogView) -> Change:
        return Change('{"phase":"idle"}', "idle", [event(number, body, WHEN) for number, body in enumerate(BODIES)])

    await append(database, decide, session_id="sesn_golden")

    def spend(conn: Connection) -> None:
        now = database.now(conn)
        ledger.record_model_request(
            conn,
            now,
            session_id="sesn_golden",
            model="m",
            status=200,
            usage=Usage(7, 5),
            stop_reason="end_turn",
            duration_ms=1.5,
            first_byte_ms=0.5,
        )
        ledger.record_egress(
            conn, now, session_id="sesn_golden", method="CONNECT", host="x.org", port=443, allowed=False, reason="r"
        )

    await database.write(spend)
    entries: list[Any] = [{"type": "user", "uuid": "a", "text": "\x00"}, {"type": "title"}]
    await TranscriptStore(database, session_id="sesn_golden").append({"project_key": "p", "session_id": "s"}, entries)


async def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "golden.db"
        database = await Database.open(f"sqlite:///{path}")
        await fill(database)
        read = await everything(database)
        await database.close()
        connection = sqlite3.connect(path)
        (GOLDEN / f"{HEAD}.sql").write_text("\n".join(connection.iterdump()) + "\n")
        connection.close()
    (GOLDEN / f"{HEAD}.json").write_text(json.dumps(read, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
