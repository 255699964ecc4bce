"""What does `session.json` say? All of a session that is not a list of events, entries or files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from hostler.bundles.tar import BundleWrong
from hostler.domain.values import Identifier, Text, Value, problem
from hostler.store.sessions import Usage

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Part = Literal["workspace", "files", "archives"]
"""What may be left out."""


def _short(text: str) -> str:
    if len(text.encode("utf-8", "surrogatepass")) > 1024:
        raise problem("is longer than 1024 bytes")
    return text


def _known(usage: dict[str, int]) -> dict[str, int]:
    if unknown := usage.keys() - set(Usage.__slots__):
        raise problem(f"has {sorted(unknown)[0][:100]!r}, which is nothing that is counted")
    return usage


class TranscriptFacts(Value):
    """A member of `transcripts/`: what the harness remembers of the conversation, or of one of its subagents."""

    subpath: Annotated[Text, Field(max_length=1024), AfterValidator(_short)]
    """Empty: the conversation itself."""
    entries: Count
    mtime_ms: Count


class ArchiveFacts(Value):
    """A member of `archives/`: what the conversation was before it was compacted. One line for each entry:
    `[subpath, ordinal, entry]`."""

    id: Identifier
    number: Annotated[int, Field(ge=1, lt=1 << 31)]
    entries: Count
    upto: dict[str, Count]
    """How many of the entries in `transcripts/` were there already, by subpath."""
    created_at: Annotated[Text, Field(max_length=40)]


class SkillFacts(Value):
    """A member of `skills/`: what the session was given of a skill, as a zip archive."""

    skill_id: Identifier
    version: Identifier
    name: Text
    description: Text


class FileFacts(Value):
    """A member of `files/`: what a client has attached, or what the session has put out."""

    id: Identifier
    filename: Annotated[Text, Field(min_length=1, max_length=1024)]
    mime_type: Annotated[Text, Field(min_length=1, max_length=256)]
    downloadable: bool
    created_at: Annotated[Text, Field(max_length=40)]
    output_path: Annotated[Text, Field(max_length=16384)] | None
    """Where it lies in the session's outputs folder; null for an attached one."""


class CheckpointFacts(Value):
    """A point that the session could go back to. For readers: it can't be gone back to after an import."""

    id: Identifier
    name: Text | None
    reason: Text
    events: Count
    """How many of the events in `events.jsonl` were there."""
    created_at: Text


class PointFacts(Value):
    """The point of the session that the bundle has."""

    checkpoint_id: Identifier | None
    """Null: the session as it was when it was exported."""
    events: Count
    exported_at: Text


class Document(Value):
    """Everything as the wire shows it where the wire has it."""

    session: dict[str, Any]
    agent: dict[str, Any]
    environment: dict[str, Any]
    """With the configuration that the session began with."""
    thread_id: Identifier
    transcript_id: Identifier
    state: dict[str, Any]
    """What the session does next. Of the program that wrote the bundle."""
    sequence: dict[str, Any] | None
    """Which calls of an answer are held back. Of the program that wrote the bundle."""
    usage: Annotated[dict[str, Count], AfterValidator(_known)]
    """What it has used there: tokens, searches, list price in billionths of a US dollar."""
    point: PointFacts
    transcripts: tuple[TranscriptFacts, ...]
    archives: tuple[ArchiveFacts, ...]
    skills: tuple[SkillFacts, ...]
    files: tuple[FileFacts, ...]
    tokens: tuple[Identifier, ...]
    """The repositories (ids of resources) that had a token. It has to be sent again."""
    checkpoints: tuple[CheckpointFacts, ...]
    has_workspace: bool
    left_out: tuple[Part, ...]

    @staticmethod
    def of_bytes(data: bytes) -> Document:
        """Raises BundleWrong."""
        try:
            return Document.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise BundleWrong(f"session.json: {place}: {first['msg']}") from None
