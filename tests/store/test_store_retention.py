"""What is removed after a while: a dry run says exactly what a real one removes, and nothing else is touched.

A state is made by `Furnished`: sessions of any age with logs, transcripts, checkpoints, snapshots, archives, outputs,
what they cut off, and records of what happened. The clock is then turned.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection
from storekit import Databases, Skew, add_catalog, new_session

from hostler.domain.errors import InvalidRequest
from hostler.domain.prices import Prices
from hostler.domain.principals import ALL_SCOPES, DEFAULT_WORKSPACE, Principal
from hostler.domain.retention import POLICIES, PolicyName, RunRetention
from hostler.engine.hub import Hub
from hostler.engine.measures import Measures
from hostler.engine.models import Models
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.records import Records
from hostler.engine.resources import ResourceKinds
from hostler.engine.retention import Retention, RetentionTerms
from hostler.engine.session_bounds import SessionBounds, SessionLimits
from hostler.engine.sessions import Sessions
from hostler.engine.state import SessionState
from hostler.store import checkpoints, cut_entries, lines, retention, snapshots
from hostler.store.database import Database
from hostler.store.jsontext import encode
from hostler.store.keys import create_workspace
from hostler.store.ledger import record_model_request
from hostler.store.lines import Line, Transcript
from hostler.store.moments import moment
from hostler.store.retention_policies import DRAINED_ROWS
from hostler.store.schema import metadata
from hostler.store.sessions import Usage, create_session
from hostler.testing.one_rung import PLACEMENT

DAY = 86_400.0
ADMIN = Principal("api_key", "apikey_1", DEFAULT_WORKSPACE, ALL_SCOPES)
EVERY = dict.fromkeys(POLICIES, 10)
CUT = (2, 3)
"""Ordinals that every furnished session has cut off."""


def retention_of(
    db: Database,
    days: Mapping[PolicyName, int | None] = EVERY,
    owner: str = "w1",
    rest: Callable[[float], float] = lambda _: 0.0,
    every_seconds: float = 0.0,
) -> Retention:
    hub = Hub()
    quotas = WorkspaceQuotas(db)
    records = Records(db, hub)
    sessions = Sessions(db, hub, records, Models(), ResourceKinds({}), quotas, Prices(), PLACEMENT)
    terms = RetentionTerms({**dict.fromkeys(POLICIES), **days}, every_seconds=every_seconds, patience_seconds=10.0)
    return Retention(owner, db, sessions, Measures(db, quotas, {}), terms, rest=rest)


async def done(kept: Retention, *, dry_run: bool, workspace: str | None = None) -> dict[str, Any]:
    """Ask, and carry out what was asked."""
    asked = asyncio.create_task(kept.ask(ADMIN, RunRetention(dry_run=dry_run, workspace_id=workspace)))
    while not asked.done():
        await kept.look()
        await asyncio.sleep(0)
    return await asked


def removed(run: dict[str, Any]) -> dict[str, tuple[int, int, str | None, tuple[str, ...]]]:
    assert run["state"] == "completed", run
    return {
        one["policy"]: (one["items"], one["bytes"], one["oldest"], tuple(one["sample"]))
        for one in run["removed"]
        if one["items"]
    }


class Furnished:
    """Makes sessions and records inside one transaction."""

    def __init__(self, db: Database, workspace: str = DEFAULT_WORKSPACE, suffix: str = "1") -> None:
        self.db = db
        self.workspace = workspace
        self.suffix = suffix
        self.count = 0

    def session(
        self,
        conn: Connection,
        *,
        archived: bool,
        ephemeral: bool = False,
        manual: bool = False,
        automatic: bool = False,
        keeps_cut: bool = False,
    ) -> str:
        """With five live transcript entries and two that were cut off; `keeps_cut`: its checkpoint leads to them."""
        self.count += 1
        now = self.db.now(conn)
        id_ = f"sesn_{self.suffix}_{self.count}"
        hosting = {"pattern": "ephemeral" if ephemeral else "hybrid"}
        state = SessionState(thread_id="sthr", agent_name="Coder", status="terminated" if archived else "idle")
        environment = {"config": {"type": "cloud", "hosting": hosting}}
        fields: dict[str, Any] = {"state": state.model_dump_json(), "environment": environment, "status": state.status}
        create_session(conn, now, new_session(id_, self.workspace, suffix=self.suffix, **fields))
        at = moment(now)
        tables = metadata.tables
        body = encode({"id": "e", "text": "ä" * self.count})
        bodies = [
            {"session_id": id_, "seq": n, "id": f"e{n}", "type": "t", "processed_at": at, "body": body}
            for n in (1, 2, 3)
        ]
        conn.execute(tables["events"].insert(), bodies)
        conn.execute(
            tables["sessions"]
            .update()
            .where(tables["sessions"].c.id == id_)
            .values(last_seq=3, log_bytes=3 * len(body.encode()), archived_at=at if archived else None)
        )
        entry = encode({"n": "x" * 50})
        place = {"project_key": id_, "session_id": "t", "subpath": ""}
        conn.execute(tables["transcripts"].insert().values(**place, next_ordinal=7, mtime_ms=0, bytes=5 * len(entry)))
        live = [{**place, "ordinal": n, "uuid": str(n), "entry": entry} for n in (0, 1, 4, 5, 6)]
        conn.execute(tables["transcript_entries"].insert(), live)
        conn.execute(
            tables["cut_transcript_entries"].insert(),
            [
                {"session_id": id_, "transcript_id": "t", "subpath": "", "ordinal": n, "uuid": None, "entry": entry}
                for n in CUT
            ],
        )
        rewind = {"checkpoint_id": "c", "left_checkpoint_id": "l", "from_seq": 2, "to_seq": 1, "memories": "{}"}
        conn.execute(tables["rewinds"].insert().values(id=f"rwnd_{id_}", session_id=id_, created_at=at, **rewind))
        for number in (1, 2):
            snapshot = snapshots.NewSnapshot(
                id=f"snap_{id_}_{number}",
                workspace_id=self.workspace,
                session_id=id_,
                parent_id=None,
                reason="turn",
                entries=1,
                logical_bytes=10,
                stored_bytes=number,
                manifest="m",
                content="c",
            )
            snapshots.create_snapshot(conn, now, snapshot, ())
        for reason, wanted in (("manual", manual), ("automatic", automatic)):
            if wanted:
                spans = ((0, 3),) if keeps_cut else ((0, 1),)
                line = Line(((1, 3),), {"": Transcript(spans, 4 if keeps_cut else 2)})
                new = checkpoints.NewCheckpoint(
                    f"ckpt_{id_}_{reason}", id_, None, reason, 3, line, f"snap_{id_}_1", {}, "{}", None, Usage(), 1
                )
                checkpoints.put_checkpoint(conn, now, new)
        archive = {"entries": 1, "logical_bytes": 9, "stored_bytes": 4, "upto": "{}", "state": "complete"}
        conn.execute(
            tables["archives"]
            .insert()
            .values(id=f"arch_{id_}", workspace_id=self.workspace, session_id=id_, number=1, created_at=at, **archive)
        )
        conn.execute(
            tables["archive_chunks"]
            .insert()
            .values(archive_id=f"arch_{id_}", number=1, first_entry=0, entries=1, body=b"zzzz")
        )
        for kind in ("output", "mounted"):
            file = {"filename": kind, "mime_type": "text/plain", "size_bytes": 7, "sha256": f"{id_}{kind}"}
            conn.execute(
                tables["files"]
                .insert()
                .values(
                    id=f"file_{id_}_{kind}",
                    workspace_id=self.workspace,
                    session_id=id_,
                    downloadable=True,
                    created_at=at,
                    **file,
                )
            )
        conn.execute(
            tables["session_outputs"]
            .insert()
            .values(session_id=id_, path="a", signature="s", sha256="x", file_id=f"file_{id_}_output")
        )
        conn.execute(
            tables["previews"]
            .insert()
            .values(
                id=f"prvw_{id_}",
                workspace_id=self.workspace,
                session_id=id_,
                label=id_,
                secret_hash="s",
                port=1,
                created_at=at,
                expires_at=now,
            )
        )
        return id_

    def records(self, conn: Connection, session_id: str) -> None:
        """What happened in a session, which may be gone."""
        self.count += 1
        n, at, tables = self.count, moment(self.db.now(conn)), metadata.tables
        of: dict[str, Any] = {"workspace_id": self.workspace, "session_id": session_id, "created_at": at}
        where = {"method": "GET", "host": "h" * n, "port": 443}
        conn.execute(
            tables["egress_decisions"]
            .insert()
            .values(id=f"egr_{self.suffix}_{n}", allowed=True, reason="r", **where, **of)
        )
        conn.execute(
            tables["credential_uses"]
            .insert()
            .values(
                id=f"use_{self.suffix}_{n}", vault_id="v", credential_id="c", place="header", outcome="o", **where, **of
            )
        )
        conn.execute(
            tables["audit_entries"]
            .insert()
            .values(
                id=f"aud_{self.suffix}_{n}",
                workspace_id=self.workspace,
                strand="",
                number=n,
                kind="administration",
                actor_kind="api_key",
                actor_id="a",
                act="x",
                target_id="t",
                subject="",
                sealed="",
                details="{}",
                created_at=at,
                seq=n,
                hash="h",
            )
        )
        chains = tables["audit_chains"]
        if not conn.execute(chains.select().where(chains.c.workspace_id == self.workspace)).all():
            conn.execute(
                chains.insert().values(
                    workspace_id=self.workspace, seq=1_000, hash="00", signed_seq=1_000, signed_at=0.0, start_seq=0
                )
            )
        conn.execute(
            tables["audit_checkpoints"]
            .insert()
            .values(workspace_id=self.workspace, seq=n, hash="h", created_at=at, signer="s", signature="s")
        )
        for state in ("delivered", "pending"):
            conn.execute(
                tables["webhook_deliveries"]
                .insert()
                .values(
                    id=f"whd_{self.suffix}_{n}_{state}",
                    workspace_id=self.workspace,
                    endpoint_id="e",
                    event_id="v",
                    event_type="t",
                    subject="s",
                    data="{}",
                    state=state,
                    test=False,
                    attempts=1,
                    tries_left=0,
                    enqueued_at=0.0,
                    tick=0,
                    due_at=0.0,
                    epoch=0,
                    created_at=at,
                )
            )


def contents(conn: Connection, but: frozenset[str] = frozenset({"retention_runs", "workspace_retention"})) -> Any:
    """Every row of every table."""
    found = {}
    for name, table in metadata.tables.items():
        if name not in but:
            found[name] = sorted(repr(tuple(row)) for row in conn.execute(sa.select(table)))
    return found


ROOMS = st.lists(
    st.fixed_dictionaries(
        {
            "age": st.sampled_from([5, 15]),
            "archived": st.booleans(),
            "ephemeral": st.booleans(),
            "manual": st.booleans(),
            "automatic": st.booleans(),
            "keeps_cut": st.booleans(),
        }
    ),
    min_size=1,
    max_size=6,
)
DAYS = st.fixed_dictionaries({name: st.sampled_from([None, 1, 10, 30]) for name in POLICIES})


ROOMS_OF_ALL_KINDS: list[dict[str, Any]] = [
    {"age": 15, "archived": archived, "ephemeral": False, "manual": False, "automatic": automatic, "keeps_cut": True}
    for archived in (True, False)
    for automatic in (True, False)
]


async def furnish(db: Database, skew: Skew, rooms: list[dict[str, Any]], workspace: str, suffix: str) -> None:
    await add_catalog(db, workspace, suffix=suffix)
    furnished = Furnished(db, workspace, suffix)
    for room in rooms:
        wanted = dict(room)
        skew.seconds = -wanted.pop("age") * DAY

        def unit(conn: Connection, wanted: dict[str, Any] = wanted) -> None:
            furnished.records(conn, furnished.session(conn, **wanted))
            furnished.records(conn, "sesn_gone")

        await db.write(unit)
    skew.seconds = 0.0


@pytest.mark.parametrize("dialect", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example is a database: shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rooms=ROOMS, days=DAYS)
@example(rooms=ROOMS_OF_ALL_KINDS, days=EVERY)
@example(rooms=ROOMS_OF_ALL_KINDS, days={**EVERY, "archived_sessions": None})
def test_a_dry_run_says_what_a_real_one_removes(
    databases: Databases, dialect: str, rooms: list[dict[str, Any]], days: dict[PolicyName, int | None]
) -> None:
    """And changes nothing; and after the real one there is nothing left to say."""
    url = databases.fresh(dialect)
    skew = Skew()

    async def check() -> None:
        db = await Database.open(url, clock_skew=skew)
        try:
            other = (await db.write(lambda c: create_workspace(c, db.now(c), "other"))).id
            await furnish(db, skew, rooms, DEFAULT_WORKSPACE, "1")
            await furnish(db, skew, rooms, other, "B")
            kept = retention_of(db, days)
            before = await db.read(contents)
            dry = await done(kept, dry_run=True)
            assert await db.read(contents) == before
            real = await done(kept, dry_run=False)
            assert removed(real) == removed(dry)
            assert removed(await done(kept, dry_run=True)) == {}
            after = await db.read(contents)
            for table, rows in before.items():  # whatever is somebody else's is as it was
                theirs = [row for row in rows if "_B_" in row or other in row]
                assert [row for row in after[table] if "_B_" in row or other in row] == theirs, table
            gone = {table: len(before[table]) - len(after[table]) for table in before}
            items = {name: found[0] for name, found in removed(real).items()}
            assert gone["sessions"] == items.get("archived_sessions", 0)
            assert gone["egress_decisions"] == items.get("egress_decisions", 0)
            assert gone["webhook_deliveries"] == items.get("webhook_deliveries", 0)
            # Every checkpoint that is left finds all that it needs.
            await db.read(lambda conn: _checkpoints_are_whole(conn))
        finally:
            await db.close()

    asyncio.run(check())
    databases.drop(url)


def _checkpoints_are_whole(conn: Connection) -> None:
    tables = metadata.tables
    for row in conn.execute(sa.select(tables["checkpoints"])).mappings():
        there = conn.execute(
            sa.select(sa.func.count()).where(tables["snapshots"].c.id == row["snapshot_id"])
        ).scalar_one()
        assert there == 1, row["id"]
        line = Line.of_text(row["line"])
        found = lines._kept(conn, row["session_id"], "t", "", line.transcripts[""].spans)
        assert len(list(found)) == line.transcripts[""].entries, row["id"]
        assert len(lines.events_of(conn, row["session_id"], line.events)) == 3


EXPECTED: dict[PolicyName, tuple[int, set[str]]] = {
    # Of an archived session with an automatic checkpoint, one without any, and one that lives.
    "archived_sessions": (2, {"sessions", "events", "transcripts", "transcript_entries"}),
    "automatic_checkpoints": (1, {"checkpoints"}),
    "archived_logs": (1, {"events", "transcripts", "transcript_entries"}),
    "archived_files": (3, {"snapshots"}),
    "cut_entries": (6, {"cut_transcript_entries"}),
    "compaction_archives": (3, {"archive_chunks"}),
    "outputs": (2, {"files"}),
    "ephemeral_outputs": (1, {"files"}),
    "egress_decisions": (3, {"egress_decisions"}),
    "credential_uses": (3, {"credential_uses"}),
    "audit_entries": (3, {"audit_entries", "audit_checkpoints"}),
    "webhook_deliveries": (3, {"webhook_deliveries"}),
    "work_items": (1, {"work_items"}),
    "previews": (3, {"previews"}),
}


async def rooms_of_three(db: Database, skew: Skew) -> None:
    rooms = [
        {"age": 15, "archived": True, "automatic": True},
        {"age": 15, "archived": True},
        {"age": 15, "archived": False, "ephemeral": True},
    ]
    await add_catalog(db)
    furnished = Furnished(db)
    skew.seconds = -15 * DAY
    for room in rooms:
        wanted = {name: value for name, value in room.items() if name != "age"}
        await db.write(lambda c, wanted=wanted: furnished.records(c, furnished.session(c, **wanted)))  # type: ignore[misc]

    def item(conn: Connection) -> None:
        at = moment(db.now(conn))
        for session_id, state in (("sesn_1_3", "stopped"), ("sesn_1_3", "queued")):
            conn.execute(
                metadata.tables["work_items"]
                .insert()
                .values(
                    id=f"work_{state}",
                    workspace_id=DEFAULT_WORKSPACE,
                    environment_id="env_1",
                    session_id=session_id,
                    state=state,
                    metadata="{}",
                    created_at=at,
                    queued_at=0.0,
                    ttl_seconds=1,
                    barren=0,
                    stopped_at=at if state == "stopped" else None,
                )
            )

    await db.write(item)
    skew.seconds = 0.0


async def test_each_policy_removes_what_it_names_and_nothing_else(db: Database, skew: Skew) -> None:
    """One after the other, the last first: earlier ones take along what later ones would remove."""
    await rooms_of_three(db, skew)
    for name in reversed(POLICIES):
        before = await db.read(contents)
        assert removed(await done(retention_of(db, {name: 16}), dry_run=True)) == {}, name
        run = await done(retention_of(db, {name: 14}), dry_run=False)
        items, tables = EXPECTED[name]
        assert {policy: found[0] for policy, found in removed(run).items()} == {name: items}
        after = await db.read(contents)
        for rows in (after, before):  # what is removed is in the audit, too
            rows["audit_entries"] = [
                row for row in rows["audit_entries"] if "server" not in row and "retention.run" not in row
            ]
        shrunk = {table for table in before if len(after[table]) < len(before[table])}
        assert tables <= shrunk if name == "archived_sessions" else tables == shrunk, name


async def test_the_bill_outlives_its_session(db: Database, skew: Skew) -> None:
    await rooms_of_three(db, skew)

    def request(conn: Connection) -> None:
        record_model_request(
            conn,
            db.now(conn),
            session_id="sesn_1_1",
            model="m",
            status=200,
            usage=Usage(input_tokens=5),
            stop_reason=None,
            duration_ms=1.0,
            first_byte_ms=None,
        )

    await db.write(request)
    await done(retention_of(db), dry_run=False)
    assert len((await db.read(contents))["model_requests"]) == 1


async def test_what_a_session_cut_off_stays_while_a_checkpoint_leads_to_it(db: Database, skew: Skew) -> None:
    await add_catalog(db)
    furnished = Furnished(db)
    skew.seconds = -15 * DAY
    held = await db.write(lambda c: furnished.session(c, archived=False, manual=True, keeps_cut=True))
    free = await db.write(lambda c: furnished.session(c, archived=False, manual=True))
    skew.seconds = 0.0
    run = await done(retention_of(db, {"cut_entries": 10}), dry_run=False)
    assert run["removed"][0]["sample"] == [free]
    left = await db.read(lambda c: {id_: cut_entries.kept_bytes(c, id_) for id_ in (held, free)})
    assert left[held] > 0
    assert left[free] == 0


async def test_a_run_that_was_cut_off_is_gone_on_with_by_somebody_else(db: Database, skew: Skew) -> None:
    """What the two have removed adds up to what a dry run had said, and the first can do no more."""
    await rooms_of_three(db, skew)
    first, second = retention_of(db, owner="w1"), retention_of(db, owner="w2")
    dry = removed(await done(first, dry_run=True))
    assert len(dry) > 5
    row = await db.write(
        lambda c: retention.begin(
            c, db.now(c), DEFAULT_WORKSPACE, days=EVERY, dry_run=False, cause="asked", actor_id="a"
        )
    )
    await db.write(lambda c: retention.claim(c, db.now(c), "w1"))
    for _ in range(3):
        assert await first._piece(row.id)
    await second.look()  # the lease holds: not its business
    assert (await db.read(lambda c: retention.get_run(c, None, row.id))).owner == "w1"
    skew.seconds = retention.LEASE_SECONDS + 1
    assert await db.write(lambda c: retention.claim(c, db.now(c), "w2")) is not None
    assert not await first._piece(row.id)
    await db.write(lambda c: retention.release_own(c, "w2"))
    await second.look()
    ended = await second.get_run(ADMIN, row.id)
    assert removed(ended) == dry


@pytest.mark.parametrize("pieces", [1, 6])
@pytest.mark.parametrize("dialect", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
async def test_a_server_that_is_killed_in_the_middle_loses_nothing_of_its_run(
    db: Database, url: str, skew: Skew, pieces: int
) -> None:
    await rooms_of_three(db, skew)
    dry = removed(await done(retention_of(db), dry_run=True))
    assert len(dry) > 5
    row = await db.write(
        lambda c: retention.begin(
            c, db.now(c), DEFAULT_WORKSPACE, days=EVERY, dry_run=False, cause="asked", actor_id="a"
        )
    )
    program = [sys.executable, str(Path(__file__).with_name("cut_retention.py")), url]
    victim = await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE)
    assert victim.stdin is not None
    assert victim.stdout is not None
    async with asyncio.timeout(60):
        for number in range(pieces):
            assert await victim.stdout.readline() == b"piece\n"
            if number < pieces - 1:
                victim.stdin.write(b"\n")
    victim.kill()
    await victim.wait()
    left = await db.read(lambda c: retention.get_run(c, None, row.id))
    assert left.state == "running"
    assert left.owner == "w1"
    # The same server in its next life needs not wait for the lease.
    again = retention_of(db)
    await db.write(lambda c: retention.release_own(c, "w1"))
    await again.look()
    assert removed(await again.get_run(ADMIN, row.id)) == dry
    assert removed(await done(again, dry_run=True)) == {}


@pytest.mark.parametrize("name", ["archived_sessions", "archived_logs"])
async def test_a_large_session_goes_in_pieces_and_goes_wholly_once_it_has_begun_to(
    db: Database, skew: Skew, name: PolicyName
) -> None:
    """Also when the days are changed meanwhile: half a log is worth nothing to anybody."""
    await add_catalog(db)
    furnished = Furnished(db)
    skew.seconds = -15 * DAY
    large, small = [await db.write(lambda c: furnished.session(c, archived=True)) for _ in range(2)]
    events = metadata.tables["events"]
    more = [
        {"session_id": large, "seq": n, "id": f"e{n}", "type": "t", "processed_at": "x", "body": "{}"}
        for n in range(4, 2 * DRAINED_ROWS)
    ]
    await db.write(lambda c: c.execute(events.insert(), more))
    skew.seconds = 0.0
    kept = retention_of(db, {name: 10})
    dry = removed(await done(kept, dry_run=True))
    assert dry[name][0] == 2
    row = await db.write(
        lambda c: retention.begin(
            c, db.now(c), DEFAULT_WORKSPACE, days=kept._terms.days, dry_run=False, cause="asked", actor_id="a"
        )
    )
    await db.write(lambda c: retention.claim(c, db.now(c), "w1"))
    assert await kept._piece(row.id)
    left = await db.read(lambda c: c.execute(sa.select(sa.func.count()).where(events.c.session_id == large)).scalar())
    assert left == 2 * DRAINED_ROWS - 1 - DRAINED_ROWS
    changed = retention_of(db, {}) if name == "archived_logs" else kept
    await db.write(lambda c: retention.release_own(c, "w1"))
    await changed.look()
    ended = await kept.get_run(ADMIN, row.id)
    there = await db.read(lambda c: set(c.execute(sa.select(events.c.session_id)).scalars()))
    if changed is kept:
        assert removed(ended) == dry
        assert there == set()
    else:
        assert ended["state"] == "stopped"
        assert ended["removed"][0]["sample"] == [large]
        assert there == {small}


async def test_two_servers_never_remove_at_the_same_time(db: Database, skew: Skew) -> None:
    await rooms_of_three(db, skew)
    dry = removed(await done(retention_of(db), dry_run=True))
    assert len(dry) > 5
    servers = [retention_of(db, owner=f"w{n}") for n in range(3)]
    await db.write(
        lambda c: retention.begin(
            c, db.now(c), DEFAULT_WORKSPACE, days=EVERY, dry_run=False, cause="asked", actor_id="a"
        )
    )
    async with asyncio.TaskGroup() as tasks:
        for server in servers:
            tasks.create_task(server.look())
    (newest, _) = (await servers[0].list_runs(ADMIN, None, limit=1, after=None))[0], None
    assert removed(newest[0]) == dry


async def test_a_change_of_days_stops_a_run(db: Database, skew: Skew) -> None:
    await rooms_of_three(db, skew)
    row = await db.write(
        lambda c: retention.begin(
            c, db.now(c), DEFAULT_WORKSPACE, days=EVERY, dry_run=False, cause="asked", actor_id="a"
        )
    )
    before = await db.read(contents)
    careful = retention_of(db, {})
    await careful.look()
    assert (await careful.get_run(ADMIN, row.id))["state"] == "stopped"
    assert await db.read(contents) == before


async def test_one_of_several_servers_looks_after_a_workspace(db: Database) -> None:
    taken = [await db.write(lambda c: retention.take(c, 100.0, DEFAULT_WORKSPACE, 50.0)) for _ in range(3)]
    assert taken == [True, False, False]
    assert await db.write(lambda c: retention.take(c, 200.0, DEFAULT_WORKSPACE, 150.0))


async def test_by_itself_one_server_removes_and_measures_once_in_a_while(db: Database, skew: Skew) -> None:
    await rooms_of_three(db, skew)
    servers = [retention_of(db, {"previews": 10}, owner=f"w{n}", every_seconds=3600.0) for n in range(2)]

    async def look() -> list[Any]:
        for server in servers:
            await server.look()
        runs, _ = await servers[0].list_runs(ADMIN, None, limit=10, after=None)
        return [(run["cause"], run["actor_id"], run["state"], run["items"]) for run in runs]

    assert await look() == [("schedule", "w0", "completed", 3)]
    (measured,) = await db.read(lambda c: retention.get_figures(c, DEFAULT_WORKSPACE))
    assert {one["store"]: one["rows"] for one in measured[1]}["sessions"] == 3
    skew.seconds = 3500.0
    assert len(await look()) == 1, "nobody looks again so soon"
    skew.seconds = 3700.0
    assert len(await look()) == 1, "a run that would remove nothing is not made"
    (again,) = await db.read(lambda c: retention.get_figures(c, DEFAULT_WORKSPACE))
    assert again[2] > measured[2] + 3600


async def test_a_session_that_can_not_be_removed_ends_the_run_and_says_why(db: Database, skew: Skew) -> None:
    """One that runs although it is archived: nobody has seen it, and nobody may remove it."""
    await add_catalog(db)
    furnished = Furnished(db)
    skew.seconds = -15 * DAY
    id_ = await db.write(lambda c: furnished.session(c, archived=True))
    running = SessionState(thread_id="sthr", agent_name="Coder", status="running").model_dump_json()
    rows = metadata.tables["sessions"]
    await db.write(lambda c: c.execute(rows.update().where(rows.c.id == id_).values(state=running)))
    skew.seconds = 0.0
    kept = retention_of(db)
    asked = asyncio.create_task(kept.ask(ADMIN, RunRetention()))
    while not asked.done():
        await kept.look()
        await asyncio.sleep(0)
    run = await asked
    assert run["state"] == "failed"
    assert "can't be deleted now" in run["reason"]
    assert len((await db.read(contents))["sessions"]) == 1


async def test_going_back_is_refused_when_too_much_was_cut_off_that_checkpoints_lead_to(db: Database) -> None:
    """What none leads to makes room first."""
    await add_catalog(db)
    furnished = Furnished(db)
    held = await db.write(lambda c: furnished.session(c, archived=False, manual=True, keeps_cut=True))
    free = await db.write(lambda c: furnished.session(c, archived=False))
    size = await db.read(lambda c: cut_entries.kept_bytes(c, held))
    enough, small = (SessionBounds(SessionLimits(cut_bytes=limit)) for limit in (size, size - 1))
    for id_ in (held, free):
        await db.write(lambda c, id_=id_: enough.admit_cut(c, id_))  # type: ignore[misc]
    with pytest.raises(InvalidRequest, match="max_cut_mb"):
        await db.write(lambda c: small.admit_cut(c, held))
    await db.write(lambda c: small.admit_cut(c, free))
    left = await db.read(lambda c: [cut_entries.kept_bytes(c, id_) for id_ in (held, free)])
    assert left == [size, 0]
