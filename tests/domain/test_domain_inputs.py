"""What a client may say to a session, and how a refusal names the place."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from hostler.domain.errors import InvalidRequest
from hostler.domain.inputs import UserMessage, parse_client_events, parse_initial_events, wire_fields

PNG = base64.b64encode(b"\x89PNG").decode()


def text(value: str = "hi") -> dict[str, Any]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    "event",
    [
        {"type": "user.message", "content": [text(), text("nul \x00 is content, not a name")]},
        {
            "type": "user.message",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}},
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                    "title": "t",
                    "context": "c",
                },
            ],
        },
        {"type": "user.interrupt"},
        {"type": "user.interrupt", "session_thread_id": "sthr_1"},
        {"type": "user.tool_confirmation", "tool_use_id": "sevt_1", "result": "allow"},
        {"type": "user.tool_confirmation", "tool_use_id": "sevt_1", "result": "deny", "deny_message": "no"},
        {"type": "user.custom_tool_result", "custom_tool_use_id": "sevt_1"},
        {
            "type": "user.custom_tool_result",
            "custom_tool_use_id": "sevt_1",
            "content": [
                text(""),
                {
                    "type": "search_result",
                    "source": "s",
                    "title": "t",
                    "content": [text()],
                    "citations": {"enabled": True},
                },
            ],
            "is_error": True,
        },
        {"type": "user.tool_result", "tool_use_id": "sevt_1", "content": [], "is_error": False},
    ],
)
def test_what_is_sent_is_what_is_echoed(event: dict[str, Any]) -> None:
    (parsed,) = parse_client_events([event])
    assert wire_fields(parsed) == event


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("hello", r"events\[0\]: must be an object"),
        ({}, r"events\[0\].type: is required"),
        ({"type": 7}, r"events\[0\].type: '7' is not an event"),
        ({"type": "agent.message"}, r"events\[0\].type: 'agent.message' is not an event a client sends"),
        ({"type": "user.define_outcome", "description": "d"}, "user.define_outcome is not supported"),
        ({"type": "user.message"}, r"events\[0\].content: is required"),
        ({"type": "user.message", "content": "hi"}, r"events\[0\].content: must be an array"),
        ({"type": "user.message", "content": []}, r"events\[0\].content: must have at least 1"),
        ({"type": "user.message", "content": [text(" ")]}, r"events\[0\].content\[0\]: has empty text"),
        ({"type": "user.message", "content": [text() | {"cache_control": {}}]}, r"content\[0\].cache_control: is not"),
        ({"type": "user.message", "content": [{"type": "redacted"}]}, r"content\[0\]: is a redacted block"),
        ({"type": "user.message", "content": [{"type": "video"}]}, r"content\[0\]: has type 'video'"),
        (
            {"type": "user.message", "content": [{"type": "image", "source": {"type": "file", "file_id": "a/b"}}]},
            r"content\[0\].source.file_id: is not an identifier",
        ),
        (
            {"type": "user.message", "content": [{"type": "image", "source": {"type": "url", "url": "file:///x"}}]},
            r"content\[0\].source.url: must be an http",
        ),
        (
            {
                "type": "user.message",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/svg+xml", "data": PNG}}
                ],
            },
            r"content\[0\].source.media_type: must be image/gif",
        ),
        (
            {
                "type": "user.message",
                "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%%"}}],
            },
            r"content\[0\].source.data: is not base64",
        ),
        ({"type": "user.message", "content": [text()], "id": "sevt_1"}, r"events\[0\].id: is not a field"),
        ({"type": "user.tool_confirmation", "tool_use_id": "x", "result": "maybe"}, r"result: must be 'allow'"),
        (
            {"type": "user.tool_confirmation", "tool_use_id": "x", "result": "allow", "deny_message": "m"},
            r"events\[0\]: has a deny_message",
        ),
        ({"type": "user.tool_confirmation", "tool_use_id": "-x", "result": "allow"}, "tool_use_id: is not an ident"),
        ({"type": "user.custom_tool_result", "custom_tool_use_id": "x", "is_error": "yes"}, "is_error: must be true"),
    ],
)
def test_refusals_name_the_place(event: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_client_events([event])


def test_system_messages_are_refused_with_the_official_code() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_client_events([{"type": "system.message", "content": [text()]}])
    assert caught.value.code == "model_does_not_support_mid_conversation_system"


@pytest.mark.parametrize("raw", [None, {}, "x", [], [{"type": "user.interrupt"}] * 1001])
def test_only_lists_of_one_to_a_thousand_are_taken(raw: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^events: "):
        parse_client_events(raw)


def test_initial_events_are_messages_or_nothing() -> None:
    assert parse_initial_events(None) == parse_initial_events([]) == []
    (event,) = parse_initial_events([{"type": "user.message", "content": [text()]}])
    assert isinstance(event, UserMessage)
    with pytest.raises(InvalidRequest, match=r"initial_events\[0\].type: is user.interrupt"):
        parse_initial_events([{"type": "user.interrupt"}])
