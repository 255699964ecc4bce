"""What stands in for a session while a process belongs to none yet?

A process is started with those who decide about its calls, who keep its transcript and who are asked before its context
is compacted. A spare has no session, so it gets `LateTies`: before they are tied nothing is allowed and nothing is
kept; afterwards everything goes to the session's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from hostler.engine.runs import ContextKeeper, Deny, Gatekeeper, GoAhead, NotNow, ToolCall, ToolOutcome, Verdict

NOBODY: Final = "This process belongs to no session yet."


@dataclass(frozen=True, slots=True)
class Ties:
    """Whose a process is."""

    transcript_id: str
    """Under which the session's conversation is kept."""
    transcripts: Any
    gatekeeper: Gatekeeper
    keeper: ContextKeeper | None


class LateTies:
    """Implements `Gatekeeper`, `ContextKeeper` and the store of transcripts. `tie` once."""

    def __init__(self, transcript_id: str) -> None:
        """`transcript_id`: the one that the process was started with, and goes on using."""
        self._own_id = transcript_id
        self._ties: Ties | None = None
        self._gapless: Any = None

    def tie(self, ties: Ties) -> None:
        assert self._ties is None, "a process belongs to one session"
        self._ties, self._gapless = ties, ties.transcripts.gapless()

    # -- Gatekeeper

    async def permit(self, call: ToolCall) -> Verdict:
        return Deny(NOBODY) if self._ties is None else await self._ties.gatekeeper.permit(call)

    async def result(self, tool_use_id: str) -> ToolOutcome:
        if self._ties is None:
            return ToolOutcome([{"type": "text", "text": NOBODY}], True)
        return await self._ties.gatekeeper.result(tool_use_id)

    # -- ContextKeeper

    async def before(self, trigger: Literal["auto", "manual"], last_entry: str | None) -> GoAhead | NotNow:
        if self._ties is None:
            return NotNow(NOBODY)
        return GoAhead("") if self._ties.keeper is None else await self._ties.keeper.before(trigger, last_entry)

    async def besides(self, summary: str | None) -> str | None:
        keeper = None if self._ties is None else self._ties.keeper
        return None if keeper is None else await keeper.besides(summary)

    # -- transcripts, as the harness uses them: the process names its own conversation, the session's is meant

    def gapless(self) -> LateTies:
        """As `TranscriptStore.gapless`: `append`, which only the process uses, is that one's."""
        return self

    async def append(self, key: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
        if self._gapless is None:
            raise LookupError(NOBODY)
        await self._gapless.append(self._key(key), [self._entry(entry) for entry in entries])

    async def append_new(
        self, key: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], *, replacing: bool = False
    ) -> Any:
        told = [self._entry(entry) for entry in entries]
        return await self._transcripts.append_new(self._key(key), told, replacing=replacing)

    async def load(self, key: Mapping[str, Any]) -> Any:
        return None if self._ties is None else await self._ties.transcripts.load(self._key(key))

    async def delete(self, key: Mapping[str, Any]) -> None:
        await self._transcripts.delete(self._key(key))

    @property
    def _transcripts(self) -> Any:
        if self._ties is None:
            raise LookupError(NOBODY)
        return self._ties.transcripts

    def _key(self, key: Mapping[str, Any]) -> dict[str, Any]:
        assert self._ties is not None, "looked at before"
        named = key["session_id"]
        return {**key, "session_id": self._ties.transcript_id if named == self._own_id else named}

    def _entry(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """As a process would have written it that was started for the session: later ones go on from it."""
        assert self._ties is not None, "looked at before"
        known = entry.get("sessionId") == self._own_id
        return {**entry, "sessionId": self._ties.transcript_id} if known else dict(entry)
