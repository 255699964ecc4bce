"""Which skills are there, at which versions, and which archives are still needed?

Another workspace's skills are not found. Every function runs inside the caller's transaction; `now` is `Database.now`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.skills import LATEST
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.tables import sessions
from hostler.store.tables_skills import session_skills, skill_versions, skills

_BATCH = 500


@dataclass(frozen=True, slots=True)
class SkillRow:
    id: str
    workspace_id: str
    name: str
    display_name: str
    latest_version_id: str | None
    latest_number: int | None
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class VersionRow:
    id: str
    skill_id: str
    number: int
    name: str
    description: str
    sha256: str
    size_bytes: int
    """Of the archive."""
    created_at: str


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to be made. Its blob is kept already."""

    id: str
    name: str
    description: str
    sha256: str
    size_bytes: int


_SKILL = tuple(skills.c[name] for name in SkillRow.__slots__)
_VERSION = tuple(skill_versions.c[name] for name in VersionRow.__slots__)


def create_skill(
    conn: Connection, now: float, *, id: str, workspace_id: str, display_name: str, first: NewVersion
) -> SkillRow:
    """Make a skill with its first version, whose name is the skill's for good."""
    at = moment(now)
    conn.execute(
        skills.insert().values(
            id=id, workspace_id=workspace_id, name=first.name, display_name=display_name, created_at=at, updated_at=at
        )
    )
    add_version(conn, now, workspace_id, id, first)
    return get_skill(conn, workspace_id, id)


def get_skill(conn: Connection, workspace_id: str, skill_id: str, *, for_update: bool = False) -> SkillRow:
    """Raises NotFound. `for_update` keeps everybody else from adding or removing versions meanwhile."""
    query = sa.select(*_SKILL).where(skills.c.workspace_id == workspace_id, skills.c.id == skill_id)
    row = conn.execute(query.with_for_update() if for_update else query).first()
    if row is None:
        raise missing(skill_id)
    return SkillRow(*row)


def list_skills(
    conn: Connection, workspace_id: str, *, limit: int, after: Position | None = None, with_empty: bool = False
) -> Page[SkillRow]:
    """Newest first. `with_empty`: also those that have no version."""
    conditions = [skills.c.workspace_id == workspace_id]
    if not with_empty:
        conditions.append(skills.c.latest_version_id.is_not(None))
    keys = (skills.c.created_at, skills.c.id)
    return page(
        conn, skills, _SKILL, conditions, SkillRow, keys=keys, order="desc", limit=limit, after=after, before=None
    )


def delete_skill(conn: Connection, workspace_id: str, skill_id: str) -> None:
    """The skill and all its versions are gone. Raises NotFound. Sessions keep what they have."""
    get_skill(conn, workspace_id, skill_id, for_update=True)
    conn.execute(skills.delete().where(skills.c.id == skill_id))


# ------------------------------------------------------------------------------------------------------- versions


def add_version(conn: Connection, now: float, workspace_id: str, skill_id: str, new: NewVersion) -> VersionRow:
    """Make it the latest. Raises NotFound, and InvalidRequest when its name isn't the skill's."""
    skill = get_skill(conn, workspace_id, skill_id, for_update=True)
    if new.name != skill.name:
        raise InvalidRequest(
            f"files: this is the skill {new.name!r}, and {skill_id} is {skill.name!r}; a skill keeps its name, so give "
            "SKILL.md the old one, or create another skill"
        )
    newest = sa.select(sa.func.max(skill_versions.c.number)).where(skill_versions.c.skill_id == skill_id)
    number = max(int(now * 1_000_000), (conn.execute(newest).scalar() or 0) + 1)
    row = VersionRow(
        new.id, skill_id, number, new.name, new.description, new.sha256, new.size_bytes, created_at=moment(now)
    )
    conn.execute(skill_versions.insert().values(**{name: getattr(row, name) for name in VersionRow.__slots__}))
    _point(conn, now, skill_id, row.id, number)
    return row


def get_version(
    conn: Connection, workspace_id: str, skill_id: str, version: str = LATEST, *, keep: bool = False
) -> VersionRow:
    """A version by id, by its number, or the latest. Raises NotFound. `keep`: nobody deletes it meanwhile."""
    query = sa.select(*_VERSION).join(skills, skills.c.id == skill_versions.c.skill_id)
    query = query.where(skills.c.workspace_id == workspace_id, skills.c.id == skill_id)
    if version == LATEST:
        query = query.where(skill_versions.c.id == skills.c.latest_version_id)
    elif version.isascii() and version.isdigit() and len(version) <= 18:
        query = query.where(skill_versions.c.number == int(version))
    else:
        query = query.where(skill_versions.c.id == version)
    row = conn.execute(query.with_for_update(read=True, of=skill_versions) if keep else query).first()
    if row is None:
        get_skill(conn, workspace_id, skill_id)
        raise NotFound(f"skill {skill_id} has no version {version[:128]}")
    return VersionRow(*row)


def list_versions(
    conn: Connection, workspace_id: str, skill_id: str, *, limit: int, before_number: int | None = None
) -> tuple[list[VersionRow], bool]:
    """Newest first, and whether more follow. Raises NotFound."""
    get_skill(conn, workspace_id, skill_id)
    query = sa.select(*_VERSION).where(skill_versions.c.skill_id == skill_id)
    if before_number is not None:
        query = query.where(skill_versions.c.number < before_number)
    found = conn.execute(query.order_by(skill_versions.c.number.desc()).limit(limit + 1)).all()
    return [VersionRow(*row) for row in found[:limit]], len(found) > limit


def delete_version(
    conn: Connection, now: float, workspace_id: str, skill_id: str, version: str, *, may_be_last: bool
) -> VersionRow:
    """What is gone. Raises NotFound; InvalidRequest for the only version, unless `may_be_last`."""
    skill = get_skill(conn, workspace_id, skill_id, for_update=True)
    row = get_version(conn, workspace_id, skill_id, version)
    rest, _ = list_versions(conn, workspace_id, skill_id, limit=2)
    others = [other for other in rest if other.id != row.id]
    if not others and not may_be_last:
        raise InvalidRequest(
            f"{row.id} is the only version of skill {skill_id}, which can't be without one; delete the skill instead"
        )
    conn.execute(skill_versions.delete().where(skill_versions.c.id == row.id))
    if skill.latest_version_id == row.id:
        _point(conn, now, skill_id, *((others[0].id, others[0].number) if others else (None, None)))
    return row


def _point(conn: Connection, now: float, skill_id: str, version_id: str | None, number: int | None) -> None:
    values = {"latest_version_id": version_id, "latest_number": number, "updated_at": moment(now)}
    conn.execute(skills.update().where(skills.c.id == skill_id).values(**values))


# ------------------------------------------------------------------------------------------------------- archives


def note_session(conn: Connection, session_id: str, archives: Iterable[str]) -> None:
    """The session needs these archives, for as long as it is there. After `create_session`."""
    for sha256 in sorted(set(archives)):
        conn.execute(session_skills.insert().values(session_id=session_id, sha256=sha256))


def skill_bytes(conn: Connection, workspace_id: str) -> int:
    """The room that a workspace's skills take, in bytes: the same archive once."""
    each = sa.select(skill_versions.c.sha256, skill_versions.c.size_bytes).distinct()
    each = each.join(skills, skills.c.id == skill_versions.c.skill_id).where(skills.c.workspace_id == workspace_id)
    query = sa.select(sa.func.coalesce(sa.func.sum(each.subquery().c.size_bytes), 0))
    return int(conn.execute(query).scalar_one())


def used_archives(conn: Connection, asked: Sequence[str]) -> set[str]:
    """Those of the digests that a version or a session refers to."""
    found: set[str] = set()
    for start in range(0, len(asked), _BATCH):
        some = asked[start : start + _BATCH]
        for column in (skill_versions.c.sha256, session_skills.c.sha256):
            found.update(row.sha256 for row in conn.execute(sa.select(column).distinct().where(column.in_(some))))
    return found


def mounted_archives(conn: Connection, asked: Sequence[str]) -> set[str]:
    """Those of the digests that a session may have mounted: one that isn't archived."""
    found: set[str] = set()
    live = session_skills.join(sessions, sessions.c.id == session_skills.c.session_id)
    for start in range(0, len(asked), _BATCH):
        query = sa.select(session_skills.c.sha256).distinct().select_from(live)
        query = query.where(
            session_skills.c.sha256.in_(asked[start : start + _BATCH]), sessions.c.archived_at.is_(None)
        )
        found.update(row.sha256 for row in conn.execute(query))
    return found


def missing(skill_id: str) -> NotFound:
    return NotFound(f"skill {skill_id} does not exist")
