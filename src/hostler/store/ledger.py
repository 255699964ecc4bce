"""What did each session ask of the model and of the network? The bill and the audit.

Rows are only added, and stay when the session is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.errors import Conflict
from hostler.domain.ids import derived_id, ids_in_order, new_id
from hostler.store import audit, tool_costs
from hostler.store.jsontext import cleaned
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.prepared import Prepared, PreparedInsert
from hostler.store.sessions import Usage, add_usage, get_session, missing
from hostler.store.tables import egress_decisions, model_requests, sessions
from hostler.store.work import Lease, check

_LONGEST = 1024
"""Characters kept of a text that comes from inside a sandbox."""
_USAGE = tuple(model_requests.c[name] for name in Usage.__slots__)


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """Which request of whom an attempt was, as `engine.ports.ModelRequestRecord` tells it."""

    request_id: str = ""
    attempt: int = 1
    requested_model: str = ""
    upstream: str = ""
    upstream_request_id: str = ""
    thread: str = ""
    agent_type: str = ""
    purpose: str = ""
    agent_id: str = ""
    agent_version: int = 0
    environment_id: str = ""
    rule: str = ""
    why: str = ""
    waited_ms: float = 0.0
    complete: bool = True
    price_version: str = ""
    request_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelRequestRow:
    """One attempt of a request on the model road."""

    id: str
    session_id: str
    workspace_id: str
    model: str
    status: int
    usage: Usage
    stop_reason: str | None
    duration_ms: float
    first_byte_ms: float | None
    created_at: str
    facts: RequestFacts = RequestFacts()


@dataclass(frozen=True, slots=True)
class EgressRow:
    """One decision of the egress proxy, as `engine.egress_port.EgressDecision` tells it."""

    id: str
    session_id: str
    workspace_id: str
    method: str
    host: str
    port: int
    path: str
    allowed: bool
    reason: str
    hint: str
    environment_id: str
    created_at: str


_PLAIN = tuple(name for name in ModelRequestRow.__slots__ if name not in ("usage", "facts"))
_FACTS = tuple(model_requests.c[name] for name in RequestFacts.__slots__)


_INSERT_REQUEST = PreparedInsert(model_requests, (*_PLAIN, *Usage.__slots__, *RequestFacts.__slots__))


@dataclass(frozen=True, slots=True)
class Total:
    requests: int
    usage: Usage


class AlreadyRecorded(Conflict):
    """This attempt of a model request is in the ledger."""

    def __init__(self, row_id: str) -> None:
        super().__init__(f"model request {row_id} is recorded already")


def record_model_request(
    conn: Connection,
    now: float,
    *,
    session_id: str,
    model: str,
    status: int,
    usage: Usage,
    stop_reason: str | None,
    duration_ms: float,
    first_byte_ms: float | None,
    facts: RequestFacts | None = None,
    lease: Lease | None = None,
    results: Sequence[tuple[str, int]] = (),
) -> ModelRequestRow:
    """Write a request down and add its usage to the session, together.

    Raises NotFound for an unknown session, AlreadyRecorded for an attempt that is there: whoever can't tell whether his
    transaction was carried out tries again. Then this one is over.

    results  of tools that it brought to the model: the tool and the bytes of each.

    Without a lease by default: the tokens were spent, whoever owned the session when the answer ended.
    """
    if lease is not None:
        check(conn, now, lease)
    # The row of the session is locked by what needs it anyway, before those of budgets.
    workspace_id = add_usage(conn, session_id, usage)
    if workspace_id is None:
        raise missing(session_id)
    facts = facts or RequestFacts()
    known = facts.request_id != ""
    row = ModelRequestRow(
        derived_id("mreq", session_id, facts.request_id, str(facts.attempt)) if known else new_id("mreq"),
        session_id,
        workspace_id,
        cleaned(model, _LONGEST),
        status,
        usage,
        None if stop_reason is None else cleaned(stop_reason, _LONGEST),
        duration_ms,
        first_byte_ms,
        moment(now),
        _clean(facts),
    )
    values = [getattr(row, name) for name in _PLAIN]
    values += [getattr(usage, name) for name in Usage.__slots__]
    values += [getattr(row.facts, name) for name in RequestFacts.__slots__]
    try:
        _INSERT_REQUEST.run(conn, [tuple(values)])
    except IntegrityError as error:
        if not known:
            raise
        raise AlreadyRecorded(row.id) from error
    tool_costs.record(conn, row.id, usage, results)
    return row


def list_model_requests(conn: Connection, session_id: str, *, limit: int = 1000) -> list[ModelRequestRow]:
    """The newest requests of a session, oldest of them first."""
    query = sa.select(*(model_requests.c[name] for name in _PLAIN), *_USAGE, *_FACTS)
    query = query.where(model_requests.c.session_id == session_id)
    query = query.order_by(model_requests.c.created_at.desc(), model_requests.c.id.desc()).limit(limit)
    return [_request_row(*row) for row in conn.execute(query)][::-1]


def page_of_model_requests(
    conn: Connection, workspace_id: str, session_id: str, *, limit: int, after: Position | None = None
) -> Page[ModelRequestRow]:
    """The attempts of a session's requests, newest first; those of a deleted one stay. Raises NotFound."""
    table = model_requests.c
    mine = [table.workspace_id == workspace_id, table.session_id == session_id]
    found = _page_of_requests(conn, mine, limit=limit, after=after)
    if not found.rows and not found.has_prev:
        known = conn.execute(sa.select(table.id).where(*mine).limit(1)).first()
        if known is None:
            get_session(conn, workspace_id, session_id)
    return found


def page_of_workspace_requests(
    conn: Connection,
    workspace_id: str,
    *,
    since: str,
    until: str,
    agent_id: str | None,
    limit: int,
    after: Position | None,
) -> Page[ModelRequestRow]:
    """The attempts of a workspace's requests, newest first. The times are RFC 3339 text; `until` is left out."""
    table = model_requests.c
    mine = [table.workspace_id == workspace_id, table.created_at >= since, table.created_at < until]
    if agent_id is not None:
        mine.append(table.agent_id == agent_id)
    return _page_of_requests(conn, mine, limit=limit, after=after)


def metadata_of(conn: Connection, session_ids: Collection[str]) -> dict[str, dict[str, str]]:
    """Of each session that still is, as it is now."""
    found: dict[str, dict[str, str]] = {}
    ids = sorted(session_ids)
    for at in range(0, len(ids), 500):
        query = sa.select(sessions.c.id, sessions.c.metadata).where(sessions.c.id.in_(ids[at : at + 500]))
        found |= {row[0]: json.loads(row[1]) for row in conn.execute(query)}
    return found


def _page_of_requests(
    conn: Connection, mine: list[sa.ColumnElement[bool]], *, limit: int, after: Position | None
) -> Page[ModelRequestRow]:
    return page(
        conn,
        model_requests,
        [*(model_requests.c[name] for name in _PLAIN), *_USAGE, *_FACTS],
        mine,
        _request_row,
        keys=(model_requests.c.created_at, model_requests.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def _request_row(*row: Any) -> ModelRequestRow:
    plain, used, facts = row[: len(_PLAIN)], row[len(_PLAIN) : -len(_FACTS)], row[-len(_FACTS) :]
    fields = dict(zip(_PLAIN, plain, strict=True))
    return ModelRequestRow(**fields, usage=Usage(*used), facts=RequestFacts(*facts))


def _clean(facts: RequestFacts) -> RequestFacts:
    """Some of it comes from inside a sandbox, and some from the upstream."""
    clean: dict[str, Any] = {}
    for name in RequestFacts.__slots__:
        value = getattr(facts, name)
        clean[name] = cleaned(value, _LONGEST) if isinstance(value, str) and value else value
    return RequestFacts(**clean)


def total(conn: Connection, *, session_id: str | None = None, workspace_id: str | None = None) -> Total:
    """Requests and usage of a session or workspace, or of everything; deleted sessions included."""
    sums = [sa.func.coalesce(sa.func.sum(column), 0) for column in _USAGE]
    query = sa.select(sa.func.count(), *sums).select_from(model_requests)
    if session_id is not None:
        query = query.where(model_requests.c.session_id == session_id)
    if workspace_id is not None:
        query = query.where(model_requests.c.workspace_id == workspace_id)
    count, *used = conn.execute(query).one()
    return Total(count, Usage(*(int(value) for value in used)))


class EgressFacts(Protocol):
    """A decision that is to be written down."""

    @property
    def session_id(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def allowed(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def hint(self) -> str: ...


class _Facts(NamedTuple):
    session_id: str
    method: str
    host: str
    port: int
    allowed: bool
    reason: str
    path: str
    hint: str


_INSERT_EGRESS = PreparedInsert(egress_decisions, (*EgressRow.__slots__, "audit_id"))
_OWNERS = Prepared(
    sa.select(sessions.c.workspace_id, sessions.c.environment_id).where(sessions.c.id == sa.bindparam("id"))
)


def record_egress_all(conn: Connection, now: float, decisions: Sequence[EgressFacts]) -> list[tuple[Any, ...]]:
    """Write decisions down, in their order: all, or none, and with them an entry of the audit for each session that
    answers for its decisions. Raises NotFound for an unknown session.

    Returns the fields of each as an `EgressRow`.

    Method, host and path come from inside the sandbox: what no column can hold is replaced.
    """
    owners: dict[str, tuple[str, str]] = {}
    rows: list[tuple[Any, ...]] = []
    ids = ids_in_order("egr", now)
    for place, each in enumerate(decisions):
        owner = owners.get(each.session_id)
        if owner is None:
            owner = owners[each.session_id] = _owners_of(conn, each.session_id)
        rows.append(
            (
                next(ids),
                each.session_id,
                owner[0],
                cleaned(each.method, 64),
                cleaned(each.host, _LONGEST),
                each.port,
                cleaned(each.path, _LONGEST),
                each.allowed,
                cleaned(each.reason, _LONGEST),
                cleaned(each.hint, _LONGEST),
                owner[1],
                moment(now + place * 2e-6),  # Two, because seconds since 1970 as a float are not exact to one.
            )
        )
    entries = dict(zip(owners, audit.new_ids(now), strict=False))
    _INSERT_EGRESS.run(conn, [(*row, entries[row[1]]) for row in rows])
    acts: dict[str, list[audit.Act]] = {}
    for session_id, (workspace_id, _) in owners.items():
        mine = [row for row in rows if row[1] == session_id]
        denied = sum(not row[7] for row in mine)
        covering = audit.covering("egress", session_id, entries[session_id], mine, {"denied": denied})
        acts.setdefault(workspace_id, []).append(covering)
    for workspace_id in sorted(acts):
        audit.append(conn, now, workspace_id, acts[workspace_id])
    return rows


def record_egress(
    conn: Connection,
    now: float,
    *,
    session_id: str,
    method: str,
    host: str,
    port: int,
    allowed: bool,
    reason: str,
    path: str = "",
    hint: str = "",
) -> EgressRow:
    """Write one down, as `record_egress_all`."""
    facts = _Facts(session_id, method, host, port, allowed, reason, path, hint)
    return EgressRow(*record_egress_all(conn, now, [facts])[0])


def count_egress(conn: Connection, session_id: str, most: int) -> int:
    """Decisions about a session, counted up to `most`."""
    some = sa.select(sa.literal(1)).where(egress_decisions.c.session_id == session_id).limit(most)
    return int(conn.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one())


def list_egress(conn: Connection, session_id: str, *, limit: int = 1000) -> Sequence[EgressRow]:
    """The newest decisions about a session, oldest of them first."""
    query = sa.select(*(egress_decisions.c[name] for name in EgressRow.__slots__))
    query = query.where(egress_decisions.c.session_id == session_id)
    query = query.order_by(egress_decisions.c.created_at.desc(), egress_decisions.c.id.desc()).limit(limit)
    return [EgressRow(*row) for row in conn.execute(query)][::-1]


def page_of_egress(
    conn: Connection,
    workspace_id: str,
    session_id: str,
    *,
    limit: int,
    after: Position | None = None,
    allowed: bool | None = None,
) -> Page[EgressRow]:
    """The decisions about a session, newest first; those about a deleted one stay. Raises NotFound.

    allowed  only decisions of this kind; None: of both.
    """
    mine = [egress_decisions.c.workspace_id == workspace_id, egress_decisions.c.session_id == session_id]
    if allowed is not None:
        mine.append(egress_decisions.c.allowed == allowed)
    found = page(
        conn,
        egress_decisions,
        [egress_decisions.c[name] for name in EgressRow.__slots__],
        mine,
        EgressRow,
        keys=(egress_decisions.c.created_at, egress_decisions.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )
    if not found.rows and not found.has_prev and not _known(conn, workspace_id, session_id):
        get_session(conn, workspace_id, session_id)
    return found


@dataclass(frozen=True, slots=True)
class EgressUse:
    """Decisions that were alike, taken together."""

    method: str
    host: str
    port: int
    path: str
    allowed: bool
    reason: str
    count: int
    sessions: int
    """In how many sessions."""
    first_at: str
    last_at: str


def egress_uses(
    conn: Connection,
    workspace_id: str,
    *,
    environment_id: str | None = None,
    session_id: str | None = None,
    since: str | None = None,
    most: int,
) -> tuple[list[EgressUse], bool]:
    """What was decided about a session, or about all sessions of an environment; the most frequent first.

    since  RFC 3339 text: nothing from before.
    most   rows; the second value says whether there were more.

    Deleted sessions and environments count. Raises nothing: whoever asks looks up what it names.
    """
    table = egress_decisions.c
    alike = (table.method, table.host, table.port, table.path, table.allowed, table.reason)
    count = sa.func.count()
    query = sa.select(
        *alike,
        count,
        sa.func.count(sa.distinct(table.session_id)),
        sa.func.min(table.created_at),
        sa.func.max(table.created_at),
    ).where(table.workspace_id == workspace_id)
    if environment_id is not None:
        query = query.where(table.environment_id == environment_id)
    if session_id is not None:
        query = query.where(table.session_id == session_id)
    if since is not None:
        query = query.where(table.created_at >= since)
    query = query.group_by(*alike).order_by(count.desc(), *alike).limit(most + 1)
    rows = [EgressUse(*row) for row in conn.execute(query)]
    return rows[:most], len(rows) > most


def _known(conn: Connection, workspace_id: str, session_id: str) -> bool:
    mine = (egress_decisions.c.workspace_id == workspace_id, egress_decisions.c.session_id == session_id)
    return conn.execute(sa.select(egress_decisions.c.id).where(*mine).limit(1)).first() is not None


def _owners_of(conn: Connection, session_id: str) -> tuple[str, str]:
    """The session's workspace and environment. Raises NotFound."""
    found = _OWNERS.run(conn, id=session_id)
    if not found:
        raise missing(session_id)
    return found[0][0], found[0][1]
