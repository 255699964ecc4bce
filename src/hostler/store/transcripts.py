"""Where does the harness's own memory of a conversation live? The Agent SDK's `SessionStore` on our database.

Entries are opaque. They come from inside the sandbox, so they may hold anything: what JSON can say comes back
unchanged. An entry's `uuid` makes a repeated append harmless: the first content of a uuid stays. A store that was
made with a lease refuses to write once the lease is lost, in the same transaction.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from claude_agent_sdk import fold_session_summary
from claude_agent_sdk.types import (
    SessionKey,
    SessionListSubkeysKey,
    SessionStore,
    SessionStoreEntry,
    SessionStoreListEntry,
    SessionSummaryEntry,
)
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from hostler.domain.errors import InvalidRequest, TooLarge
from hostler.store.database import Database
from hostler.store.jsontext import decode, encode, plain, size_of_text
from hostler.store.tables import transcript_entries, transcripts
from hostler.store.work import Lease, check

LARGEST_APPEND = 64 << 20
"""Bytes of JSON text that one append may carry. A forked conversation arrives as a single append."""

_LONGEST_KEY = {"project_key": 512, "session_id": 256, "subpath": 1024}
"""Bytes. PostgreSQL indexes no row of more than 2,704 bytes, and all three are in one index."""
_LONGEST_UUID = 64
_LONGEST_SUMMARY = 64 << 10
"""Characters. A summary is read and written at every append, and a title can be as long as an agent likes."""
_LOAD_INLINE = 1 << 20
"""Characters that are parsed on the event loop; longer transcripts go to a thread."""

_Path = tuple[str, str, str]


class TranscriptStore(SessionStore):
    """A `SessionStore` for one session of ours, or for everything.

    session_id  of ours. Takes the place of every `project_key`: the SDK derives that from the working directory, and a
                resume from another directory would not find its conversation. Deleting the session deletes these.
                None: keys are taken as they come.
    lease       of the worker that writes; every write checks it. None: no check.

    Writes raise LeaseLost, InvalidRequest (a key that is too long or holds NUL) and TooLarge.
    """

    def __init__(self, database: Database, *, session_id: str | None = None, lease: Lease | None = None) -> None:
        self._database = database
        self._session_id = session_id
        self._lease = lease

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Add entries in order, those whose uuid the transcript has already left out. All or none."""
        await self.append_new(key, entries)

    async def append_new(
        self, key: SessionKey, entries: Sequence[SessionStoreEntry], *, replacing: bool = False
    ) -> int:
        """Like `append`; tells how many entries were new. `replacing`: what the transcript had before goes first."""
        path = self._path(key)
        if not entries:
            return 0
        rows = [(uuid_of(entry), encode(entry)) for entry in entries]
        size = sum(len(text.encode()) for _, text in rows)
        if size > LARGEST_APPEND:
            raise TooLarge(f"a transcript append of {size} bytes is larger than {LARGEST_APPEND}")

        def unit(conn: Connection) -> int:
            now = self._database.now(conn)
            if self._lease is not None:
                check(conn, now, self._lease)
            if replacing:
                conn.execute(transcript_entries.delete().where(*_at(transcript_entries, path)))
                conn.execute(transcripts.update().where(*_at(transcripts, path)).values(bytes=0))
            ordinals = _append(conn, now, path, rows)
            if self._session_id is None and not path[2] and ordinals:
                fresh = [entries[at] for at in ordinals]
                _fold(conn, path, key, fresh)
            return len(ordinals)

        return await self._database.write(unit)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """All entries in order; None when nothing was ever appended."""
        path = self._path(key)
        texts = await self._database.read(lambda conn: _load(conn, path))
        if sum(map(len, texts)) > _LOAD_INLINE:
            return await asyncio.to_thread(lambda: [decode(text) for text in texts])
        return [decode(text) for text in texts] or None

    async def texts(self, key: SessionKey) -> Sequence[str]:
        """The same as JSON text, each on one line, as it is stored: what only passes through need not be parsed."""
        path = self._path(key)
        return await self._database.read(lambda conn: _load(conn, path))

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """Main transcripts of a project, with the milliseconds of their last append by the database's clock."""
        project = self._project(project_key)
        query = sa.select(transcripts.c.session_id, transcripts.c.mtime_ms)
        query = query.where(transcripts.c.project_key == project, transcripts.c.subpath == "")
        rows = await self._database.read(lambda conn: conn.execute(query).all())
        return [{"session_id": session_id, "mtime": mtime} for session_id, mtime in rows]

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """What the SDK folded from the main transcripts of a project, kept with every append."""
        project = self._project(project_key)
        query = sa.select(transcripts.c.session_id, transcripts.c.mtime_ms, transcripts.c.summary)
        query = query.where(transcripts.c.project_key == project, transcripts.c.subpath == "")
        rows = await self._database.read(lambda conn: conn.execute(query).all())
        return [{"session_id": name, "mtime": mtime, "data": decode(summary)} for name, mtime, summary in rows]

    async def delete(self, key: SessionKey) -> None:
        """Remove a transcript; a main transcript takes those of its sub-agents with it."""
        project, name, subpath = self._path(key)

        def unit(conn: Connection) -> None:
            if self._lease is not None:
                check(conn, self._database.now(conn), self._lease)
            for table in (transcripts, transcript_entries):
                gone = table.delete().where(table.c.project_key == project, table.c.session_id == name)
                conn.execute(gone.where(table.c.subpath == subpath) if subpath else gone)

        await self._database.write(unit)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """The subpaths of a transcript, sorted."""
        project, name, _ = self._path({"project_key": key["project_key"], "session_id": key["session_id"]})
        query = sa.select(transcripts.c.subpath).where(
            transcripts.c.project_key == project, transcripts.c.session_id == name, transcripts.c.subpath != ""
        )
        return list(await self._database.read(lambda conn: conn.execute(query.order_by(sa.text("1"))).scalars().all()))

    def gapless(self) -> GaplessTranscripts:
        """The same transcripts, for one process of the harness that hands over its entries."""
        return GaplessTranscripts(self._database, session_id=self._session_id, lease=self._lease)

    # What the engine needs to close calls whose outcome nobody recorded, before it resumes a conversation.

    async def has_uuid(self, key: SessionKey, uuid: str) -> bool:
        """Whether the transcript has an entry of this uuid: a prompt of that uuid was taken in."""
        project, name, subpath = self._path(key)
        at = transcript_entries.c
        query = sa.select(at.ordinal).where(
            at.project_key == project, at.session_id == name, at.subpath == subpath, at.uuid == uuid_of({"uuid": uuid})
        )
        return await self._database.read(lambda conn: conn.execute(query).first()) is not None

    async def append_entry(self, key: SessionKey, entry: Mapping[str, Any]) -> bool:
        """Add one entry. False: the transcript has its uuid already, and nothing changed."""
        return await self.append_new(key, [cast(SessionStoreEntry, dict(entry))]) == 1

    async def leaf(self, key: SessionKey) -> dict[str, Any] | None:
        """The last entry that has a uuid: the one that a new entry names as its `parentUuid`. None: no such entry."""
        project, name, subpath = self._path(key)
        at = transcript_entries.c
        query = sa.select(at.entry).where(
            at.project_key == project, at.session_id == name, at.subpath == subpath, at.uuid.is_not(None)
        )
        last = query.order_by(at.ordinal.desc()).limit(1)
        text = await self._database.read(lambda conn: conn.execute(last).scalar())
        return None if text is None else decode(text)

    def _project(self, project_key: str) -> str:
        return self._session_id if self._session_id is not None else project_key

    def _path(self, key: SessionKey) -> _Path:
        found = {
            "project_key": self._project(key["project_key"]),
            "session_id": key["session_id"],
            "subpath": key.get("subpath") or "",
        }
        for name, text in found.items():
            if len(plain(text).encode()) > _LONGEST_KEY[name]:
                raise InvalidRequest(f"the {name} of a transcript may have {_LONGEST_KEY[name]} bytes at most")
        return found["project_key"], found["session_id"], found["subpath"]


class GaplessTranscripts(TranscriptStore):
    """Takes nothing more once it has lost something, except that very thing.

    The SDK gives an append up after a few tries, and goes on with the next. A transcript that ends early is a turn that
    is taken up again; one with a hole is a conversation that no model accepts.
    """

    def __init__(self, database: Database, *, session_id: str | None, lease: Lease | None) -> None:
        super().__init__(database, session_id=session_id, lease=lease)
        self._lost: dict[_Path, list[str]] = {}

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Raises InvalidRequest for what stands behind a gap, besides what `TranscriptStore.append` raises."""
        path, texts = self._path(key), [encode(entry) for entry in entries]
        lost = self._lost.get(path, texts)
        if texts[: len(lost)] != lost:
            raise InvalidRequest("entries before these could not be stored, so these are not")
        self._lost[path] = texts  # also if this is cancelled
        await super().append(key, entries)
        del self._lost[path]


def _append(conn: Connection, now: float, path: _Path, rows: Sequence[tuple[str | None, str]]) -> list[int]:
    """Positions in `rows` of those that were new, in order."""
    project, name, subpath = path
    place = {"project_key": project, "session_id": name, "subpath": subpath}
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    # This row is the lock of the transcript: appends to it come one after the other.
    size = sum(size_of_text(text) for _, text in rows)
    head = dialect.insert(transcripts).values(**place, next_ordinal=len(rows), mtime_ms=int(now * 1000), bytes=size)
    later = sa.case((transcripts.c.mtime_ms > int(now * 1000), transcripts.c.mtime_ms), else_=int(now * 1000))
    ordinal = conn.execute(
        head.on_conflict_do_update(
            index_elements=["project_key", "session_id", "subpath"],
            set_={
                "next_ordinal": transcripts.c.next_ordinal + len(rows),
                "mtime_ms": later,
                "bytes": transcripts.c.bytes + size,
            },
        ).returning(transcripts.c.next_ordinal)
    ).scalar_one() - len(rows)
    values = [{**place, "ordinal": ordinal + at, "uuid": uuid, "entry": text} for at, (uuid, text) in enumerate(rows)]
    added = dialect.insert(transcript_entries).on_conflict_do_nothing().returning(transcript_entries.c.ordinal)
    new = sorted(found - ordinal for found in conn.execute(added, values).scalars())
    if len(new) < len(rows):
        counted = size - sum(size_of_text(rows[at][1]) for at in new)
        conn.execute(transcripts.update().where(*_at(transcripts, path)).values(bytes=transcripts.c.bytes - counted))
    return new


def _at(table: sa.Table, path: _Path) -> list[sa.ColumnElement[bool]]:
    return [column == value for column, value in zip(list(table.c)[:3], path, strict=True)]


def _fold(conn: Connection, path: _Path, key: SessionKey, fresh: list[SessionStoreEntry]) -> None:
    """Keep the SDK's summary of a main transcript. Transcripts of our sessions have none: nobody asks for it."""
    here = _at(transcripts, path)
    mtime, summary = conn.execute(sa.select(transcripts.c.mtime_ms, transcripts.c.summary).where(*here)).one()
    conn.execute(transcripts.update().where(*here).values(summary=_folded(summary, mtime, key, fresh)))


def _folded(summary: str | None, mtime: int, key: SessionKey, fresh: list[SessionStoreEntry]) -> str:
    """The next summary. The one before stays when these entries break the SDK's fold, or blow the summary up."""
    before: SessionSummaryEntry | None = None
    if summary is not None:
        before = {"session_id": key["session_id"], "mtime": mtime, "data": decode(summary)}
    try:
        text = encode(fold_session_summary(before, key, fresh)["data"])
    except Exception:  # entries come from a sandbox: a date without a year must not cost the transcript
        text = ""
    return text if 0 < len(text) <= _LONGEST_SUMMARY else summary or "{}"


def _load(conn: Connection, path: _Path) -> Sequence[str]:
    project, name, subpath = path
    at = transcript_entries.c
    query = sa.select(at.entry).where(at.project_key == project, at.session_id == name, at.subpath == subpath)
    return conn.execute(query.order_by(at.ordinal)).scalars().all()


def uuid_of(entry: Mapping[str, Any]) -> str | None:
    """The idempotency key of an entry. One that no column or index can hold is replaced by its digest."""
    uuid = entry.get("uuid")
    if not isinstance(uuid, str) or not uuid:
        return None
    if len(uuid) <= _LONGEST_UUID and uuid.isascii() and uuid.isprintable():
        return uuid
    return "sha256:" + hashlib.sha256(uuid.encode("utf-8", "surrogatepass")).hexdigest()
