"""How do two points of a session differ? What was said, which files and memories changed, and what it cost."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sqlalchemy import Connection

from hostler.domain.checkpoints import NOW, DiffQuery
from hostler.domain.errors import Conflict, InvalidRequest, NotFound
from hostler.engine import memory_points
from hostler.engine.checkpoints import Checkpoints
from hostler.engine.copies import calls_since
from hostler.engine.points import usage_view
from hostler.engine.snapshot_port import Change, SnapshotDamaged
from hostler.store import checkpoints as rows
from hostler.store import homes, lines
from hostler.store.checkpoints import Memories
from hostler.store.database import Database
from hostler.store.jsontext import decode
from hostler.store.lines import Spans
from hostler.store.sessions import SessionRow, Usage, get_session

View = dict[str, Any]

MOST_MESSAGES: Final = 200
MOST_FILES: Final = 1_000
MOST_TEXT: Final = 1 << 20
"""Bytes of a file whose text is compared."""
_SAID = ("user.message", "agent.message")


class SnapshotContents(Protocol):
    """What diffs need of the snapshots."""

    async def latest_id(self, session_id: str) -> str | None: ...

    async def changes(self, before_id: str, after_id: str) -> Sequence[Change]:
        """Raises NotFound, SnapshotDamaged."""
        ...

    async def content(self, snapshot_id: str, path: str, most: int) -> bytes | None:
        """What a file says, its first `most` bytes. None: there is no such file. Raises NotFound, SnapshotDamaged."""
        ...


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two points."""

    session: SessionRow
    id: str
    seq: int
    spans: Spans
    memories: Memories
    usage: Usage
    snapshot_id: str | None


class Diffs:
    """Of all workspaces. Raises NotFound for what another one has."""

    def __init__(self, database: Database, checkpoints: Checkpoints, snapshots: SnapshotContents) -> None:
        self._database = database
        self._checkpoints = checkpoints
        self._snapshots = snapshots

    async def diff(self, workspace: str, session_id: str, query: DiffQuery) -> View:
        """From a checkpoint to another point of the session, or to the present of a fork of it.

        Events and memories are of one moment. The files of the present are those that the last turn left; while the
        next one runs, `files.complete` is false.
        """
        latest, complete = await self._latest(workspace, session_id, query.after)

        def unit(conn: Connection) -> tuple[_Side, _Side, View, list[View]]:
            before = self._point(conn, workspace, session_id, query.before)
            after = self._side(conn, workspace, session_id, query.after, latest)
            return before, after, _events(conn, before, after), _memories(before, after)

        before, after, events, memories = await self._database.read(unit)
        return {
            "type": "session_diff",
            "session_id": session_id,
            "from": _named(before),
            "to": _named(after),
            "events": events,
            "files": {**await self._files(before, after), "complete": complete},
            "memories": memories,
            "cost": _cost(before, after),
            "text": None if query.path is None else await self._text(before, after, query.path),
        }

    async def _latest(self, workspace: str, session_id: str, name: str) -> tuple[str | None, bool]:
        """The snapshot of the present that is meant, and whether it has all that was done. None: of a checkpoint."""
        if name != NOW and not name.startswith("sesn_"):
            return None, True
        meant = session_id if name == NOW else name

        def covers(conn: Connection) -> bool:
            begun = (get_session(conn, workspace, meant).forked_from or {}).get("events", 0)
            home = homes.get_home(conn, meant)
            return not calls_since(conn, meant, begun if home is None else max(begun, home.kept_seq), None)

        complete = await self._database.read(covers)
        if not complete:  # a turn has just ended, or runs, or was cut off
            try:
                await self._checkpoints.keep_files(workspace, meant)
                complete = True
            except (Conflict, InvalidRequest):
                pass
        return await self._snapshots.latest_id(meant), complete

    def _side(self, conn: Connection, workspace: str, session_id: str, name: str, latest: str | None) -> _Side:
        if name == NOW:
            return self._present(conn, get_session(conn, workspace, session_id), latest)
        if not name.startswith("sesn_"):
            return self._point(conn, workspace, session_id, name)
        row = get_session(conn, workspace, name)
        if row.forked_from is None or row.forked_from["session_id"] != session_id:
            raise NotFound(f"session {name} was not forked from {session_id}")
        return self._present(conn, row, latest)

    @staticmethod
    def _point(conn: Connection, workspace: str, session_id: str, checkpoint_id: str | None) -> _Side:
        if checkpoint_id is None:
            newest = rows.list_checkpoints(conn, workspace, session_id, limit=1, after=None).rows
            if not newest:
                raise NotFound(f"session {session_id} has no checkpoint; take one first")
            row = newest[0]
        else:
            row = rows.get_checkpoint(conn, workspace, session_id, checkpoint_id)
        session = get_session(conn, workspace, session_id)
        return _Side(session, row.id, row.seq, row.line.events, row.memories, row.usage, row.snapshot_id)

    @staticmethod
    def _present(conn: Connection, session: SessionRow, latest: str | None) -> _Side:
        spans = lines.counting(conn, session.id, session.last_seq)
        memories = memory_points.versions_now(conn, session)
        return _Side(session, NOW, session.last_seq, spans, memories, session.usage, latest)

    async def _files(self, before: _Side, after: _Side) -> View:
        found: Sequence[Change] = ()
        if before.snapshot_id is not None and after.snapshot_id is not None:
            try:
                found = await self._snapshots.changes(before.snapshot_id, after.snapshot_id)
            except SnapshotDamaged as error:
                raise InvalidRequest(f"the files of one of the two points can't be read any more: {error}") from error
        return {
            "changes": [
                {
                    "path": change.path,
                    "how": change.how,
                    "before_bytes": change.before_bytes,
                    "after_bytes": change.after_bytes,
                }
                for change in found[:MOST_FILES]
            ],
            "count": len(found),
            "by_kind": dict(sorted(Counter(change.how for change in found).items())),
        }

    async def _text(self, before: _Side, after: _Side, path: str) -> View:
        """A unified diff. Only of text, and of files that are not too large for anybody to read."""
        texts: list[list[str]] = []
        is_known = False
        for side in (before, after):
            content = None
            if side.snapshot_id is not None:
                content = await self._snapshots.content(side.snapshot_id, path, MOST_TEXT + 1)
            is_known = is_known or content is not None
            if content is not None and len(content) > MOST_TEXT:
                raise InvalidRequest(f"path: {path} is larger than {MOST_TEXT} bytes; its text is not compared")
            try:
                texts.append([] if content is None else content.decode().splitlines(keepends=True))
            except UnicodeDecodeError:
                raise InvalidRequest(f"path: {path} is no UTF-8 text; only text is compared") from None
        if not is_known:
            raise InvalidRequest(f"path: {path} is a file at neither point; write it as workspace/notes.md")
        unified = difflib.unified_diff(texts[0], texts[1], fromfile=f"{before.id}/{path}", tofile=f"{after.id}/{path}")
        return {"path": path, "unified": "".join(_whole(line) for line in unified)}


def _whole(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _named(side: _Side) -> View:
    return {"session_id": side.session.id, "point": side.id, "seq": side.seq, "snapshot_id": side.snapshot_id}


def _events(conn: Connection, before: _Side, after: _Side) -> View:
    """Events have the same ids in a fork, so what was added and removed is told by them."""
    ours = lines.events_of(conn, before.session.id, before.spans)
    theirs = lines.events_of(conn, after.session.id, after.spans)
    added = [facts for id_, facts in theirs.items() if id_ not in ours]
    said = [seq for seq, type_ in added if type_ in _SAID]
    return {
        "added": len(added),
        "removed": sum(id_ not in theirs for id_ in ours),
        "added_by_type": dict(sorted(Counter(type_ for _, type_ in added).items())),
        "messages": [decode(text) for text in lines.bodies_of(conn, after.session.id, said[:MOST_MESSAGES])],
        "messages_count": len(said),
    }


def _memories(before: _Side, after: _Side) -> list[View]:
    out: list[View] = []
    for store_id in sorted({*before.memories, *after.memories}):
        ours, theirs = before.memories.get(store_id, {}), after.memories.get(store_id, {})
        for memory_id in sorted({*ours, *theirs}):
            was, is_ = ours.get(memory_id), theirs.get(memory_id)
            if was == is_:
                continue
            how = "added" if was is None else "removed" if is_ is None else "changed"
            out.append(
                {
                    "memory_store_id": store_id,
                    "memory_id": memory_id,
                    "how": how,
                    "path": (is_ or was or ("", "", ""))[1],
                    "before_version_id": was and was[0],
                    "after_version_id": is_ and is_[0],
                }
            )
    return out


def _cost(before: _Side, after: _Side) -> View:
    """What was used between. Of a fork: all that it has used, for it began with nothing."""
    used = usage_view(after.usage)
    if after.session.id == before.session.id:
        earlier = usage_view(before.usage)
        used = {name: value - earlier[name] for name, value in used.items()}
    return used
