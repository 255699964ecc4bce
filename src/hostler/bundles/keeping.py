"""What of a bundle is kept before there is a session? Bytes that no row names, and lines under the new ids."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Final

from hostler.bundles.checking import archived_of, entries_of, events_of
from hostler.bundles.document import Document
from hostler.bundles.limits import BundleLimits
from hostler.bundles.reading import HOME, BundleReader, Member
from hostler.bundles.renaming import Renaming
from hostler.bundles.tar import BundleWrong
from hostler.domain.skills import MAX_BYTES, SessionSkill
from hostler.engine.skill_bundles import bundle as pack_skill
from hostler.engine.snapshot_port import (
    SnapshotEntry,
    SnapshotMakers,
    SnapshotMaking,
)
from hostler.engine.threads import in_thread
from hostler.store.blobs import Blob, Blobs
from hostler.store.jsontext import encode
from hostler.store.transcripts import uuid_of

_CHUNK_BYTES: Final = 1 << 20
"""Of JSON text in one chunk of an archive."""


@dataclass(slots=True)
class Lines:
    """Where the lines of a member begin in the nameless file, and how many bytes they have."""

    start: int
    size: int = 0


@dataclass(slots=True)
class Packed:
    """A chunk of an archive in the nameless file."""

    start: int
    size: int
    first_entry: int
    entries: int
    logical: int
    """Bytes of JSON text in it."""


@dataclass(slots=True)
class Content:
    """What was kept of a bundle's members, under the new ids."""

    snapshots: SnapshotMakers
    blobs: Blobs
    limits: BundleLimits
    most_file_bytes: int
    workspace: str
    document: Document
    names: Renaming
    times: Mapping[str, int]
    events: Lines = field(default_factory=lambda: Lines(0))
    transcripts: list[Lines] = field(default_factory=list)
    archives: list[list[Packed]] = field(default_factory=list)
    skills: list[SessionSkill] = field(default_factory=list)
    files: list[tuple[Blob, bytes]] = field(default_factory=list)
    snapshot: SnapshotMaking | None = None
    _texts: BinaryIO | None = None
    _end: int = 0
    _archived: int = 0

    async def all(self, file: BinaryIO, texts: BinaryIO) -> None:
        """The bundle was checked: this pass keeps what is in it. Raises what keeping raises."""
        self._texts = texts
        reader = BundleReader(file, self.limits)
        members = reader.members()
        while (member := await in_thread(partial(next, members, None))) is not None:
            await self._member(member)
        if self.snapshot is not None:
            await self.snapshot.finish()
        await in_thread(texts.flush)

    async def _member(self, member: Member) -> None:
        kind, _, rest = member.head.name.partition("/")
        match kind:
            case "events.jsonl":
                self.events = await in_thread(partial(self._keep_lines, self._event_lines(member)))
            case "transcripts":
                self.transcripts.append(await in_thread(partial(self._keep_lines, self._entry_lines(member))))
            case "archives":
                self.archives.append(await in_thread(partial(self._keep_archive, member)))
            case "skills":
                await self._skill(member)
            case "files":
                await self._file(member)
            case "home":
                await self._entry(member, rest)

    # -- texts, in a thread

    def _event_lines(self, member: Member) -> Iterator[bytes]:
        for event in events_of(member):
            renamed = self.names.value(event)
            body = encode(renamed)
            yield "\t".join((renamed["id"], renamed["type"], renamed["processed_at"], body)).encode()

    def _entry_lines(self, member: Member) -> Iterator[bytes]:
        for entry in entries_of(member):
            renamed = self.names.entry(entry)
            yield f"{uuid_of(renamed) or ''}\t{encode(renamed)}".encode()

    def _keep_lines(self, found: Iterator[bytes]) -> Lines:
        kept = Lines(self._end)
        for line in found:
            self._append(line + b"\n")
        kept.size = self._end - kept.start
        return kept

    def _keep_archive(self, member: Member) -> list[Packed]:
        packed: list[Packed] = []
        held: list[str] = []
        size = first = 0

        def flush() -> None:
            nonlocal held, size, first
            data = zlib.compress("\n".join(held).encode(), 1)
            self._archived += len(data)
            if self._archived > self.limits.archive_bytes:
                most = self.limits.archive_bytes
                raise BundleWrong(f"the session has archives of more than {most} bytes, compressed")
            packed.append(Packed(self._end, len(data), first, len(held), size))
            self._append(data)
            held, size, first = [], 0, first + len(held)

        for subpath, ordinal, entry in archived_of(member):
            text = f"[{json.dumps(subpath)},{ordinal},{encode(self.names.entry(entry))}]"
            held.append(text)
            size += len(text.encode())
            if size >= _CHUNK_BYTES:
                flush()
        if held:
            flush()
        return packed

    def _append(self, data: bytes) -> None:
        assert self._texts is not None
        self._texts.write(data)
        self._end += len(data)

    def lines_of(self, kept: Lines) -> Iterator[list[str]]:
        """Fields of each line; as often as it is asked for."""
        assert self._texts is not None
        rest, at, end = b"", kept.start, kept.start + kept.size
        while at < end:
            data = os.pread(self._texts.fileno(), min(_CHUNK_BYTES, end - at), at)
            at += len(data)
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield line.decode().split("\t")

    def chunk(self, packed: Packed) -> bytes:
        assert self._texts is not None
        return os.pread(self._texts.fileno(), packed.size, packed.start)

    # -- bytes

    async def _skill(self, member: Member) -> None:
        if member.head.size > MAX_BYTES:
            raise BundleWrong(f"{member.head.name} is larger than a skill may be")
        data = await in_thread(lambda: b"".join(member.content))
        facts = self.document.skills[len(self.skills)]
        # Packed anew: whatever it is, it becomes an archive of our own making, or it is refused.
        made = await in_thread(lambda: pack_skill([(f"{facts.name}.zip", data)]))
        if (made.name, made.description) != (facts.name, facts.description):
            raise BundleWrong(f"{member.head.name} is another skill than session.json says")
        blob = await self.blobs.put_bytes(made.archive)
        self.skills.append(
            SessionSkill(facts.skill_id, facts.version, made.name, made.description, blob.sha256, blob.size)
        )

    async def _file(self, member: Member) -> None:
        beginning = bytearray()

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in _pieces(member):
                if len(beginning) < 4096:
                    beginning.extend(piece[:4096])
                yield piece

        blob = await self.blobs.put(pieces(), most=self.most_file_bytes)
        self.files.append((blob, bytes(beginning)))

    async def _entry(self, member: Member, path: str) -> None:
        if self.snapshot is None:
            self.snapshot = self.snapshots.making(self.workspace)
        head = member.head
        target = head.target.removeprefix(f"{HOME}/") if head.kind == "hardlink" else head.target or None
        entry = SnapshotEntry(path, head.kind, head.mode, self.times[head.name], head.size, target)
        if head.kind == "hardlink":  # its mode and time are those of the file
            entry = SnapshotEntry(path, head.kind, 0o600, 0, 0, target)
        await self.snapshot.add(entry, _pieces(member))


async def _pieces(member: Member) -> AsyncIterator[bytes]:
    while (piece := await in_thread(partial(next, member.content, None))) is not None:
        yield piece
