"""What may be done with skills, from outside and by an agent that names them? Upload, look, download, delete, pin.

Bytes first, then the row that refers to them: a crash in between leaves a blob that the next sweep removes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.ids import new_id
from hostler.domain.sessions import Position
from hostler.domain.skills import LATEST, CustomSkill, PinnedSkill, SessionSkill, check_names
from hostler.engine.files import Admit, admit_all
from hostler.engine.skill_bundles import Bundle, bundle
from hostler.store import skills as rows
from hostler.store.blobs import Blob, Blobs
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition
from hostler.store.skills import NewVersion, SkillRow, VersionRow

Uploads = Sequence[tuple[str, bytes]]
"""File name as it was sent, and content."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A version to be sent: what it is, and the bytes of its zip archive."""

    row: VersionRow
    pieces: AsyncGenerator[bytes, None]
    """Close it when it was not read to its end."""


class Skills:
    """Skills of all workspaces. Every method raises NotFound for a skill of another workspace.

    A skill without a version exists for clients of the old generation only: others neither see nor find it.
    """

    AT_ONCE = 2
    """Uploads that are checked and packed at a time; each takes up to three times `MAX_BYTES` of memory."""

    def __init__(self, database: Database, blobs: Blobs, admit: Admit = admit_all) -> None:
        """`admit` is asked before more bytes are kept (`WorkspaceQuotas.admit_bytes`)."""
        self._database = database
        self._blobs = blobs
        self._admit = admit
        self._packing = asyncio.Semaphore(self.AT_ONCE)

    async def create(self, workspace: str, uploads: Uploads, display_name: str | None) -> SkillRow:
        """Raises InvalidRequest; then nothing is kept."""
        made, new = await self._keep(uploads)

        def unit(conn: Connection) -> SkillRow:
            self._admit(conn, workspace, new.size_bytes)
            return rows.create_skill(
                conn,
                self._database.now(conn),
                id=new_id("skill"),
                workspace_id=workspace,
                display_name=display_name or made.name,
                first=new,
            )

        return await self._database.write(unit)

    async def retrieve(self, workspace: str, skill_id: str, *, with_empty: bool = False) -> SkillRow:
        row = await self._database.read(lambda c: rows.get_skill(c, workspace, skill_id))
        if row.latest_version_id is None and not with_empty:
            raise rows.missing(skill_id)
        return row

    async def list(
        self, workspace: str, *, limit: int, after: Position | None = None, with_empty: bool = False
    ) -> tuple[Sequence[SkillRow], bool]:
        """Newest first, and whether more follow."""
        found = await self._database.read(
            lambda c: rows.list_skills(
                c, workspace, limit=limit, after=StorePosition(*after) if after else None, with_empty=with_empty
            )
        )
        return found.rows, found.has_next

    async def delete(self, workspace: str, skill_id: str, *, only_empty: bool = False) -> None:
        """All versions go with it. Sessions keep what they have. `only_empty`: InvalidRequest while it has any."""

        def unit(conn: Connection) -> None:
            skill = rows.get_skill(conn, workspace, skill_id, for_update=True)
            if only_empty and skill.latest_version_id is not None:
                raise InvalidRequest(f"skill {skill_id} has versions; delete them first")
            rows.delete_skill(conn, workspace, skill_id)

        await self._database.write(unit)

    # -- versions

    async def add_version(self, workspace: str, skill_id: str, uploads: Uploads) -> VersionRow:
        """Raises InvalidRequest, also when the upload is a skill of another name; then nothing is kept."""
        await self._database.read(lambda c: rows.get_skill(c, workspace, skill_id))
        _, new = await self._keep(uploads)

        def unit(conn: Connection) -> VersionRow:
            self._admit(conn, workspace, new.size_bytes)
            return rows.add_version(conn, self._database.now(conn), workspace, skill_id, new)

        return await self._database.write(unit)

    async def version(self, workspace: str, skill_id: str, version: str) -> VersionRow:
        """`version`: an id, a number of the old generation, or `latest`."""
        return await self._database.read(lambda c: rows.get_version(c, workspace, skill_id, version))

    async def versions(
        self, workspace: str, skill_id: str, *, limit: int, before_number: int | None = None
    ) -> tuple[Sequence[VersionRow], bool]:
        """Newest first, and whether more follow."""
        return await self._database.read(
            lambda c: rows.list_versions(c, workspace, skill_id, limit=limit, before_number=before_number)
        )

    async def delete_version(
        self, workspace: str, skill_id: str, version: str, *, may_be_last: bool = False
    ) -> VersionRow:
        """Raises InvalidRequest for `latest`, and for the only version unless `may_be_last`. Sessions keep theirs."""
        if version == LATEST:
            raise InvalidRequest("version: latest names another one tomorrow; send the id of the version to delete")
        return await self._database.write(
            lambda c: rows.delete_version(
                c, self._database.now(c), workspace, skill_id, version, may_be_last=may_be_last
            )
        )

    async def download(self, workspace: str, skill_id: str, version: str) -> Archive:
        """While reading, raises StoreDamaged."""
        row = await self.version(workspace, skill_id, version)
        return Archive(row, self._blobs.read(Blob(row.sha256, row.size_bytes)))

    async def _keep(self, uploads: Uploads) -> tuple[Bundle, NewVersion]:
        async with self._packing:
            made = await asyncio.to_thread(bundle, uploads)
        blob = await self._blobs.put_bytes(made.archive)
        return made, NewVersion(new_id("skver"), made.name, made.description, blob.sha256, blob.size)


# ------------------------------------------------------------------------------------------------------- of agents


def pin(conn: Connection, workspace: str, requests: Sequence[CustomSkill], *, at: str = "") -> tuple[PinnedSkill, ...]:
    """The skills that an agent asks for, each at the version that it has from now on. `at`: where `skills` is.

    Raises NotFound for a skill or version that the workspace doesn't have, InvalidRequest when two share a name.
    """
    found = [rows.get_version(conn, workspace, skill.skill_id, skill.version or LATEST) for skill in requests]
    check_names((row.name for row in found), at=at)
    return tuple(PinnedSkill(skill_id=row.skill_id, version=row.id) for row in found)


def for_session(conn: Connection, workspace: str, pinned: Sequence[dict[str, Any]]) -> list[SessionSkill]:
    """What a new session needs to know of its agent's skills. Raises InvalidRequest when one was deleted."""
    found = []
    for skill in pinned:
        try:
            row = rows.get_version(conn, workspace, skill["skill_id"], skill["version"], keep=True)
        except NotFound:
            raise InvalidRequest(
                f"agent: version {skill['version']} of skill {skill['skill_id']} was deleted; update the agent's "
                "skills, or override them for this session",
                code="skill_not_found",
            ) from None
        found.append(SessionSkill(row.skill_id, row.id, row.name, row.description, row.sha256, row.size_bytes))
    return found


def kept(skills: Sequence[SessionSkill]) -> list[dict[str, Any]]:
    """As a session's snapshot holds them; `of_snapshot` reads it."""
    return [asdict(skill) for skill in skills]


def of_snapshot(environment: Any) -> list[SessionSkill]:
    """The skills of a session, from its snapshot of the environment."""
    return [SessionSkill(**skill) for skill in environment.get("skills") or ()]
