"""What may be asked about the points of a session? Taking one, going back to one, forking from one, comparing two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from hostler.domain.sessions import Title
from hostler.domain.values import Identifier, Metadata, Text, Value, problem

NOW: Final = "now"
"""In place of a checkpoint: the session as it is."""
KEPT_BY_HAND: Final = 100
"""Checkpoints of one session that were taken by hand; they stay until somebody removes them."""

Reason = Literal["manual", "automatic", "rewind", "fork", "export"]
"""Why one was taken: somebody asked for it; it was due; before going back; to fork from; to export, until that is
done."""


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise problem("must be printable and not blank; give a name to recognise it by, or leave it out")
    return text


class CreateCheckpoint(Value):
    """A checkpoint by hand."""

    name: Annotated[Text, Field(max_length=256), AfterValidator(_name)] | None = None


class Rewind(Value):
    """Back to a checkpoint of the same session."""

    checkpoint_id: Identifier
    force: bool = False
    """Also restore memories that others have changed since."""


class ForkSession(Value):
    """A new session that begins at a checkpoint, or at the present."""

    checkpoint_id: Identifier | None = None
    title: Title | None = None
    """None: the title of the session that is forked."""
    metadata: Metadata | None = None
    """None: that of the session that is forked."""


@dataclass(frozen=True, slots=True)
class DiffQuery:
    """Two points to compare."""

    before: str | None
    """Id of a checkpoint. None: the newest."""
    after: str
    """Id of a checkpoint, of a fork of the session, or `now`."""
    path: str | None = None
    """A file to show the differences of, such as `workspace/notes.md`."""
