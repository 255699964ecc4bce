"""Who did what, and when? Entries are written in the transaction of the act, and never changed.

`append` is the one way in. An entry gets its number among those of its strand (a session, or everything else) in the
same transaction; its place in the chain of the workspace it gets moments later (`store.audit_chain`), so that nobody
who writes waits for everybody else who does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection

from hostler.domain.auditing import WHOLE, Kind, row_text, rows_digest
from hostler.domain.ids import ids_in_order
from hostler.domain.principals import Actor
from hostler.store import audit_subjects
from hostler.store.acting import acting
from hostler.store.audit_subjects import PERSON
from hostler.store.jsontext import cleaned, decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, Range, page
from hostler.store.prepared import PreparedInsert
from hostler.store.tables_tenancy import audit_entries

PERSONAL: Final = frozenset({"name", "url", "description", "title", "before_name", "email"})
"""Fields of the details of administrative acts that people fill in: they are encrypted."""


@dataclass(frozen=True, slots=True)
class Act:
    """One entry that is to be written. Secrets belong into none of its fields."""

    kind: Kind
    act: str
    """A stable word of the form `key.create`."""
    actor: Actor
    target_id: str
    session_id: str | None = None
    """The session that it is about, if it is about one."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """For everybody, for ever: ids, numbers, words of ours."""
    private: Mapping[str, Any] = field(default_factory=dict)
    """What people or agents wrote: encrypted with the key of the session, else of the target."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Goes into the details as a digest that only the same key can make. By name of the field, the text."""
    id: str = ""
    """`new_ids`, where rows refer to the entry; else one is made."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    id: str
    workspace_id: str
    """The workspace that the act was about."""
    strand: str
    number: int
    kind: str
    actor_kind: str
    actor_id: str
    act: str
    target_id: str
    subject: str
    sealed: str
    details_json: str
    created_at: str
    seq: int | None
    """None: it is not chained yet."""
    hash: str | None
    private: Mapping[str, Any] | None = None
    """None: there is nothing personal, or its key was destroyed."""

    @property
    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = decode(self.details_json)
        return found


_STORED = (
    "id",
    "workspace_id",
    "strand",
    "number",
    "kind",
    "actor_kind",
    "actor_id",
    "act",
    "target_id",
    "subject",
    "sealed",
    "details",
    "created_at",
)
_INSERT = PreparedInsert(audit_entries, _STORED)
_COLUMNS = tuple(audit_entries.c[name] for name in (*_STORED, "seq", "hash"))


def new_ids(now: float) -> Iterable[str]:
    """For entries that rows of the same transaction refer to."""
    return ids_in_order("audit", now)


def append(conn: Connection, now: float, workspace_id: str, acts: Sequence[Act]) -> None:
    """Write acts down, in their order, in their own transaction: all of it happens, or nothing.

    Call it late in the transaction: until the end of it, nobody else writes about the same session (or, without one,
    about the workspace).
    """
    at, ids = moment(now), iter(new_ids(now))
    strands: dict[str, list[Act]] = {}
    for act in acts:
        strands.setdefault(act.session_id or WHOLE, []).append(act)
    rows: list[tuple[Any, ...]] = []
    for strand, mine in sorted(strands.items()):  # in this order everywhere, so that two never wait for each other
        head = audit_subjects.meet(conn, workspace_id, strand, at, len(mine))
        for number, act in enumerate(mine, head.entries - len(mine) + 1):
            subject = head if strand or not (act.private or act.digests) else None
            if subject is None:
                subject = audit_subjects.meet(conn, workspace_id, act.target_id, at)
            actor_id = cleaned(act.actor.id, 256)
            if act.actor.kind == "command_line":
                actor_id = audit_subjects.meet(conn, workspace_id, PERSON + actor_id, at).id
            id_, key = act.id or next(ids), subject.raw
            used = key is not None and bool(act.private or act.digests)
            digests = {
                name: None if key is None else audit_subjects.keyed_digest(key, text)
                for name, text in act.digests.items()
            }
            rows.append(
                (
                    id_,
                    workspace_id,
                    strand,
                    number,
                    act.kind,
                    act.actor.kind,
                    actor_id,
                    act.act,
                    cleaned(act.target_id, 256),
                    subject.id if used else "",
                    audit_subjects.seal(key, id_, act.private) if key is not None and act.private else "",
                    encode({**act.details, **digests}),
                    head.last_at,
                )
            )
    if rows:
        _INSERT.run(conn, rows)


def record_act(
    conn: Connection,
    now: float,
    *,
    actor: Actor,
    act: str,
    target_id: str,
    workspace_id: str,
    details: Mapping[str, Any] | None = None,
    kind: Kind = "administration",
    session_id: str | None = None,
) -> None:
    """Write one act of administration down, as `append`. What people have filled in is encrypted (`PERSONAL`)."""
    given = dict(details or {})
    private = {name: given.pop(name) for name in PERSONAL & given.keys()}
    done = Act(kind, act, actor, target_id, session_id, given, private)
    append(conn, now, workspace_id, [done])


def covering(kind: Kind, session_id: str, id_: str, rows: Sequence[Sequence[Any]], more: Mapping[str, Any]) -> Act:
    """One entry that answers for many rows, each with its id first: none can be changed without it showing."""
    digest = rows_digest(row_text(row) for row in sorted(rows, key=lambda row: str(row[0])))
    act = "egress.decided" if kind == "egress" else "credential.used"
    details = {"rows": len(rows), **more, "digest": digest}
    return Act(kind, act, Actor("session", session_id), session_id, session_id, details, id=id_)


def forget(conn: Connection, now: float, workspace_id: str, subject: str, actor: Actor) -> str | None:
    """Destroy the key of a subject, and write down that it was. Its id; None: there is no such subject."""
    found = audit_subjects.destroy(conn, workspace_id, subject)
    if found is not None:
        record_act(conn, now, actor=actor, act="audit.redact", target_id=found, workspace_id=workspace_id)
    return found


def page_of_acts(
    conn: Connection,
    workspace_id: str,
    *,
    limit: int,
    after: Position | None = None,
    created: Range | None = None,
    actor_id: str | None = None,
    act: str | None = None,
    target_id: str | None = None,
    kinds: Sequence[str] = (),
    session_id: str | None = None,
) -> Page[AuditRow]:
    """Entries about one workspace, newest first, with what is personal where it can be read."""
    conditions = [audit_entries.c.workspace_id == workspace_id]
    conditions += created.conditions(audit_entries.c.created_at) if created is not None else []
    if actor_id is not None:
        person = audit_subjects.id_of(conn, workspace_id, PERSON + actor_id)
        conditions.append(audit_entries.c.actor_id.in_([actor_id] if person is None else [actor_id, person]))
    for column, wanted in (
        (audit_entries.c.act, act),
        (audit_entries.c.target_id, target_id),
        (audit_entries.c.strand, session_id),
    ):
        if wanted is not None:
            conditions.append(column == wanted)
    if kinds:
        conditions.append(audit_entries.c.kind.in_(sorted(kinds)))
    found = page(
        conn,
        audit_entries,
        _COLUMNS,
        conditions,
        AuditRow,
        keys=(audit_entries.c.created_at, audit_entries.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )
    return Page(_opened(conn, workspace_id, found.rows), found.has_next, found.has_prev)


def _opened(conn: Connection, workspace_id: str, rows: Sequence[AuditRow]) -> list[AuditRow]:
    wanted = {row.subject for row in rows if row.sealed}
    wanted |= {row.actor_id for row in rows if row.actor_kind == "command_line"}
    known = audit_subjects.find(conn, workspace_id, wanted)
    opened = []
    for row in rows:
        values = {name: getattr(row, name) for name in AuditRow.__slots__}
        person = known.get(row.actor_id, ("", None))[0]
        if row.actor_kind == "command_line" and person.startswith(PERSON):
            values["actor_id"] = person[len(PERSON) :]
        key = known.get(row.subject, ("", None))[1]
        if row.sealed and key is not None:
            values["private"] = audit_subjects.unseal(key, row.id, row.sealed)
        opened.append(AuditRow(**values))
    return opened


def forget_session(conn: Connection, now: float, workspace_id: str, session_id: str) -> None:
    """Write down that the session is deleted. What entries about it hold of its content can't be read any more."""
    deleted = Act("administration", "session.delete", acting(conn), session_id, session_id)
    append(conn, now, workspace_id, [deleted])
    audit_subjects.destroy(conn, workspace_id, session_id)
