"""How is a bundle put together? What counts at a point is read in pages, and written as members."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, BinaryIO, Final

from pydantic import TypeAdapter
from sqlalchemy import Connection

from hostler.bundles.document import (
    ArchiveFacts,
    CheckpointFacts,
    Document,
    FileFacts,
    PointFacts,
    SkillFacts,
    TranscriptFacts,
)
from hostler.bundles.points import Point
from hostler.bundles.reading import DOCUMENT, EVENTS, HOME
from hostler.bundles.searching import SecretSearch
from hostler.bundles.tar import Head
from hostler.bundles.writing import BundleWriter
from hostler.domain.environments import CloudConfig, Config, SelfHostedConfig
from hostler.domain.errors import Conflict
from hostler.engine.agents import agent_wire
from hostler.engine.bundle_port import Part
from hostler.engine.environments import environment_wire
from hostler.engine.profile import transcript_id
from hostler.engine.sessions import view
from hostler.engine.skills import of_snapshot
from hostler.engine.snapshot_port import OpenSnapshot, SnapshotEntry, SnapshotReading
from hostler.engine.threads import in_thread
from hostler.store import archives, bundles, catalog, files, lines
from hostler.store import checkpoints as checkpoint_rows
from hostler.store.blobs import Blob, Blobs
from hostler.store.database import Database
from hostler.store.files import FileRow
from hostler.store.jsontext import decode, encode
from hostler.store.lines import Line
from hostler.store.pages import Position
from hostler.store.sessions import SessionRow, get_session

_CONFIG: Final[TypeAdapter[CloudConfig | SelfHostedConfig]] = TypeAdapter(Config)
_PAGE: Final = 500
_HELD: Final = 4 << 20
"""Bytes that are written together: each turn through a thread costs a wake-up."""
_MOST_CHECKPOINTS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Sources:
    """Where everything is."""

    database: Database
    snapshots: SnapshotReading
    blobs: Blobs


@dataclass(slots=True)
class _Texts:
    """Lines of a member that is to be written, in the nameless file."""

    name: str
    start: int
    size: int = 0
    count: int = 0


class Composing:
    """One export."""

    def __init__(
        self,
        sources: Sources,
        point: Point,
        without: Collection[Part],
        checkpoint_id: str | None,
        at: str,
        texts: BinaryIO,
        search: SecretSearch,
        writer: BundleWriter,
    ) -> None:
        self._database = sources.database
        self._sources = sources
        self._point = point
        self._session = point.session
        self._without = without
        self._checkpoint_id = checkpoint_id
        self._at = at
        self._texts = texts
        self._search = search
        self._writer = writer
        self._members: list[_Texts] = []
        self._ops: list[Callable[[], None]] = []
        self._weight = 0

    async def all(self) -> str:
        """Writes the bundle; its digest."""
        document, attached, skills = await self._gathered()
        await self._bytes(DOCUMENT, json.dumps(document.model_dump(mode="json")).encode() + b"\n")
        for member in self._members:
            await self._text_member(member)
        for number, skill in enumerate(skills):
            await self._blob(f"skills/{number}.zip", Blob(skill.sha256, skill.size_bytes))
        for number, row in enumerate(attached):
            await self._blob(f"files/{number}", Blob(row.sha256, row.size_bytes))
        if document.has_workspace and self._point.snapshot_id is not None:
            async with self._sources.snapshots.opened(self._point.snapshot_id) as snapshot:
                for entry in snapshot.entries:
                    await self._entry(snapshot, entry)
        await self._flush()
        await in_thread(self._writer.finish)
        return self._writer.digest

    # -- what is said of the session

    async def _gathered(self) -> tuple[Document, list[FileRow], Sequence[Any]]:
        point, session, without = self._point, self._session, self._without
        await self._events()
        transcripts, ordinals = await self._transcripts()
        archived = [] if "archives" in without else await self._archives(ordinals)
        attached, paths = ([], {}) if "files" in without else await self._files()
        skills = of_snapshot(session.environment)

        def unit(conn: Connection) -> Document:
            now = self._database.now(conn)
            agent = catalog.get_agent(conn, session.workspace_id, session.agent_id, point.agent_version)
            environment = catalog.get_environment(conn, session.workspace_id, session.environment_id)
            current = get_session(conn, session.workspace_id, session.id)
            checkpoints = checkpoint_rows.list_checkpoints(
                conn, session.workspace_id, session.id, limit=_MOST_CHECKPOINTS, after=None
            )
            return Document(
                session=view(session, now),
                agent=agent_wire(agent),
                environment={**environment_wire(environment), "config": _wire_config(session)},
                thread_id=session.thread_id,
                transcript_id=transcript_id(session.id),
                state=decode(point.state),
                sequence=None if point.sequence is None else decode(point.sequence),
                usage=asdict(point.usage),
                point=PointFacts(
                    checkpoint_id=self._checkpoint_id, events=self._members[0].count, exported_at=self._at
                ),
                transcripts=tuple(transcripts),
                archives=tuple(archived),
                skills=tuple(
                    SkillFacts(skill_id=s.skill_id, version=s.version, name=s.name, description=s.description)
                    for s in skills
                ),
                files=tuple(
                    FileFacts(
                        id=row.id,
                        filename=row.filename,
                        mime_type=row.mime_type,
                        downloadable=row.downloadable,
                        created_at=row.created_at,
                        output_path=paths.get(row.id),
                    )
                    for row in attached
                ),
                tokens=tuple(
                    r["id"]
                    for r in current.resources
                    if r["type"] == "github_repository" and files.get_secret(conn, session.id, r["id"]) is not None
                ),
                checkpoints=tuple(
                    CheckpointFacts(
                        id=row.id,
                        name=row.name,
                        reason=row.reason,
                        events=_shared(row.line, point.line),
                        created_at=row.created_at,
                    )
                    for row in checkpoints.rows
                    if row.reason != "export"
                ),
                has_workspace=point.snapshot_id is not None and "workspace" not in without,
                left_out=tuple(sorted(without)),
            )

        return await self._database.read(unit), attached, skills

    async def _events(self) -> None:
        member = self._member(EVENTS)
        after = 0
        while True:
            start = after
            texts, after = await self._database.read(
                lambda c: bundles.events_page(c, self._session.id, self._point.line.events, start, _PAGE)  # noqa: B023
            )
            await self._add_lines(member, texts)
            if not after:
                break
        self._expect(member, sum(last - first + 1 for first, last in self._point.line.events))

    async def _transcripts(self) -> tuple[list[TranscriptFacts], dict[str, list[int]]]:
        """What is said of each, and the ordinals of their entries."""
        session, name = self._session, transcript_id(self._session.id)
        found, every = list[TranscriptFacts](), dict[str, list[int]]()
        for subpath, one in sorted(self._point.line.transcripts.items()):
            if not one.entries:
                continue
            member = self._member(f"transcripts/{len(found)}.jsonl")
            ordinals: list[int] = []
            after: int | None = -1
            while after is not None:
                page, after = await self._database.read(partial(_entries, session.id, name, subpath, one.spans, after))
                ordinals += [ordinal for ordinal, _ in page]
                await self._add_lines(member, [text for _, text in page])
            self._expect(member, one.entries)
            mtime = await self._database.read(partial(_mtime, session.id, name, subpath))
            found.append(TranscriptFacts(subpath=subpath, entries=one.entries, mtime_ms=mtime))
            every[subpath] = ordinals
        return found, every

    async def _archives(self, ordinals: Mapping[str, list[int]]) -> list[ArchiveFacts]:
        found = list[ArchiveFacts]()
        for row in await self._database.read(lambda c: bundles.complete_archives(c, self._session.id)):
            if not self._counts(row.upto):
                continue
            member = self._member(f"archives/{len(found)}.jsonl")
            at = 0
            while (chunk := await self._database.read(partial(_chunk, row.id, at))) is not None:
                text = await in_thread(partial(zlib.decompress, chunk.body))
                await self._add_lines(member, text.decode().split("\n"))
                at = chunk.first_entry + chunk.entries
            self._expect(member, row.entries)
            found.append(
                ArchiveFacts(
                    id=row.id,
                    number=row.number,
                    entries=row.entries,
                    upto={
                        subpath: sum(ordinal < end for ordinal in ordinals.get(subpath, ()))
                        for subpath, end in row.upto.items()
                    },
                    created_at=row.created_at,
                )
            )
        return found

    def _counts(self, upto: Mapping[str, int]) -> bool:
        """Whether everything up to there was said at this point, and still counts."""
        ours = self._point.line.transcripts
        return all(
            not end or (subpath in ours and lines.within(end - 1, ours[subpath].spans)) for subpath, end in upto.items()
        )

    async def _files(self) -> tuple[list[FileRow], dict[str, str]]:
        session = self._session

        def unit(conn: Connection) -> tuple[list[FileRow], dict[str, str]]:
            now, found, after = self._database.now(conn), list[FileRow](), None
            while True:
                page = files.list_files(conn, session.workspace_id, limit=1000, session_id=session.id, after=after)
                found += [row for row in page.rows if not row.expired(now)]
                if not page.has_next:
                    break
                after = Position(page.rows[-1].created_at, page.rows[-1].id)
            return found, bundles.output_paths(conn, session.id)

        found, paths = await self._database.read(unit)
        return found[::-1], paths

    def _member(self, name: str) -> _Texts:
        self._members.append(_Texts(name, sum(one.size for one in self._members)))
        return self._members[-1]

    async def _add_lines(self, member: _Texts, texts: Sequence[str]) -> None:
        if texts:
            data = "".join(f"{text}\n" for text in texts).encode()
            await in_thread(partial(self._texts.write, data))
            member.size += len(data)
            member.count += len(texts)

    def _expect(self, member: _Texts, count: int) -> None:
        if member.count != count:
            raise Conflict(
                f"{member.name}: {count} are needed and {member.count} are kept: the session was shortened since, or "
                "deleted while it was exported"
            )

    # -- members

    async def _text_member(self, member: _Texts) -> None:
        def all_of_it() -> None:
            self._begin(Head(member.name, "file", 0o600, 0, member.size))
            left, at = member.size, member.start
            self._texts.flush()
            while left:
                piece = os.pread(self._texts.fileno(), min(left, _HELD), at)
                self._write(piece)
                left, at = left - len(piece), at + len(piece)
            self._writer.end()

        await self._flush()
        await in_thread(all_of_it)

    async def _bytes(self, name: str, data: bytes) -> None:
        async def once() -> AsyncIterator[bytes]:
            yield data

        await self._streamed(Head(name, "file", 0o600, 0, len(data)), once())

    async def _blob(self, name: str, blob: Blob) -> None:
        async with aclosing(self._sources.blobs.read(blob)) as pieces:
            await self._streamed(Head(name, "file", 0o600, 0, blob.size), pieces)

    async def _entry(self, snapshot: OpenSnapshot, entry: SnapshotEntry) -> None:
        name = f"{HOME}/{entry.path}"
        match entry.kind:
            case "file":
                head = Head(name, "file", entry.mode, entry.mtime_ns, entry.size)
                await self._streamed(head, snapshot.content(entry.path))
            case "hardlink":
                head = Head(name, "hardlink", entry.mode, entry.mtime_ns, 0, f"{HOME}/{entry.target}")
                await self._do(partial(self._link, head), 512)
            case _:
                head = Head(name, entry.kind, entry.mode, entry.mtime_ns, 0, entry.target or "")
                await self._do(partial(self._link, head), 512)

    async def _streamed(self, head: Head, pieces: AsyncIterator[bytes]) -> None:
        await self._do(partial(self._begin, head), 512)
        async for piece in pieces:
            await self._do(partial(self._write, piece), len(piece))
        await self._do(self._writer.end, 0)

    async def _do(self, op: Callable[[], None], weight: int) -> None:
        self._ops.append(op)
        self._weight += weight
        if self._weight >= _HELD:
            await self._flush()

    async def _flush(self) -> None:
        ops, self._ops, self._weight = self._ops, [], 0

        def every() -> None:
            for op in ops:
                op()

        if ops:
            await in_thread(every)

    def _begin(self, head: Head) -> None:
        self._search.begin(head.name)
        self._writer.begin(head)

    def _write(self, piece: bytes) -> None:
        self._search.feed(piece)
        self._writer.write(piece)

    def _link(self, head: Head) -> None:
        self._search.begin(head.name)
        self._search.feed(os.fsencode(head.target))
        self._writer.add_link(head)


def _wire_config(session: SessionRow) -> dict[str, Any]:
    """What the session began with, however its environment was changed since."""
    return _CONFIG.validate_json(encode(session.environment["config"])).wire()


def _shared(line: Line, whole: Line) -> int:
    """How many events of one line the other has, too."""
    return sum(
        max(0, min(last, end) - max(first, begin) + 1) for first, last in line.events for begin, end in whole.events
    )


def _entries(
    session_id: str, name: str, subpath: str, spans: lines.Spans, after: int, conn: Connection
) -> tuple[list[tuple[int, str]], int | None]:
    return bundles.entries_page(conn, session_id, name, subpath, spans, after, _PAGE)


def _mtime(session_id: str, name: str, subpath: str, conn: Connection) -> int:
    return bundles.mtime_of(conn, session_id, name, subpath)


def _chunk(archive_id: str, at: int, conn: Connection) -> archives.Chunk | None:
    return archives.chunk_at(conn, archive_id, at)
