"""Long conversations: archived before they are compacted, shortened as the agent's policy says, and told once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import pytest
from housekit import DEADLINE, House, types

from hostler.testing.rehearsal import step, tool

ASKED = "CRITICAL: Respond with TEXT ONLY"
"""How the harness begins to ask for a summary."""


async def compact(house: House, session: str, **body: Any) -> dict[str, Any]:
    return await house.client.post(f"/hostler/v1/sessions/{session}/compact", body=body, cast_to=dict[str, Any])


async def read(house: House, session: str, path: str, **query: Any) -> dict[str, Any]:
    return await house.client.get(
        f"/hostler/v1/sessions/{session}/{path}", options={"params": query}, cast_to=dict[str, Any]
    )


async def newest(house: House, session: str) -> dict[str, Any]:
    """The newest compaction, once it has its end."""
    async with asyncio.timeout(DEADLINE):
        while True:
            rows = (await read(house, session, "compactions"))["data"]
            if rows and rows[0]["ended_at"]:
                return dict(rows[0])
            await asyncio.sleep(0.01)


def summaries(house: House) -> list[str]:
    """What the model was asked for a summary with, request by request."""
    found = []
    for request in house.model.message_requests:
        last = json.dumps(request.body["messages"][-2:])
        if ASKED in last:
            found.append(last)
    return found


async def test_asked_for_compaction_archives_everything_first_and_is_told_once(house: House) -> None:
    session = await house.session()
    await house.turn(session, [step(tool("bash", command="echo the-word-is-plum")), step("Done with that.")])
    before = len(await house.events(session))
    asked = await compact(house, session, instructions="Look at the plums.")
    assert (asked["state"], asked["trigger"]) == ("waiting", "manual")
    events = await house.until_idle(session, before)
    assert types(events).count("agent.thread_context_compacted") == 1
    assert events[-1].stop_reason.type == "end_turn"

    row = await newest(house, session)
    assert (row["id"], row["state"]) == (asked["id"], "completed")
    assert row["before_tokens"] > row["after_tokens"] > 0
    assert row["requests"] == 1
    assert row["input_tokens"] > 0
    assert "Look at the plums." in summaries(house)[0]

    (archive,) = (await read(house, session, "archives"))["data"]
    assert archive["id"] == row["archive_id"]
    found = await read(house, session, "archives/search", q="WORD-is-plum")
    assert [entry["role"] for entry in found["data"]] == ["user", "assistant", "user"]
    entries: list[dict[str, Any]] = []
    page = await read(house, session, f"archives/{archive['id']}", limit=5)
    while True:
        entries += page["data"]
        if page["next_page"] is None:
            break
        page = await read(house, session, f"archives/{archive['id']}", limit=5, page=page["next_page"])
    assert [entry["number"] for entry in entries] == list(range(archive["entries"]))
    assert any(entry["text"] == "Done with that." for entry in entries)
    with pytest.raises(anthropic.NotFoundError):
        await read(house, session, "archives/arch_unknown")
