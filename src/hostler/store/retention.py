"""When was something removed, how far did it get, and which days has a workspace of its own? The rows.

A run is a row that one server works on at a time: whoever does a piece of it holds the row, finds its own name and
lease in it, and writes down how far it got in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from hostler.domain.errors import Conflict, NotFound
from hostler.domain.ids import new_id
from hostler.domain.retention import Days, PolicyName
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.signals import raise_signal
from hostler.store.tables import workspaces
from hostler.store.tables_retention import retention_runs, workspace_retention

SIGNAL: Final = "retention"
"""Raised when a run was asked for, and when one has ended."""
KEPT_RUNS: Final = 200
"""Of one workspace; older ones go."""
LEASE_SECONDS: Final = 60.0
"""A server that says nothing for this long has lost its run. Longer than any piece takes."""

Cause = Literal["schedule", "asked"]
End = Literal["completed", "stopped", "failed"]
Results = dict[str, dict[str, Any]]
"""By policy: `items`, `bytes`, `oldest` and `sample`."""


@dataclass(frozen=True, slots=True)
class RunRow:
    id: str
    workspace_id: str
    dry_run: bool
    cause: str
    actor_id: str
    state: str
    reason: str | None
    """Why it has failed."""
    moment: float
    days_json: str
    done: int
    after_json: str | None
    draining: str | None
    """The session that loses its log in pieces just now."""
    results_json: str
    owner: str | None
    lease_until: float
    created_at: str
    ended_at: str | None

    @property
    def days(self) -> dict[PolicyName, int | None]:
        found: dict[PolicyName, int | None] = decode(self.days_json)
        return found

    @property
    def after(self) -> list[Any] | None:
        found: list[Any] | None = None if self.after_json is None else decode(self.after_json)
        return found

    @property
    def results(self) -> Results:
        found: Results = decode(self.results_json)
        return found


_COLUMNS = tuple(retention_runs.c)
_RUNNING = retention_runs.c.state == "running"


# -------------------------------------------------------------------------------------------------- what is wanted


def get_overrides(conn: Connection, workspace_id: str) -> dict[PolicyName, int | None]:
    """Days that the workspace has of its own; None: for ever."""
    query = sa.select(workspace_retention.c.overrides).where(workspace_retention.c.workspace_id == workspace_id)
    text: str | None = conn.execute(query).scalar()
    found: dict[PolicyName, int | None] = {} if text is None else decode(text)
    return found


def put_overrides(conn: Connection, workspace_id: str, overrides: Days) -> None:
    """Replace them. The workspace must exist."""
    _upsert(conn, workspace_id, {"overrides": encode(dict(overrides))})


def due(conn: Connection, looked_before: float) -> list[str]:
    """Workspaces that nobody has looked after since then."""
    known = workspaces.outerjoin(workspace_retention, workspace_retention.c.workspace_id == workspaces.c.id)
    query = sa.select(workspaces.c.id).select_from(known)
    late = sa.func.coalesce(workspace_retention.c.looked_at, 0.0) < looked_before
    return list(conn.execute(query.where(late).order_by(workspaces.c.id)).scalars())


def take(conn: Connection, now: float, workspace_id: str, looked_before: float) -> bool:
    """This server looks after the workspace now. False: another one did since `looked_before`."""
    _upsert(conn, workspace_id, {})
    row = workspace_retention.update().where(
        workspace_retention.c.workspace_id == workspace_id, workspace_retention.c.looked_at < looked_before
    )
    return conn.execute(row.values(looked_at=now)).rowcount == 1


def put_figures(conn: Connection, now: float, workspace_id: str, figures: Sequence[Mapping[str, Any]]) -> None:
    _upsert(conn, workspace_id, {"figures": encode([dict(one) for one in figures]), "measured_at": now})


def get_figures(conn: Connection, workspace_id: str | None) -> list[tuple[str, list[dict[str, Any]], float]]:
    """Workspace, figures and when they were taken; of every workspace when none is named."""
    at = workspace_retention.c
    query = sa.select(at.workspace_id, at.figures, at.measured_at).where(at.figures.is_not(None))
    if workspace_id is not None:
        query = query.where(at.workspace_id == workspace_id)
    return [(of, decode(text), measured) for of, text, measured in conn.execute(query.order_by(at.workspace_id))]


def _upsert(conn: Connection, workspace_id: str, values: dict[str, Any]) -> None:
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    row = dialect.insert(workspace_retention).values(workspace_id=workspace_id, **values)
    if values:
        conn.execute(row.on_conflict_do_update(index_elements=["workspace_id"], set_=values))
    else:
        conn.execute(row.on_conflict_do_nothing())


# ------------------------------------------------------------------------------------------------------------ runs


def begin(
    conn: Connection, now: float, workspace_id: str, *, days: Days, dry_run: bool, cause: Cause, actor_id: str
) -> RunRow:
    """A run that nobody works on yet. Raises Conflict while another one removes something from the workspace."""
    _upsert(conn, workspace_id, {})
    held = sa.select(workspace_retention.c.workspace_id).where(workspace_retention.c.workspace_id == workspace_id)
    conn.execute(held.with_for_update())
    if not dry_run:
        other = sa.select(retention_runs.c.id).where(
            retention_runs.c.workspace_id == workspace_id, _RUNNING, sa.not_(retention_runs.c.dry_run)
        )
        found: str | None = conn.execute(other).scalar()
        if found is not None:
            raise Conflict(f"the run {found} removes from this workspace already; wait for its end")
    row = RunRow(
        new_id("rtrn"),
        workspace_id,
        dry_run,
        cause,
        actor_id,
        "running",
        None,
        now,
        encode(dict(days)),
        0,
        None,
        None,
        "{}",
        None,
        0.0,
        moment(now),
        None,
    )
    names = [column.name for column in _COLUMNS]
    fields = [getattr(row, name) for name in RunRow.__slots__]
    conn.execute(retention_runs.insert().values(dict(zip(names, fields, strict=True))))
    _prune(conn, workspace_id)
    raise_signal(conn, SIGNAL)
    return row


def claim(conn: Connection, now: float, owner: str) -> RunRow | None:
    """The oldest run that nobody works on, or whose server is gone; it is this server's from now on."""
    free = sa.select(retention_runs.c.id).where(_RUNNING, retention_runs.c.lease_until < now)
    oldest = free.order_by(retention_runs.c.created_at, retention_runs.c.id).limit(1)
    run_id: str | None = conn.execute(oldest.with_for_update(skip_locked=True)).scalar()
    if run_id is None:
        return None
    mine = retention_runs.update().where(retention_runs.c.id == run_id, _RUNNING)
    return RunRow(*conn.execute(mine.values(owner=owner, lease_until=now + LEASE_SECONDS).returning(*_COLUMNS)).one())


def release_own(conn: Connection, owner: str) -> None:
    """What a server of this name had when it ended may be gone on with at once."""
    conn.execute(retention_runs.update().where(_RUNNING, retention_runs.c.owner == owner).values(lease_until=0.0))


def hold(conn: Connection, now: float, run_id: str, owner: str) -> RunRow | None:
    """The run, which nobody else goes on with before this transaction ends. None: it is not this server's any more."""
    mine = (retention_runs.c.id == run_id, _RUNNING, retention_runs.c.owner == owner)
    found = conn.execute(sa.select(*_COLUMNS).where(*mine, retention_runs.c.lease_until > now).with_for_update())
    row = found.first()
    return None if row is None else RunRow(*row)


def note(
    conn: Connection,
    now: float,
    run_id: str,
    *,
    done: int,
    after: Sequence[Any] | None,
    results: Results,
    draining: str | None = None,
) -> None:
    """How far it got. The caller holds it."""
    conn.execute(
        retention_runs.update()
        .where(retention_runs.c.id == run_id)
        .values(
            done=done,
            after=None if after is None else encode(list(after)),
            results=encode(results),
            draining=draining,
            lease_until=now + LEASE_SECONDS,
        )
    )


def end(conn: Connection, now: float, run_id: str, state: End, reason: str | None = None) -> None:
    conn.execute(
        retention_runs.update()
        .where(retention_runs.c.id == run_id, _RUNNING)
        .values(state=state, reason=reason, ended_at=moment(now), owner=None, lease_until=0.0)
    )
    raise_signal(conn, SIGNAL)


def get_run(conn: Connection, workspace_id: str | None, run_id: str) -> RunRow:
    """Raises NotFound. None: of any workspace."""
    query = sa.select(*_COLUMNS).where(retention_runs.c.id == run_id)
    if workspace_id is not None:
        query = query.where(retention_runs.c.workspace_id == workspace_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"retention run {run_id} does not exist")
    return RunRow(*row)


def page_of_runs(conn: Connection, workspace_id: str, *, limit: int, after: Position | None) -> Page[RunRow]:
    """Newest first."""
    return page(
        conn,
        retention_runs,
        _COLUMNS,
        [retention_runs.c.workspace_id == workspace_id],
        RunRow,
        keys=(retention_runs.c.created_at, retention_runs.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def _prune(conn: Connection, workspace_id: str) -> None:
    mine = retention_runs.c.workspace_id == workspace_id
    newest = sa.select(retention_runs.c.id).where(mine)
    newest = newest.order_by(retention_runs.c.created_at.desc(), retention_runs.c.id.desc())
    old = newest.offset(KEPT_RUNS).limit(-1 if conn.dialect.name == "sqlite" else None)
    gone = list(conn.execute(old).scalars())
    if gone:
        conn.execute(retention_runs.delete().where(retention_runs.c.id.in_(gone), sa.not_(_RUNNING)))
