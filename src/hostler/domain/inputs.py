"""What may a client say to a session? The events of `POST /v1/sessions/{id}/events`, parsed and checked.

A request is taken whole or not at all: `parse_client_events` raises for the first bad event and names its place
(`events[1].content[0].text`).
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hostler.domain.errors import InvalidRequest
from hostler.domain.values import Identifier, Items, Text, Value, listed, parse, problem

MAX_EVENTS: Final = 1_000
MAX_INITIAL_EVENTS: Final = 50
MAX_BLOCKS: Final = 1_000
IMAGE_TYPES: Final = ("image/gif", "image/jpeg", "image/png", "image/webp")

# ------------------------------------------------------------------------------------------------------ content


def _base64(data: str) -> str:
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise problem("is not base64") from None
    if not data:
        raise problem("must not be empty")
    return data


def _image_type(name: str) -> str:
    if name not in IMAGE_TYPES:
        raise problem(f"must be {listed(IMAGE_TYPES)}")
    return name


def _web_url(url: str) -> str:
    if not url.lower().startswith(("https://", "http://")) or any(mark.isspace() for mark in url):
        raise problem("must be an http or https URL")
    return url


Url = Annotated[str, Field(max_length=8_192), AfterValidator(_web_url)]
Base64 = Annotated[str, AfterValidator(_base64)]


class Base64Image(Value):
    type: Literal["base64"]
    media_type: Annotated[str, AfterValidator(_image_type)]
    data: Base64


class Base64Document(Value):
    type: Literal["base64"]
    media_type: Literal["application/pdf"]
    data: Base64


class PlainText(Value):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: Annotated[str, Field(min_length=1)]


class UrlSource(Value):
    type: Literal["url"]
    url: Url


class FileSource(Value):
    """A file that was uploaded. That it exists is for the engine to see."""

    type: Literal["file"]
    file_id: Identifier


class TextBlock(Value):
    type: Literal["text"]
    text: str


class ImageBlock(Value):
    type: Literal["image"]
    source: Annotated[Base64Image | UrlSource | FileSource, Field(discriminator="type")]


class DocumentBlock(Value):
    type: Literal["document"]
    source: Annotated[Base64Document | PlainText | UrlSource | FileSource, Field(discriminator="type")]
    title: Annotated[Text, Field(max_length=500)] | None = None
    context: str | None = None


class Citations(Value):
    enabled: bool


class SearchResultBlock(Value):
    type: Literal["search_result"]
    source: str
    title: str
    content: Items[TextBlock]
    citations: Citations


def _no_redacted(value: object) -> object:
    if isinstance(value, dict) and value.get("type") == "redacted":
        raise problem("is a redacted block, which only the server makes; remove it")
    return value


def _said(block: TextBlock | ImageBlock | DocumentBlock) -> TextBlock | ImageBlock | DocumentBlock:
    if isinstance(block, TextBlock) and not block.text.strip():
        raise problem("has empty text; write something or remove the block")
    return block


MessageBlock = Annotated[
    Annotated[TextBlock | ImageBlock | DocumentBlock, Field(discriminator="type")],
    BeforeValidator(_no_redacted),
    AfterValidator(_said),
]
ResultBlock = Annotated[
    Annotated[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock, Field(discriminator="type")],
    BeforeValidator(_no_redacted),
]
ResultContent = Annotated[Items[ResultBlock], Field(max_length=MAX_BLOCKS)]

# ------------------------------------------------------------------------------------------------------- events


class UserMessage(Value):
    """Starts a turn, or waits in the queue until the turn that is running has ended."""

    type: Literal["user.message"]
    content: Annotated[Items[MessageBlock], Field(min_length=1, max_length=MAX_BLOCKS)]


class UserInterrupt(Value):
    """Ends the turn at the next safe point. Without a thread it means every thread."""

    type: Literal["user.interrupt"]
    session_thread_id: Identifier | None = None


class UserToolConfirmation(Value):
    """Answers an `agent.tool_use` that was evaluated to `ask`."""

    type: Literal["user.tool_confirmation"]
    tool_use_id: Identifier
    result: Literal["allow", "deny"]
    deny_message: Annotated[str, Field(max_length=100_000)] | None = None

    @model_validator(mode="after")
    def _message_only_with_deny(self) -> UserToolConfirmation:
        if self.deny_message is not None and self.result != "deny":
            raise problem("has a deny_message, which only goes with result deny; remove it")
        return self


class UserCustomToolResult(Value):
    """Answers an `agent.custom_tool_use`."""

    type: Literal["user.custom_tool_result"]
    custom_tool_use_id: Identifier
    content: ResultContent | None = None
    is_error: bool | None = None


class UserToolResult(Value):
    """Answers an `agent.tool_use` of a self-hosted environment. The engine refuses it everywhere else."""

    type: Literal["user.tool_result"]
    tool_use_id: Identifier
    content: ResultContent | None = None
    is_error: bool | None = None


ClientEvent = UserMessage | UserInterrupt | UserToolConfirmation | UserCustomToolResult | UserToolResult

_KINDS: Final[dict[str, type[ClientEvent]]] = {
    "user.message": UserMessage,
    "user.interrupt": UserInterrupt,
    "user.tool_confirmation": UserToolConfirmation,
    "user.custom_tool_result": UserCustomToolResult,
    "user.tool_result": UserToolResult,
}


def parse_client_events(raw: object, *, at: str = "events") -> list[ClientEvent]:
    """The events of one send, in order. Raises InvalidRequest for the first bad one; then none was taken."""
    if not isinstance(raw, list):
        raise InvalidRequest(f"{at}: must be an array of events")
    if not raw:
        raise InvalidRequest(f"{at}: must have at least 1 event")
    if len(raw) > MAX_EVENTS:
        raise InvalidRequest(f"{at}: has {len(raw)} events; at most {MAX_EVENTS} fit in one request")
    return [_parse_one(event, f"{at}[{index}]") for index, event in enumerate(raw)]


def parse_initial_events(raw: object, *, at: str = "initial_events") -> list[ClientEvent]:
    """The events a session is created with: at most 50, `user.message` only."""
    if raw is None or raw == []:
        return []
    if isinstance(raw, list) and len(raw) > MAX_INITIAL_EVENTS:
        raise InvalidRequest(f"{at}: has {len(raw)} events; at most {MAX_INITIAL_EVENTS} are allowed")
    events = parse_client_events(raw, at=at)
    for index, event in enumerate(events):
        if not isinstance(event, UserMessage):
            raise InvalidRequest(
                f"{at}[{index}].type: is {event.type}; a session can only be created with user.message events, send "
                "the others afterwards"
            )
    return events


def _parse_one(raw: object, at: str) -> ClientEvent:
    if not isinstance(raw, dict):
        raise InvalidRequest(f"{at}: must be an object")
    kind = raw.get("type")
    if kind is None:
        raise InvalidRequest(f"{at}.type: is required; use one of {listed(_KINDS)}")
    if kind == "system.message":
        raise InvalidRequest(
            f"{at}.type: system.message is not supported by this server; put the instruction in the agent's system "
            "prompt or in a user.message",
            code="model_does_not_support_mid_conversation_system",
        )
    if kind == "user.define_outcome":
        raise InvalidRequest(
            f"{at}.type: user.define_outcome is not supported by this server yet; describe the goal in a user.message"
        )
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise InvalidRequest(f"{at}.type: {str(kind)[:100]!r} is not an event a client sends; use {listed(_KINDS)}")
    return parse(model, raw, at=at)


def wire_fields(event: ClientEvent) -> dict[str, Any]:
    """What the echo of `event` holds besides `id`, `processed_at` and `session_thread_id`: what was sent, no nulls."""
    return event.model_dump(mode="json", exclude_none=True)
