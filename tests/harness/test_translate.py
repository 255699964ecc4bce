"""What a run's messages become, where no whole server shows it cheaply."""

from __future__ import annotations

from claude_agent_sdk import AssistantMessage, ResultMessage, TextBlock
from claude_agent_sdk.types import StreamEvent

from hostler.engine import runs
from hostler.harness.translate import Translator

DONE = ResultMessage(
    subtype="success",
    duration_ms=1,
    duration_api_ms=1,
    is_error=False,
    num_turns=1,
    session_id="s",
    stop_reason="end_turn",
)


def whole(message_id: str) -> AssistantMessage:
    return AssistantMessage(content=[TextBlock("Said.")], model="claude-x", message_id=message_id)


def begun(message_id: str) -> StreamEvent:
    event = {"type": "message_start", "message": {"id": message_id, "usage": {"input_tokens": 3}}}
    return StreamEvent(uuid="u", session_id="s", event=event)


def test_an_answer_that_did_not_come_as_a_stream_is_an_answer() -> None:
    translator = Translator()
    events = [event for message in (begun("msg_1"), whole("msg_2"), DONE) for event in translator.feed(message)]
    ends = [event.is_error for event in events if isinstance(event, runs.RequestEnded)]
    assert ends == [True, False], "the stream broke off; the answer that was asked for in its place did not"
    assert [event.text for event in events if isinstance(event, runs.TextBlock)] == ["Said."]
    assert events[-1] == runs.Ended("completed")


def test_a_stream_without_its_end_is_not() -> None:
    translator = Translator()
    events = [event for message in (begun("msg_1"), whole("msg_1"), DONE) for event in translator.feed(message)]
    assert [event.is_error for event in events if isinstance(event, runs.RequestEnded)] == [True]
