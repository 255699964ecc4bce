"""How do the memories of a store become files for an agent, and what it writes become memories?

Each attached store has a folder beside the session's workspace, mounted under `/mnt/memory`. Before a turn and after
it, folder and store are made alike (`engine.memory_merge` decides, here it is done). What both had in common is kept
in a small file that the sandbox never sees, so a server that dies at any moment finds out later what the agent has
changed: the next time the folder is laid out, its changes are saved first. What can't be saved stays in the folder,
and is explained there and in the server's log.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection

from hostler.domain.errors import HostlerError, MemoryChanged, MemoryPathTaken, NotFound
from hostler.domain.memories import Actor, digest
from hostler.engine.attachments import Attachment
from hostler.engine.memory_folder import ASIDE, MemoryFolder, Scan, reserved
from hostler.engine.memory_merge import UNSENDABLE, Plan, merge
from hostler.engine.sandbox_port import Mount
from hostler.store import memories
from hostler.store.database import Database
from hostler.store.memories import Admit, MemoryRow, admit_anything
from hostler.store.sessions import SessionRow

log = logging.getLogger("hostler.memory")

ROUNDS = 3
"""How often a store that changes while we look at it is looked at again."""
BATCH = 20
"""Memories that are read or written at once: at most 2 MB, and on SQLite others wait for that long."""
SHOWN = 50
"""Problems that are listed."""


class Aside(BaseModel):
    """Something of the session's that had to make way."""

    path: str
    name: str
    """Under which it lies in the folder for such things."""


class Manifest(BaseModel):
    """What a folder and its store last had in common."""

    known: dict[str, str] = {}
    """Digest by path."""
    coming: dict[str, str] = {}
    """Being written into the folder when this was saved: either these or the known ones are there."""
    going: dict[str, str | None] = {}
    """Being written into the store when this was saved, None for what was being deleted: either these or the known
    ones are there. Whether they have arrived is not to be learnt from the folder: the session may have gone on."""
    aside: list[Aside] = []

    def base(self, local: dict[str, str], remote: Mapping[str, str]) -> dict[str, str]:
        arrived = {path: content for path, content in self.coming.items() if local.get(path) == content}
        sent = {path: content for path, content in self.going.items() if remote.get(path) == content}
        alike: dict[str, str | None] = {**self.known, **arrived, **sent}
        return {path: content for path, content in alike.items() if content is not None}


@dataclass(slots=True)
class _Copy:
    """One store as one session has it."""

    session: SessionRow
    store_id: str
    writable: bool
    place: Path
    manifest: Manifest
    problems: dict[str, str]
    """Why something wasn't saved, by path."""

    @property
    def files(self) -> Path:
        return self.place / "files"

    @property
    def folder(self) -> MemoryFolder:
        return MemoryFolder(self.files)

    def save(self) -> None:
        fresh = self.place / "manifest.new"
        fresh.write_text(self.manifest.model_dump_json(), "utf-8", errors="surrogateescape")
        os.replace(fresh, self.place / "manifest.json")


class MemoryFiles(Attachment):
    """The memory stores of sessions whose sandbox is on this host."""

    def __init__(self, database: Database, admit: Admit = admit_anything) -> None:
        """`admit` is asked before more bytes are kept (`WorkspaceQuotas.admit_bytes`)."""
        self._database = database
        self._admit = admit
        self._busy: dict[str, tuple[asyncio.Lock, int]] = {}

    async def lay_out(self, session: SessionRow, home: Path) -> Sequence[Mount]:
        mounts = []
        for resource in _stores(session):
            copy = await self._alike(session, home, resource)
            mounts.append(Mount(copy.files, resource["mount_path"], writable=copy.writable))
        return mounts

    async def refresh(self, session: SessionRow, home: Path) -> None:
        for resource in _stores(session):
            await self._alike(session, home, resource)

    async def collect(self, session: SessionRow, home: Path) -> None:
        for resource in _stores(session):
            if resource["access"] == "read_write" and (home / "memory" / resource["memory_store_id"]).exists():
                await self._alike(session, home, resource)

    async def catch_up(self, session: SessionRow, home: Path) -> None:
        for resource in _stores(session):
            if await asyncio.to_thread(_is_ahead, session, home, resource):
                await self._alike(session, home, resource)

    # -- one store

    async def _alike(self, session: SessionRow, home: Path, resource: dict[str, Any]) -> _Copy:
        """Make the folder and the store alike. What can't be done for one path is explained, and keeps no other."""
        async with self._one_at_a_time(session.id):
            return await self._make_alike(session, home, resource)

    @asynccontextmanager
    async def _one_at_a_time(self, session_id: str) -> AsyncIterator[None]:
        lock, users = self._busy.get(session_id, (asyncio.Lock(), 0))
        self._busy[session_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._busy.pop(session_id)
            if users > 1:
                self._busy[session_id] = (lock, users - 1)

    async def _make_alike(self, session: SessionRow, home: Path, resource: dict[str, Any]) -> _Copy:
        copy = await asyncio.to_thread(_open_copy, session, home, resource)
        before = copy.manifest.model_copy(deep=True)
        again, rounds = True, 0
        while again and rounds < ROUNDS:
            rounds += 1
            copy.problems.clear()
            again = await self._round(copy)
        await asyncio.to_thread(_explain, copy, before)
        for path, why in list(copy.problems.items())[:SHOWN]:
            log.warning(
                "memory_not_saved",
                extra={"session": session.id, "memory_store": copy.store_id, "path": path, "reason": why},
            )
        return copy

    async def _round(self, copy: _Copy) -> bool:
        """True when something changed meanwhile, so that another look is needed."""
        try:
            rows = await self._database.read(
                lambda conn: memories.all_memories(conn, copy.session.workspace_id, copy.store_id)
            )
        except NotFound:
            copy.problems["/"] = "the memory store was deleted: nothing of this folder is saved any more"
            return False
        remote = {row.path: row for row in rows if not reserved(row.path)}
        copy.problems |= {
            row.path: f"this memory is not shown: {ASIDE} is used for other things"
            for row in rows
            if reserved(row.path)
        }
        scan = await asyncio.to_thread(copy.folder.scan)
        copy.problems |= scan.problems
        digests = {path: row.content_sha256 for path, row in remote.items()}
        base = copy.manifest.base(scan.digests, digests)
        local = await asyncio.to_thread(_surely, copy.folder, scan, base)
        plan = merge(base, local, digests, writable=copy.writable)
        copy.manifest.known, copy.manifest.coming, copy.manifest.going = base, {}, {}
        for path in {*base} - {*local} - {*remote}:
            del copy.manifest.known[path]
        copy.manifest.known |= plan.alike
        again = await self._send(copy, plan, local, remote) if plan.sends else False
        return await self._take(copy, plan, local, remote) or again

    async def _send(self, copy: _Copy, plan: Plan, local: dict[str, str], remote: dict[str, MemoryRow]) -> bool:
        """What only the session changed goes to the store. Room is made first: what is deleted, then what moved."""
        known = copy.manifest.known
        again = False
        steps: list[_Step] = [_Step("delete", path) for path in plan.delete]
        steps += [_Step("rename", path, to) for path, to in plan.rename.items()]
        steps += [_Step("update", path) for path in plan.update] + [_Step("create", path) for path in plan.create]
        for start in range(0, len(steps), BATCH):
            batch = steps[start : start + BATCH]
            sent = await asyncio.to_thread(_contents, copy.folder, batch)
            await asyncio.to_thread(_announce, copy, batch, sent, local)
            outcome = await self._database.write(self._sending(copy, batch, sent, local, remote))
            for step, error in zip(batch, outcome, strict=True):
                if error is None:
                    known.pop(step.path, None)
                    if step.what != "delete":
                        known[step.to or step.path] = digest(sent[step.path]) if step.to is None else local[step.to]
                elif _is_stale(error, step):
                    again = True
                else:
                    copy.problems[step.to or step.path] = error.message
            copy.manifest.going = {}
            await asyncio.to_thread(copy.save)
        return again

    def _sending(
        self,
        copy: _Copy,
        batch: Sequence[_Step],
        sent: dict[str, bytes],
        local: dict[str, str],
        remote: dict[str, MemoryRow],
    ) -> Callable[[Connection], list[HostlerError | None]]:
        actor = Actor("session_actor", copy.session.id)
        workspace, store_id = copy.session.workspace_id, copy.store_id

        def one(conn: Connection, step: _Step) -> None:
            now, row = self._database.now(conn), remote.get(step.path)
            if step.what == "create" or row is None:
                content = sent[step.path]
                memories.create_memory(
                    conn, now, workspace, store_id, path=step.path, content=content, actor=actor, admit=self._admit
                )
            elif step.what == "delete":
                expected = row.content_sha256
                memories.delete_memory(conn, now, workspace, store_id, row.id, expected_sha256=expected, actor=actor)
            else:
                memories.update_memory(
                    conn,
                    now,
                    workspace,
                    store_id,
                    row.id,
                    path=step.to,
                    content=sent.get(step.path),
                    expected_sha256=row.content_sha256,
                    actor=actor,
                    admit=self._admit,
                )

        def unit(conn: Connection) -> list[HostlerError | None]:
            outcome: list[HostlerError | None] = []
            for step in batch:
                try:
                    if step.what in ("create", "update") and step.path not in sent:
                        raise MemoryChanged("the file changed while it was read")
                    one(conn, step)
                except HostlerError as error:
                    outcome.append(error)
                else:
                    outcome.append(None)
            return outcome

        return unit

    async def _take(self, copy: _Copy, plan: Plan, local: dict[str, str], remote: dict[str, MemoryRow]) -> bool:
        """What the store changed comes into the folder, unless the file was changed again since it was looked at."""
        again = await asyncio.to_thread(_remove, copy, plan.remove, local) if plan.remove else False
        wanted = [*plan.pull, *plan.pull_over]
        for start in range(0, len(wanted), BATCH):
            ids = [remote[path].id for path in wanted[start : start + BATCH]]
            rows = await self._database.read(lambda conn, ids=ids: memories.contents(conn, copy.store_id, ids))  # type: ignore[misc]
            arrived = await asyncio.to_thread(_write, copy, rows, frozenset(plan.pull_over), local)
            again = again or not arrived or len(rows) < len(ids)
        return again


@dataclass(frozen=True, slots=True)
class _Step:
    """One change of the store."""

    what: str
    path: str
    to: str | None = None


def _is_stale(error: HostlerError, step: _Step) -> bool:
    """Somebody else changed the same memory since the store was listed: look again, and decide again."""
    if isinstance(error, MemoryPathTaken):
        return error.path == step.path
    return isinstance(error, (MemoryChanged, NotFound))


# -------------------------------------------------------------------------------------------- on disk, in a thread


def _stores(session: SessionRow) -> list[dict[str, Any]]:
    """The stores that are folders here: a worker elsewhere looks after those of its sessions itself."""
    if session.environment["config"].get("type") == "self_hosted":
        return []
    return [resource for resource in session.resources if resource["type"] == "memory_store"]


def _is_ahead(session: SessionRow, home: Path, resource: dict[str, Any]) -> bool:
    """Has the folder something that the store may not know of? Asked without the store."""
    if resource["access"] != "read_write" or not (home / "memory" / resource["memory_store_id"]).exists():
        return False
    copy = _open_copy(session, home, resource)
    found = copy.folder.scan().digests
    return bool(copy.manifest.going) or found != copy.manifest.base(found, {})


def _open_copy(session: SessionRow, home: Path, resource: dict[str, Any]) -> _Copy:
    place = home / "memory" / resource["memory_store_id"]
    for folder in (place.parent, place):  # the sandbox reaches what is mounted, and nothing on the way there
        folder.mkdir(mode=0o700, exist_ok=True)
    (place / "files").mkdir(mode=0o755, exist_ok=True)
    manifest = Manifest()
    try:
        manifest = Manifest.model_validate_json((place / "manifest.json").read_bytes())
    except FileNotFoundError:
        pass
    except ValidationError:
        log.warning("memory_manifest_damaged", extra={"session": session.id, "memory_store": place.name})
    return _Copy(session, place.name, resource["access"] == "read_write", place, manifest, {})


def _surely(folder: MemoryFolder, scan: Scan, base: dict[str, str]) -> dict[str, str]:
    """What is in the folder; what was known and wasn't seen is looked for by itself before it counts as gone."""
    local = dict(scan.digests)
    for path in base:
        if path not in local:
            hidden = any(path.startswith(above + "/") for above in scan.hidden)
            state = UNSENDABLE if hidden else folder.state(path)
            if state is not None:
                local[path] = state
    return local


def _contents(folder: MemoryFolder, steps: Sequence[_Step]) -> dict[str, bytes]:
    """What is to be sent, as it is now. Left out: files that have gone or become something else meanwhile."""
    found: dict[str, bytes] = {}
    for step in steps:
        if step.what in ("create", "update"):
            content = folder.read(step.path)
            if content is not None and folder.state(step.path) == digest(content):
                found[step.path] = content
    return found


def _announce(copy: _Copy, batch: Sequence[_Step], sent: Mapping[str, bytes], local: Mapping[str, str]) -> None:
    """Note what is about to be sent. Cut off after that, we would take it for somebody else's change of the store."""
    going: dict[str, str | None] = {}
    for step in batch:
        if step.what in ("delete", "rename"):
            going[step.path] = None
        if step.to is not None:
            going[step.to] = local[step.to]
        elif step.path in sent:
            going[step.path] = digest(sent[step.path])
    copy.manifest.going = going
    with suppress(OSError):  # a full disk keeps nothing from the store: cut off then, the folder's version is set aside
        copy.save()


def _remove(copy: _Copy, paths: Sequence[str], local: dict[str, str]) -> bool:
    again = False
    for path in paths:
        if copy.folder.state(path) == local.get(path):
            copy.folder.remove(path)
            copy.manifest.known.pop(path, None)
        else:
            again = True
    return again


def _write(copy: _Copy, rows: Sequence[MemoryRow], over: frozenset[str], local: dict[str, str]) -> bool:
    """False when a file was changed meanwhile, and was left alone."""
    copy.manifest.coming = {row.path: row.content_sha256 for row in rows}
    copy.save()
    undisturbed = True
    for row in rows:
        assert row.content is not None, "contents were asked for"
        try:
            if copy.folder.state(row.path) != local.get(row.path):
                undisturbed = False
                continue
            if row.path in over:
                _note_aside(copy, row.path, copy.folder.set_aside(row.path))
            for name in copy.folder.write(row.path, row.content):
                _note_aside(copy, row.path, name)
            copy.manifest.known[row.path] = row.content_sha256
        except OSError as error:
            copy.problems[row.path] = f"this memory can't be shown as a file ({error.strerror})"
    copy.manifest.coming = {}
    return undisturbed


def _note_aside(copy: _Copy, path: str, name: str | None) -> None:
    if name is not None:
        copy.manifest.aside.append(Aside(path=path, name=name))


def _explain(copy: _Copy, before: Manifest) -> None:
    """Say in the folder what isn't saved, and keep what was found to be alike."""
    if copy.writable:
        copy.manifest.aside = [thing for thing in copy.manifest.aside if copy.folder.is_aside(thing.name)]
        try:
            copy.folder.explain(_readme(copy))
        except OSError as error:
            log.warning(
                "memory_not_explained",
                extra={"session": copy.session.id, "memory_store": copy.store_id, "reason": str(error)},
            )
    if copy.manifest != before:
        copy.save()


def _readme(copy: _Copy) -> str | None:
    lines = []
    if copy.manifest.aside:
        lines += ["Somebody else changed these memories too. Theirs is in place, yours lies here:"]
        lines += [f"- {thing.path}: {ASIDE}/{thing.name}" for thing in copy.manifest.aside[-SHOWN:]]
        lines += ["Put what is missing into the memory, then delete the file here.", ""]
    if copy.problems:
        lines += ["These are not saved:"]
        lines += [f"- {path}: {why}" for path, why in list(copy.problems.items())[:SHOWN]]
        if len(copy.problems) > SHOWN:
            lines.append(f"- and {len(copy.problems) - SHOWN} more")
    return "\n".join(lines).rstrip() + "\n" if lines else None
