"""How does a bundle become a session? Checked whole, then kept where nobody sees it, then one transaction.

What comes is written to a file without a name, and looked through to its end before anything is made of it. Pieces of
files and attached files are then kept as objects and blobs that no row names; a sweep removes them if it ends there.
The transaction makes the session with all that it has. Whatever happens before it ends, there is no session.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from pydantic import ValidationError
from sqlalchemy import Connection

from hostler.bundles.checking import Checked, archived_of, check, entries_of, events_of
from hostler.bundles.deciding import Chosen, Left, choose, definitions, undecided
from hostler.bundles.document import Document
from hostler.bundles.files import nameless
from hostler.bundles.limits import BundleLimits
from hostler.bundles.reading import EVENTS, HOME, BundleReader, Member
from hostler.bundles.renaming import Renaming
from hostler.bundles.tar import BundleWrong
from hostler.domain.errors import HostlerError, InvalidRequest, TooLarge
from hostler.domain.files import mime_type, safe_path
from hostler.domain.prices import Prices
from hostler.domain.resources import FileResource, GithubResource, MemoryResource
from hostler.domain.sessions import BudgetLimit, Title
from hostler.domain.skills import MAX_BYTES, SessionSkill
from hostler.domain.values import Identifier, Metadata, Value, parse
from hostler.engine import budget, labels
from hostler.engine.bundle_port import ImportOptions
from hostler.engine.models import Models
from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.placement import Placement, Survey, needs_of
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.records import waiting_call
from hostler.engine.resources import Resource, ResourceKinds, check_free
from hostler.engine.sessions import view
from hostler.engine.skill_bundles import bundle as pack_skill
from hostler.engine.skills import kept
from hostler.engine.snapshot_port import (
    SnapshotDamaged,
    SnapshotEntry,
    SnapshotMakers,
    SnapshotMaking,
    SnapshotTooLarge,
)
from hostler.engine.state import SessionState, waits_for_people
from hostler.engine.threads import in_thread
from hostler.engine.vaults import session_vaults
from hostler.store import bundles as rows
from hostler.store import files as file_rows
from hostler.store import webhooks
from hostler.store.blobs import Blob, Blobs
from hostler.store.bundles import EntryFacts, EventFacts
from hostler.store.database import Database
from hostler.store.files import NewFile, OutputRow
from hostler.store.jsontext import encode
from hostler.store.moments import moment
from hostler.store.sequences import save_sequence
from hostler.store.sessions import NewSession, SessionRow, create_session
from hostler.store.skills import note_session
from hostler.store.transcripts import uuid_of
from hostler.store.waiting import replace_waiting

_CHUNK_BYTES: Final = 1 << 20
"""Of JSON text in one chunk of an archive."""
_OUTPUT: Final = "imported"
"""What stands for the look of an output file that was never seen here: by its bytes it is known to be the same."""


class SequenceCheck(Protocol):
    def __call__(self, text: str, /) -> object:
        """Raises ValueError, TypeError, KeyError or AttributeError for what the gateway couldn't read."""
        ...


class _Shown(Value):
    """What of the session's own fields is taken over."""

    title: Title | None
    metadata: Metadata
    budget: BudgetLimit | None


@dataclass(frozen=True, slots=True)
class Importer:
    """Makes sessions of bundles, in all workspaces."""

    database: Database
    snapshots: SnapshotMakers
    blobs: Blobs
    kinds: ResourceKinds
    quotas: WorkspaceQuotas
    placement: Placement
    models: Models
    prices: Prices
    check_sequence: SequenceCheck
    folder: Path
    """Of this host, for files without a name."""
    limits: BundleLimits
    most_file_bytes: int

    async def take_in(self, workspace: str, chunks: AsyncIterator[bytes], options: ImportOptions) -> dict[str, Any]:
        """See `Bundles.take_in`."""
        file = await in_thread(partial(nameless, self.folder))
        try:
            await self._receive(file, chunks)
            return await self._take_in(workspace, file, options)
        except BundleWrong as error:
            raise InvalidRequest(f"Nothing was imported: {error}", code="bundle_wrong") from None
        except (SnapshotDamaged, SnapshotTooLarge) as error:
            raise InvalidRequest(f"Nothing was imported: {error}", code="bundle_wrong") from None
        except ObjectsUnavailable as error:
            raise HostlerError(f"Nothing was imported, because its files can't be kept now: {error}") from None
        finally:
            file.close()

    async def _receive(self, file: BinaryIO, chunks: AsyncIterator[bytes]) -> None:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self.limits.content_bytes:
                raise TooLarge(f"the bundle is larger than {self.limits.content_bytes >> 20} MiB (bundles.max_mb)")
            await in_thread(partial(file.write, chunk))

    async def _take_in(self, workspace: str, file: BinaryIO, options: ImportOptions) -> dict[str, Any]:
        found = await in_thread(lambda: check(file, self.limits))
        document = found.document
        if options.digest is not None and options.digest != found.digest:
            raise InvalidRequest(
                f"Nothing was imported: this is the bundle {found.digest}, and {options.digest} was asked for",
                code="bundle_wrong",
            )
        said = definitions(document, self.models)
        undecided(document, options)
        shown = _shown(document)
        self._check_sequence(document)
        names = Renaming.of(found, keep=options.keep_ids)
        survey = await self.placement.survey()
        content = _Content(self, workspace, document, names, found.times)
        with await in_thread(partial(nameless, self.folder)) as texts:
            await content.all(file, texts)

            def unit(conn: Connection) -> tuple[SessionRow, Chosen, list[Left]]:
                now = self.database.now(conn)
                self.quotas.admit_session(conn, now, workspace)
                chosen = choose(conn, now, workspace, document, said, options, self.models)
                made = _Made(self, conn, now, workspace, found, names, content, chosen, survey)
                return made.session(shown, options), chosen, made.left

            row, chosen, left = await self.database.write(unit)
        now = await self.database.read(self.database.now)
        return {
            "type": "session_import",
            "id": row.id,
            "digest": found.digest,
            "session": view(row, now),
            "created": chosen.created,
            "left": [one.wire() for one in (*chosen.left, *left)],
        }

    def _check_sequence(self, document: Document) -> None:
        try:
            if document.sequence is not None:
                self.check_sequence(encode(document.sequence))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BundleWrong("session.json: sequence can't be read") from None


@dataclass(slots=True)
class _Lines:
    """Where the lines of a member begin in the nameless file, and how many bytes they have."""

    start: int
    size: int = 0


@dataclass(slots=True)
class _Packed:
    """A chunk of an archive in the nameless file."""

    start: int
    size: int
    first_entry: int
    entries: int
    logical: int
    """Bytes of JSON text in it."""


@dataclass(slots=True)
class _Content:
    """What was kept of a bundle's members, under the new ids."""

    importer: Importer
    workspace: str
    document: Document
    names: Renaming
    times: Mapping[str, int]
    events: _Lines = field(default_factory=lambda: _Lines(0))
    transcripts: list[_Lines] = field(default_factory=list)
    archives: list[list[_Packed]] = field(default_factory=list)
    skills: list[SessionSkill] = field(default_factory=list)
    files: list[tuple[Blob, bytes]] = field(default_factory=list)
    snapshot: SnapshotMaking | None = None
    _texts: BinaryIO | None = None
    _end: int = 0

    async def all(self, file: BinaryIO, texts: BinaryIO) -> None:
        """The bundle was checked: this pass keeps what is in it. Raises what keeping raises."""
        self._texts = texts
        reader = BundleReader(file, self.importer.limits)
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

    def _keep_lines(self, found: Iterator[bytes]) -> _Lines:
        kept = _Lines(self._end)
        for line in found:
            self._append(line + b"\n")
        kept.size = self._end - kept.start
        return kept

    def _keep_archive(self, member: Member) -> list[_Packed]:
        packed: list[_Packed] = []
        held: list[str] = []
        size = first = 0

        def flush() -> None:
            nonlocal held, size, first
            data = zlib.compress("\n".join(held).encode(), 1)
            packed.append(_Packed(self._end, len(data), first, len(held), size))
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

    def lines_of(self, kept: _Lines) -> Iterator[list[str]]:
        """Fields of each line; as often as it is asked for."""
        assert self._texts is not None
        rest, at, end = b"", kept.start, kept.start + kept.size
        while at < end:
            data = os.pread(self._texts.fileno(), min(_CHUNK_BYTES, end - at), at)
            at += len(data)
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                yield line.decode().split("\t")

    def chunk(self, packed: _Packed) -> bytes:
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
        blob = await self.importer.blobs.put_bytes(made.archive)
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

        blob = await self.importer.blobs.put(pieces(), most=self.importer.most_file_bytes)
        self.files.append((blob, bytes(beginning)))

    async def _entry(self, member: Member, path: str) -> None:
        if self.snapshot is None:
            self.snapshot = self.importer.snapshots.making(self.workspace)
        head = member.head
        target = head.target.removeprefix(f"{HOME}/") if head.kind == "hardlink" else head.target or None
        entry = SnapshotEntry(path, head.kind, head.mode, self.times[head.name], head.size, target)
        if head.kind == "hardlink":  # its mode and time are those of the file
            entry = SnapshotEntry(path, head.kind, 0o600, 0, 0, target)
        await self.snapshot.add(entry, _pieces(member))


async def _pieces(member: Member) -> AsyncIterator[bytes]:
    while (piece := await in_thread(partial(next, member.content, None))) is not None:
        yield piece


@dataclass(slots=True)
class _Made:
    """The transaction."""

    importer: Importer
    conn: Connection
    now: float
    workspace: str
    found: Checked
    names: Renaming
    content: _Content
    chosen: Chosen
    survey: Survey
    left: list[Left] = field(default_factory=list)

    def session(self, shown: _Shown, options: ImportOptions) -> SessionRow:
        conn, document, names, chosen = self.conn, self.found.document, self.names, self.chosen
        if options.keep_ids:
            rows.refuse_taken(
                conn, names.session_id, [one.id for one in document.files], [one.id for one in document.archives]
            )
        self.survey.check(chosen.config)
        if shown.budget is not None:
            budget.check_priced(self.importer.prices, self.importer.models, chosen.agent["model"]["id"])
        self_hosted = chosen.config.type == "self_hosted"
        vault_ids = list(dict.fromkeys(new for new in options.vaults.values() if new is not None))
        session_vaults(conn, self.workspace, vault_ids, self_hosted=self_hosted)
        self.left += [Left("vault", old, "left out") for old, new in options.vaults.items() if new is None]
        resources = self._resources(options, self_hosted=self_hosted)
        state = self._state(chosen, self_hosted=self_hosted)
        preset = needs_of(chosen.config, self.survey.terms).preset
        made = create_session(
            conn,
            self.now,
            NewSession(
                id=names.session_id,
                workspace_id=self.workspace,
                agent_id=chosen.agent_id,
                agent_version=chosen.agent_version,
                environment_id=chosen.environment_id,
                thread_id=names.thread_id,
                agent=chosen.agent,
                environment={
                    "config": chosen.config.model_dump(mode="json"),
                    "preset": preset,
                    "skills": kept(self.content.skills),
                },
                isolation=labels.begun(chosen.config, preset),
                state=state.model_dump_json(),
                status=state.status,
                title=options.title or shown.title,
                metadata=shown.metadata,
                resources=resources,
                vault_ids=vault_ids,
                budget=None if shown.budget is None else shown.budget.wire(),
                imported_from=self._origin(),
            ),
        )
        self._history(made)
        self._files()
        note_session(conn, made.id, (skill.sha256 for skill in self.content.skills))
        if self.content.snapshot is not None:
            self.content.snapshot.record_in(conn, self.now, made, "import")
        waiting = [waiting_call(call) for call in waits_for_people(state)]
        replace_waiting(conn, moment(self.now), made.id, self.workspace, added=waiting, removed=())
        webhooks.emit(conn, self.now, self.workspace, "session.created", {"id": made.id})
        return rows.as_it_is(conn, self.now, made.id, archived=state.status == "terminated")

    def _origin(self) -> dict[str, Any]:
        document = self.found.document
        return {
            "session_id": document.session["id"],
            "digest": self.found.digest,
            "producer": self.found.producer,
            "exported_at": document.point.exported_at,
            "created_at": document.session.get("created_at"),
            "events": document.point.events,
            "usage": dict(document.usage),
        }

    def _state(self, chosen: Chosen, *, self_hosted: bool) -> SessionState:
        renamed = self.names.value(json.loads(self.found.state.model_dump_json()))
        state = SessionState.model_validate_json(json.dumps(renamed))
        return state.model_copy(
            update={
                "agent_name": chosen.agent["name"],
                "self_hosted": self_hosted,
                # Nothing was used here yet.
                "active_seconds": 0.0,
                "running_since": None,
                "first_running_at": None,
                "stays": False,
            }
        )

    def _history(self, made: SessionRow) -> None:
        conn, content, document = self.conn, self.content, self.found.document
        rows.add_events(conn, made.id, (EventFacts(*_four(each)) for each in content.lines_of(content.events)))
        for facts, kept_lines in zip(document.transcripts, content.transcripts, strict=True):
            entries = (EntryFacts(uuid or None, text) for uuid, text in content.lines_of(kept_lines))
            rows.add_transcript(conn, made.id, self.names.transcript_id, facts.subpath, facts.mtime_ms, entries)
        for archive, chunks in zip(document.archives, content.archives, strict=True):
            row = {
                "id": self.names.id(archive.id),
                "number": archive.number,
                "entries": archive.entries,
                "logical_bytes": sum(one.logical for one in chunks),
                "upto": encode(archive.upto),
                "created_at": archive.created_at,
            }
            rows.add_archive(conn, made, row, ((one.first_entry, one.entries, content.chunk(one)) for one in chunks))
        if document.sequence is not None:
            save_sequence(conn, self.now, made.id, encode(document.sequence), lease=None)

    def _files(self) -> None:
        for facts, (blob, beginning) in zip(self.found.document.files, self.content.files, strict=True):
            self.importer.quotas.admit_bytes(self.conn, self.workspace, blob.size)
            name = safe_path(facts.filename)
            new = NewFile(
                id=self.names.id(facts.id),
                workspace_id=self.workspace,
                filename=name,
                mime_type=mime_type(facts.mime_type, name, beginning),
                size_bytes=blob.size,
                sha256=blob.sha256,
                downloadable=facts.downloadable,
                session_id=self.names.session_id,
            )
            file_rows.create_file(self.conn, self.now, new)
            if facts.output_path is not None:
                output = OutputRow(facts.output_path, _OUTPUT, blob.sha256, new.id)
                file_rows.put_output(self.conn, self.names.session_id, output)

    def _resources(self, options: ImportOptions, *, self_hosted: bool) -> list[Resource]:
        made: list[Resource] = []
        attached = {facts.id for facts in self.found.document.files}
        for shown in self.found.document.session["resources"]:
            match shown.get("type"):
                case "memory_store":
                    old = str(shown.get("memory_store_id"))
                    new = options.memory_stores[old]
                    if new is None:
                        self.left.append(Left("memory_store", old, "left out"))
                        continue
                    wanted = {k: shown[k] for k in ("type", "access", "instructions") if k in shown}
                    request = parse(MemoryResource, {**wanted, "memory_store_id": new})
                    made += self.importer.kinds.attach(
                        self.conn,
                        self.now,
                        self.workspace,
                        self.names.session_id,
                        [request],
                        self_hosted=self_hosted,
                        taken=made,
                    )
                case "file":
                    file = parse(FileResource, {k: shown.get(k) for k in ("type", "file_id", "mount_path")})
                    if file.file_id not in attached:
                        self.left.append(Left("file", file.file_id, "the bundle doesn't have it"))
                        continue
                    made.append(self._resource(shown, made, {"file_id": self.names.id(file.file_id)}))
                case "github_repository":
                    names = ("type", "url", "checkout", "mount_path")
                    repository = parse(GithubResource, {k: shown.get(k) for k in names})
                    checkout = repository.checkout and repository.checkout.model_dump(mode="json")
                    made.append(self._resource(shown, made, {"url": repository.url, "checkout": checkout}))
                    if made[-1]["id"] in self.found.document.tokens:
                        self.left.append(Left("token", made[-1]["id"], "send the repository's token again"))
                case other:
                    raise BundleWrong(f"session.json: a resource of type {str(other)[:100]!r}, which is none")
        if self_hosted and any(one["type"] != "memory_store" for one in made):
            raise BundleWrong("session.json: files and repositories in a self_hosted environment")
        return made

    def _resource(self, shown: Mapping[str, Any], made: Sequence[Resource], more: Mapping[str, Any]) -> Resource:
        """Under the id that it had: a repository's clone lies in a folder of that name."""
        own = parse(_OwnResource, {"id": shown.get("id"), "mount_path": shown.get("mount_path")})
        if any(one.get("id") == own.id for one in made):
            raise BundleWrong(f"session.json: resource {own.id} is there twice")
        check_free(own.mount_path, shown["type"], made)
        at = moment(self.now)
        return {
            "id": own.id,
            "type": shown["type"],
            **more,
            "mount_path": own.mount_path,
            "created_at": at,
            "updated_at": at,
        }


class _OwnResource(Value):
    id: Identifier
    mount_path: str


def _four(fields: Sequence[str]) -> tuple[str, str, str, str]:
    id_, type_, at, body = fields
    return id_, type_, at, body


def _shown(document: Document) -> _Shown:
    session = document.session
    if not isinstance(session.get("id"), str):
        raise BundleWrong("session.json: session.id is missing")
    try:
        parse(_OwnId, {"id": session["id"]})
        return parse(_Shown, {name: session.get(name) for name in ("title", "metadata", "budget")})
    except (InvalidRequest, ValidationError) as error:
        raise BundleWrong(f"session.json: session: {error}") from None


class _OwnId(Value):
    id: Identifier


__all__ = ["EVENTS", "Importer"]
