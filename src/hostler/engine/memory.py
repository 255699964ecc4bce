"""What must a session's transcript say before a process goes on from it?

The transcript is the harness's memory. After a loss, an interrupt or a wait it can lack what the log has, or have what
the log lacks. `Memory` brings the two together while no process runs: a process would not notice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hostler.domain.ids import derived_uuid
from hostler.engine import runs, turns
from hostler.engine.catchup import unrecorded
from hostler.engine.composer import Op, composer_of, joined
from hostler.engine.ports import ModelRequestRecord, SequenceStore
from hostler.engine.profile import Profile, transcript_id
from hostler.engine.records import Applied
from hostler.engine.state import Moment, OpenCall, SessionState, Step, Totals, Unclosed
from hostler.engine.transcript import call_entry, closing_entry, deferral_entry, is_answered, look_up
from hostler.store.sessions import SessionRow
from hostler.store.work import Lease

Apply = Callable[[Callable[[SessionState, Moment, Totals, SessionRow], Step]], Awaitable[Applied]]
"""Records a step under the lease of the session."""


class Transcripts(Protocol):
    """The transcript store, bound to one session and fenced by one lease."""

    async def load(self, key: Any) -> list[Any] | None: ...

    async def texts(self, key: Any) -> Sequence[str]: ...

    async def leaf(self, key: Any) -> dict[str, Any] | None: ...

    async def has_uuid(self, key: Any, uuid: str) -> bool: ...

    async def append_entry(self, key: Any, entry: Any) -> bool: ...

    async def delete(self, key: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a runner does with the store besides the log. Functions, so that the runner needs no database."""

    extend: Callable[[Lease], Any]
    """async: True while the lease holds."""
    read_state: Callable[[str], Any]
    """async: the session's row, read without a lock."""
    messages_since: Callable[[str, str], Any]
    """async: how many `agent.message` events the session has after the event of this id."""
    cli_version: Callable[[str, str], Any]
    """async: of `claude`, as the workspace's environment of this id asks for it now; None: it doesn't."""
    read_event: Callable[[str, str], Any]
    """async: the event of this id as a dict; None when there is none."""
    record_request: Callable[[ModelRequestRecord], Any]
    """async: durable when it returns."""
    transcripts: Callable[[Lease], Transcripts]
    sequence: Callable[[Lease], SequenceStore]
    close_held: Callable[[Lease, Mapping[str, tuple[Any, bool]]], Any]
    """async: calls that the road holds get these results: content, and whether it is an error, by id."""
    forget_held: Callable[[Lease, frozenset[str]], Any]
    """async: of the calls that the road holds, those of the newest answer that are not among these ids, which are all
    that the log has of the turn."""


def _untold(found: Sequence[runs.Compacted], known: str | None) -> Sequence[runs.Compacted]:
    """The compactions behind the one that the log has told last."""
    at = next((at for at, each in enumerate(found) if each.boundary == known), None)
    if known is not None and at is None:  # the transcript was taken back to before it
        return ()
    return found if at is None else found[at + 1 :]


def _compacted(each: runs.Compacted) -> Op:
    return lambda state, at, _: turns.compacted(state, at, each.boundary)


class Memory:
    """The transcript of one session, under one lease."""

    def __init__(
        self,
        lease: Lease,
        ledger: Ledger,
        harness: runs.Harness,
        apply: Apply,
        profile_of: Callable[[SessionRow], Profile],
    ) -> None:
        self.transcripts = ledger.transcripts(lease)
        self._lease = lease
        self._session_id = lease.session_id
        self._ledger = ledger
        self._harness = harness
        self._apply = apply
        self._profile_of = profile_of
        self._key = {"project_key": "-workspace", "session_id": transcript_id(lease.session_id)}

    async def exists(self) -> bool:
        """Whether there is anything to go on from."""
        return await self.transcripts.leaf(self._key) is not None

    async def read(self) -> Sequence[str]:
        """All entries, each as JSON on one line; none where there is nothing to go on from."""
        return await self.transcripts.texts(self._key) if await self.exists() else ()

    async def has(self, uuid: str) -> bool:
        """Whether the prompt of this key was taken in."""
        return await self.transcripts.has_uuid(self._key, uuid)

    async def is_answered(self, uuid: str) -> bool:
        """Whether the prompt of this key was taken in, and the model has said its last word on it."""
        return await self.has(uuid) and is_answered(await self._entries())

    async def forget(self) -> None:
        """The conversation begins anew with the next prompt. Not while a process lives."""
        await self.transcripts.delete(self._key)

    async def _entries(self) -> list[Any]:
        return await self.transcripts.load(self._key) or []

    async def catch_up(self) -> None:
        """The process of a turn is gone: bring transcript and log to the same point, which is the farthest of both."""
        applied = await self._apply(lambda s, at, totals, _: Step(s))
        turn = applied.state.turn
        if turn is None:
            return
        harness, prompt = self._harness, derived_uuid("prompt", turn.id)
        entries = await harness.catch_up(self._key["session_id"], self.transcripts, applied.at.text)
        begun = next((at for at, entry in enumerate(entries) if entry.get("uuid") == prompt), len(entries))
        told = _untold(harness.compactions(entries), applied.state.boundary)
        if told:
            await self._apply(lambda s, at, totals, _: joined([_compacted(each) for each in told])(s, at, totals))
        if not turn.prompts:  # it only compacts
            return
        calls = {c.tool_use_id for c in applied.state.calls} | {c.tool_use_id for c in applied.state.settled}
        messages = await self._ledger.messages_since(self._session_id, turn.prompts[-1].event_id)
        profile = self._profile_of(applied.session)
        composer = composer_of(profile)
        composer.dropping_errors = applied.state.interrupt is not None
        recalled = [harness.recall(entry) for entry in entries[begun + 1 :]]
        ops = unrecorded(recalled, known_calls=calls, messages=messages, composer=composer)
        if ops:
            step = joined(ops)
            applied = await self._apply(lambda s, at, totals, _: step(s, at, totals))
        known = {c.tool_use_id for c in applied.state.calls} | {c.tool_use_id for c in applied.state.settled}
        await self._ledger.forget_held(self._lease, frozenset(known))

    async def close(self, unclosed: Sequence[Unclosed]) -> None:
        """End in the transcript, and for the road that may hold it, what is ended in the log."""
        entries = await self._entries()
        at = (await self._apply(lambda s, at, t, _: Step(s))).at.text
        results = {}
        for call in unclosed:
            content = call.text if call.content is None else list(call.content)
            results[call.tool_use_id] = (content, call.is_error)
            entry = closing_entry(entries, call.tool_use_id, content, at, is_error=call.is_error)
            if entry is not None:
                await self.transcripts.append_entry(self._key, entry)
                entries.append(entry)
        await self._ledger.close_held(self._lease, results)
        ids = frozenset(results)
        await self._apply(lambda s, at, t, _: turns.closed_in_transcript(s, ids))

    async def ready_to_resume(self) -> bool:
        """Make sure that the transcript ends in a waiting call that a new process will execute."""
        entries = await self._entries()
        applied = await self._apply(lambda s, at, t, _: Step(s))
        waiting = [call for call in applied.state.calls if not look_up(entries, call.tool_use_id).has_result]
        shown = [call for call in waiting if look_up(entries, call.tool_use_id).used is not None]
        if not shown and waiting:
            shown = [call for call in waiting[:1] if await self._show(entries, call, applied.at.text)]
        for call in shown:
            mark = deferral_entry(entries, call.tool_use_id, applied.at.text)
            if mark is not None:
                await self.transcripts.append_entry(self._key, mark)
            return True
        return False

    async def _show(self, entries: list[Any], call: OpenCall, at: str) -> bool:
        """Write into the transcript a call that the gateway held when the process died. False: that can't be done."""
        body = await self._ledger.read_event(self._session_id, call.event_id)
        if body is None:
            return False
        elsewhere = call.kind in ("custom", "hosted")
        made = runs.ToolCall(call.tool_use_id, call.name, body["input"], elsewhere, call.server)
        entry = call_entry(entries, call.tool_use_id, self._harness.call_entry(made), at)
        if entry is not None:
            await self.transcripts.append_entry(self._key, entry)
            entries.append(entry)
        return entry is not None
