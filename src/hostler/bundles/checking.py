"""Does what a bundle says fit together? One pass over the file that makes nothing, before anything is made of it.

`reading` has seen to it that the members are those of the manifest; here it is asked whether they are a session.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, BinaryIO, Final

from pydantic import TypeAdapter, ValidationError

from hostler.bundles.document import Document
from hostler.bundles.limits import BundleLimits
from hostler.bundles.reading import DOCUMENT, EVENTS, BundleReader, Member, lines
from hostler.bundles.tar import BundleWrong
from hostler.domain.clock import parse_rfc3339
from hostler.domain.errors import Conflict, HostlerError, InvalidRequest
from hostler.domain.sessions import EVENT_TYPES
from hostler.domain.values import Identifier
from hostler.engine.points import refuse_unless_between_turns
from hostler.engine.state import SessionState, unanswered
from hostler.store.transcripts import uuid_of

_ID: Final[TypeAdapter[str]] = TypeAdapter(Identifier)


@dataclass(frozen=True, slots=True)
class Checked:
    """A bundle that may be read."""

    document: Document
    state: SessionState
    event_ids: tuple[str, ...]
    digest: str
    producer: str
    members: int
    content_bytes: int
    times: Mapping[str, int]
    """When each member of the tree was changed last, in nanoseconds since 1970."""
    tree: int
    """Files, folders and links of the session."""


def check(file: BinaryIO, limits: BundleLimits | None = None) -> Checked:
    """Raises BundleWrong. Blocks."""
    limits = limits or BundleLimits()
    reader = BundleReader(file, limits)
    document: Document | None = None
    said_bytes = 0
    ids: dict[str, None] = {}
    counts = {"transcripts": 0, "archives": 0, "skills": 0, "files": 0, "home": 0}
    for member in reader.members():
        name = member.head.name
        if name == DOCUMENT:
            document = Document.of_bytes(b"".join(member.content))
            _check_counts(document, limits)
        elif name == EVENTS:
            _check_size(member.head.size, limits.log_bytes, "a log", "max_log_mb")
            for event in events_of(member):
                if event["id"] in ids:
                    raise BundleWrong(f"{EVENTS} has the event {event['id']} twice")
                if document is None or len(ids) == document.point.events:
                    raise BundleWrong(f"{EVENTS} has more events than {DOCUMENT} tells of")
                ids[event["id"]] = None
        elif (kind := name.partition("/")[0]) in counts:
            assert document is not None, "it stands before them"
            if kind == "transcripts":
                said_bytes += member.head.size
                _check_size(said_bytes, limits.transcript_bytes, "transcripts", "max_transcript_mb")
            _check_member(document, kind, counts[kind], member)
            counts[kind] += 1
    assert document is not None
    for kind in ("transcripts", "archives", "skills", "files"):
        said = len(getattr(document, kind))
        if said != counts[kind]:
            raise BundleWrong(f"{DOCUMENT} describes {said} members of {kind}/, and there are {counts[kind]}")
    if len(ids) != document.point.events:
        raise BundleWrong(f"{DOCUMENT} tells of {document.point.events} events, and there are {len(ids)}")
    if counts["home"] and not document.has_workspace:
        raise BundleWrong(f"{DOCUMENT} tells of no files of the session, and there are some")
    return Checked(
        document,
        _state(document, ids),
        tuple(ids),
        reader.digest,
        reader.producer,
        reader.count,
        reader.content_bytes,
        reader.times,
        counts["home"],
    )


def events_of(member: Member) -> Iterator[dict[str, Any]]:
    """Each with a proper `id`, `type` and `processed_at`. Raises BundleWrong."""
    for line in lines(member.content):
        event = object_of(line, member)
        try:
            _ID.validate_python(event.get("id"), strict=True)
            parse_rfc3339(event["processed_at"])
        except (ValidationError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise BundleWrong(f"{EVENTS} has an event without a proper id and time") from None
        if event.get("type") not in EVENT_TYPES:
            raise BundleWrong(f"{EVENTS} has an event of type {str(event.get('type'))[:100]!r}, which is none")
        yield event


def entries_of(member: Member) -> Iterator[dict[str, Any]]:
    """Of a transcript. Raises BundleWrong."""
    for line in lines(member.content):
        yield object_of(line, member)


def archived_of(member: Member) -> Iterator[tuple[str, int, Any]]:
    """Subpath, ordinal and entry. Raises BundleWrong."""
    for line in lines(member.content):
        match _value(line, member):
            case [str(subpath), int(ordinal), entry] if type(ordinal) is int:
                yield subpath, ordinal, entry
            case _:
                raise BundleWrong(f"{member.head.name} has a line that is none of an archive")


def object_of(line: bytes, member: Member) -> dict[str, Any]:
    value = _value(line, member)
    if not isinstance(value, dict):
        raise BundleWrong(f"{member.head.name} has a line that is no JSON object")
    return value


def _value(line: bytes, member: Member) -> Any:
    try:
        return json.loads(line, parse_constant=_no_number, parse_float=_number)
    except (ValueError, RecursionError):
        raise BundleWrong(f"{member.head.name} has a line that is no JSON") from None


def _no_number(text: str) -> float:
    raise ValueError(text)


def _number(text: str) -> float:
    found = float(text)
    return found if isfinite(found) else _no_number(text)


def _check_counts(document: Document, limits: BundleLimits) -> None:
    """Before anything of it is held in memory."""
    events, archives = document.point.events, document.archives
    if events > limits.events:
        raise BundleWrong(
            f"the session has {events} events, and {limits.events} are taken: twice sessions.max_events of whoever "
            "imports it"
        )
    if len(archives) > limits.archives:
        raise BundleWrong(f"the session has {len(archives)} archives, and {limits.archives} are taken")
    for what, ids in (("archive", [one.id for one in archives]), ("file", [one.id for one in document.files])):
        if len(set(ids)) != len(ids):
            raise BundleWrong(f"{DOCUMENT} describes two of one id: {what}s")


def _check_size(size: int, most: int, what: str, setting: str) -> None:
    if size > most:
        raise BundleWrong(
            f"the session has {what} of {size} bytes, and {most} are taken: twice sessions.{setting} of whoever "
            "imports it"
        )


def _check_member(document: Document, kind: str, number: int, member: Member) -> None:
    known: int | None = None
    if kind == "transcripts" and number < len(document.transcripts):
        known, found = document.transcripts[number].entries, _count_different(member)
    elif kind == "archives" and number < len(document.archives):
        known, found = document.archives[number].entries, sum(1 for _ in archived_of(member))
    if known is not None and known != found:
        raise BundleWrong(f"{member.head.name} has {found} entries, and {DOCUMENT} tells of {known}")


def _count_different(member: Member) -> int:
    count, seen = 0, set[str]()
    for count, entry in enumerate(entries_of(member), 1):  # noqa: B007 - counted to the end
        uuid = uuid_of(entry)
        if uuid is not None:
            if uuid in seen:
                raise BundleWrong(f"{member.head.name} has an entry twice")
            seen.add(uuid)
    return count


def _state(document: Document, ids: Mapping[str, object]) -> SessionState:
    """The state, which is one that a session can be in between two turns, and that knows the log's events."""
    try:
        state = SessionState.model_validate_json(json.dumps(document.state))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise BundleWrong(f"{DOCUMENT}: state.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if state.status != "terminated":
        try:
            refuse_unless_between_turns(state.model_copy(update={"self_hosted": False}), "an import")
        except (Conflict, InvalidRequest) as error:
            raise BundleWrong(f"it was made in the middle of a turn: {error.message}") from None
    if state.thread_id != document.thread_id:
        raise BundleWrong(f"{DOCUMENT}: state.thread_id is another thread's")
    named = [call.event_id for call in state.calls]
    if state.turn is not None:
        named += [prompt.event_id for prompt in state.turn.prompts]
        if state.self_hosted or not unanswered(state):
            raise BundleWrong(f"{DOCUMENT}: state.turn waits for an answer, and no call does")
    elif state.calls:
        raise BundleWrong(f"{DOCUMENT}: state.calls has calls of no turn")
    if any(name not in ids for name in named):
        raise BundleWrong(f"{DOCUMENT}: state names an event that is not in the log")
    subpaths = [one.subpath for one in document.transcripts]
    if len(set(subpaths)) != len(subpaths) or len({one.number for one in document.archives}) != len(document.archives):
        raise BundleWrong(f"{DOCUMENT} describes a transcript or an archive twice")
    return state


__all__ = ["BundleWrong", "Checked", "HostlerError", "archived_of", "check", "entries_of", "events_of"]
