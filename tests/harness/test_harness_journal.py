"""After a loss the transcript has everything that was said; in peace it is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from claude_agent_sdk import AssistantMessage, StreamEvent, TextBlock, ToolResultBlock, ToolUseBlock, UserMessage

from hostler.engine import runs
from hostler.harness.journal import PROJECT_KEY, Journal, recall
from hostler.store.database import Database
from hostler.store.transcripts import TranscriptStore

MAIN = {"project_key": PROJECT_KEY, "session_id": "conversation"}
AT = "2026-01-01T00:00:00.000000Z"


@pytest_asyncio.fixture
async def transcripts(tmp_path: Path) -> AsyncIterator[Any]:
    database = await Database.open(f"sqlite:///{tmp_path / 'journal.db'}")
    yield TranscriptStore(database, session_id="sesn_1")
    await database.close()


def _said(uuid: str, *blocks: Any) -> AssistantMessage:
    return AssistantMessage(content=list(blocks), model="claude-opus-5-5", message_id="msg_1", uuid=uuid)


def _result(uuid: str) -> UserMessage:
    return UserMessage(content=[ToolResultBlock(tool_use_id="toolu_1", content="out", is_error=False)], uuid=uuid)


def _stream(kind: str) -> StreamEvent:
    return StreamEvent(uuid="s", session_id="conversation", event={"type": kind})


CALL = ToolUseBlock(id="toolu_1", name="Bash", input={"command": "ls", "description": "list"})


async def test_what_the_transcript_lacks_is_appended_in_order(transcripts: Any) -> None:
    journal = Journal("conversation", transcripts)
    journal.begin("prompt", [{"type": "text", "text": "hi"}])
    await journal.keep(_stream("message_start"))
    await journal.keep(_said("text", TextBlock(text="I look.")))
    await journal.keep(_said("call", CALL))
    await journal.keep(_result("result"))
    await transcripts.append(MAIN, [{"type": "user", "uuid": "prompt", "message": {"role": "user", "content": "hi"}}])
    entries = await Journal("conversation", transcripts).restore("1.0", AT)
    assert [e["uuid"] for e in entries] == ["prompt", "text", "call", "result"]
    assert [e.get("parentUuid") for e in entries] == [None, "prompt", "text", "call"]
    assert entries == await transcripts.load(MAIN)
    assert [event for entry in entries[1:] for event in recall(entry)[1]] == [
        runs.TextBlock("I look."),
        runs.ToolCall("toolu_1", "bash", {"command": "ls"}, custom=False),
        runs.ToolResult("toolu_1", ({"type": "text", "text": "out"},), is_error=False),
    ]
    assert await Journal("conversation", transcripts).restore("1.0", AT) == entries


async def test_a_prompt_without_an_answer_is_left_to_be_sent_again(transcripts: Any) -> None:
    journal = Journal("conversation", transcripts)
    journal.begin("prompt", [{"type": "text", "text": "hi"}])
    await journal.keep(_stream("message_start"))
    await journal.keep(_said("text", TextBlock(text="half an ans")))
    assert await Journal("conversation", transcripts).restore("1.0", AT) == []


async def test_a_text_is_kept_when_its_answer_is_complete(transcripts: Any) -> None:
    journal = Journal("conversation", transcripts)
    journal.begin("prompt", [{"type": "text", "text": "hi"}])
    for message in (_stream("message_start"), _said("text", TextBlock(text="Hi.")), _stream("message_stop")):
        await journal.keep(message)
    entries = await Journal("conversation", transcripts).restore("1.0", AT)
    assert [e["uuid"] for e in entries] == ["prompt", "text"]


async def test_a_turn_replaces_what_the_turn_before_left(transcripts: Any) -> None:
    journal = Journal("conversation", transcripts)
    await journal.keep(_said("call", CALL))
    journal.settle()  # the transcript has it now
    await transcripts.append(MAIN, [{"type": "assistant", "uuid": "call", "message": {"content": []}}])
    journal.begin("prompt 2", [{"type": "text", "text": "more"}])
    await journal.keep(_result("result 2"))
    kept = await transcripts.load({**MAIN, "subpath": "unconfirmed"})
    assert [entry["uuid"] for entry in kept] == ["prompt 2", "result 2"]
    entries = await Journal("conversation", transcripts).restore("1.0", AT)
    assert [entry["uuid"] for entry in entries] == ["call", "prompt 2", "result 2"]
