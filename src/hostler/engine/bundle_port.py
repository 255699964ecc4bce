"""What can be asked of the part that takes sessions from one installation to another? See `hostler.bundles`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Part = Literal["workspace", "files", "archives"]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    checkpoint_id: str | None = None
    """None: the session as it is."""
    without: frozenset[Part] = frozenset()


@dataclass(frozen=True, slots=True)
class ImportOptions:
    keep_ids: bool = False
    """The ids of the session, its events, files and archives stay. Else they are new, wherever they are named."""
    create: bool = False
    """Agent and environment are made anew, as the bundle describes them."""
    agent_id: str | None = None
    """The session goes on with this agent, at its current version."""
    environment_id: str | None = None
    """The session goes on in this environment, as it is now."""
    vaults: Mapping[str, str | None] = field(default_factory=dict)
    """What takes the place of each vault that the bundle names. None: nothing does."""
    memory_stores: Mapping[str, str | None] = field(default_factory=dict)
    """The same for memory stores."""
    title: str | None = None
    """None: that of the bundle."""
    digest: str | None = None
    """Refuse any other bundle than that with this digest."""


class Pieces(Protocol):
    """Bytes that are read one after the other."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OpenBundle:
    """A bundle that is complete, and is about to be sent."""

    session_id: str
    digest: str
    """SHA-256 of its manifest."""
    size: int
    """Bytes."""
    pieces: Pieces
    """Close it, read or not."""


class Bundles(Protocol):
    """Of all workspaces. Every method raises NotFound for a session of another one."""

    @property
    def most_bytes(self) -> int:
        """How large the file of a bundle may be."""
        ...

    async def export(self, workspace: str, session_id: str, options: ExportOptions) -> OpenBundle:
        """Raises Conflict while the session runs; InvalidRequest when it can't be exported, is larger than the limits,
        or when it holds a secret that it could use; Busy when too many are under way."""
        ...

    async def take_in(self, workspace: str, chunks: AsyncIterator[bytes], options: ImportOptions) -> dict[str, Any]:
        """The new session, and what of the bundle it lacks. All or nothing.

        Raises InvalidRequest when it is no whole bundle, or when something has to be decided first; TooLarge; NotFound
        for what the options name; Conflict, with `keep_ids`, when an id is in use; QuotaExceeded; Busy.
        """
        ...
