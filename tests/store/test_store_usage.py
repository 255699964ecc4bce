"""The ledgers of what was used: running time, shares of tools, reports, and what does not agree."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection
from storekit import Skew, add_catalog, add_session, claim, claim_many

from hostler.domain.clock import SystemClock
from hostler.engine.hub import Hub
from hostler.engine.reconciling import disagreements
from hostler.engine.records import Applied, Decide, Records
from hostler.engine.state import END_TURN, Moment, SessionState, Step, Totals, go_idle, go_running
from hostler.store import budgets, ledger, reconcile, runtime, usage_report, work
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE as WS
from hostler.store.keys import create_workspace
from hostler.store.ledger import RequestFacts
from hostler.store.pages import Range
from hostler.store.sessions import SessionRow, Usage, add_usage, get_session
from hostler.store.tables_runtime import runtime_spans
from hostler.store.tool_costs import shares
from hostler.store.usage_report import GROUP_KEYS, Filters, UsageGroup
from hostler.store.work import Lease

RATE = 80_000_000
"""Billionths of a dollar for an hour."""
OF_A_SESSION: Any = {
    "state": SessionState(thread_id="sthr_1", agent_name="Coder").model_dump_json(),
    "environment": {"config": {"type": "cloud"}, "hosting": {}},
    "isolation": {"sandbox": {"technology": "gvisor"}},
}


def runs(before: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
    return Step(*_step(go_running(before, at)))


def idles(before: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
    return Step(*_step(go_idle(before, at, totals, END_TURN)))


def stays(before: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
    return Step(before)


def _step(made: tuple[SessionState, list[Any]]) -> tuple[SessionState, tuple[Any, ...]]:
    return made[0], tuple(made[1])


class Worked:
    """A session whose life the test plays."""

    def __init__(self, db: Database, session_id: str = "sesn_1") -> None:
        self.db = db
        self.id = session_id
        self.records = Records(db, Hub(), runtime_nanos_per_hour=RATE)

    async def apply(self, decide: Decide, lease: Lease | None = None) -> Applied:
        return await self.records.apply(self.id, decide, lease=lease)

    async def beat(self, lease: Lease) -> None:
        await self.db.write(lambda c: runtime.book(c, self.db.now(c), lease.session_id, lease.epoch))

    async def row(self) -> SessionRow:
        return await self.db.read(lambda c: get_session(c, None, self.id))

    async def spans(self) -> list[Any]:
        rows = runtime_spans.select().where(runtime_spans.c.session_id == self.id).order_by(runtime_spans.c.started_at)
        return list(await self.db.read(lambda c: c.execute(rows).all()))

    async def disagree(self) -> list[Any]:
        (of,) = await self.db.read(lambda c: reconcile.ledgers(c, session_id=self.id))
        return disagreements(of)


@pytest.fixture
async def worked(db: Database) -> Worked:
    await add_catalog(db)
    await add_session(db, "sesn_1", **OF_A_SESSION)
    return Worked(db)


async def test_time_is_booked_while_a_worker_has_the_session(worked: Worked, db: Database, skew: Skew) -> None:
    await worked.apply(runs)
    skew.seconds += 3600  # nobody has it yet
    lease = await claim(db, ttl=1e6)
    await worked.apply(stays, lease)
    skew.seconds += 900
    await worked.beat(lease)
    booked = (await worked.row()).usage.list_cost_nanos
    assert booked >= RATE // 4
    skew.seconds += 900
    told = await worked.apply(idles, lease)
    (span,) = await worked.spans()
    seconds = told.state.active_seconds
    assert 1800 <= seconds < 3000
    assert (span.technology, span.ended, span.agent_id, span.workspace_id) == ("gvisor", True, "agent_1", WS)
    assert abs(span.active_us / 1e6 - seconds) < 1e-5
    assert span.list_cost_nanos == (await worked.row()).usage.list_cost_nanos == runtime.cost_of(RATE, span.active_us)
    # What the session is told at its end has all of it.
    usage = next(event.body for event in told.step.events if event.type == "session.usage")
    assert usage["usage"]["list_cost"]["amount"] == str(span.list_cost_nanos // 10_000_000) == "4"
    assert await worked.disagree() == []


async def test_running_time_counts_in_every_budget_of_the_session(worked: Worked, db: Database, skew: Skew) -> None:
    skew.seconds += 86_400 * (12 if SystemClock().now().day > 20 else 0)  # no month turns in here
    made = {}
    whose: Any = (("workspace", WS, "month"), ("agent", "agent_1", "total"), ("agent", "other", "total"))
    for scope, subject, period in whose:
        make = partial(budgets.create, limit_nanos=10**12, scope=scope, subject=subject, period=period)
        made[subject] = await db.write(lambda c, make=make: make(c, db.now(c), WS))
    wire = {"max_list_cost": {"amount": "1000", "currency": "USD"}}
    await db.write(lambda c: budgets.limit_session(c, db.now(c), WS, "sesn_1", wire))

    async def spent(subject: str) -> int:
        return (await db.read(lambda c: budgets.get(c, WS, made[subject].id))).spent_nanos

    lease = await claim(db, ttl=1e6)
    await worked.apply(runs, lease)
    skew.seconds += 900
    await worked.beat(lease)
    assert await spent(WS) >= RATE // 4
    skew.seconds += 900
    await worked.apply(idles, lease)
    used = (await worked.row()).usage.list_cost_nanos
    assert used >= RATE // 2
    assert [await spent(WS), await spent("agent_1"), await spent("other")] == [used, used, 0]
    own = await db.read(lambda c: budgets.of_session(c, "sesn_1"))
    assert own is not None
    assert own.spent_nanos == used
    # A month's budget that is made later begins with it.
    await db.write(lambda c: budgets.delete(c, WS, made[WS].id))
    again = await db.write(lambda c: budgets.create(c, db.now(c), WS, "workspace", WS, "month", 10**12))
    assert again.spent_nanos == used


async def test_a_killed_worker_ends_at_its_last_known_moment(worked: Worked, db: Database, skew: Skew) -> None:
    await worked.apply(runs)
    dead = await claim(db, "dead", ttl=30)
    await worked.apply(stays, dead)
    skew.seconds += 20
    await worked.beat(dead)
    skew.seconds += 100_000
    (won,) = await claim_many(db, "alive", ttl=1e6)
    taken = await worked.apply(stays, won.lease)
    assert taken.state.running_since is not None
    await worked.beat(dead)  # it was only thought dead: nothing of its time counts any more
    skew.seconds += 20
    done = await worked.apply(idles, won.lease)
    first, second = await worked.spans()
    assert [first.ended, second.ended] == [True, True]
    assert first.epoch != second.epoch
    assert 20_000_000 <= first.active_us < 10_000_000_000
    assert 40 <= done.state.active_seconds < 10_000
    assert await worked.disagree() == []


async def test_a_worker_that_gives_back_in_the_middle_leaves_its_time_booked(
    worked: Worked, db: Database, skew: Skew
) -> None:
    await worked.apply(runs)
    lease = await claim(db)
    await worked.apply(stays, lease)
    skew.seconds += 10

    def give_back(conn: Connection) -> None:
        runtime.book(conn, db.now(conn), lease.session_id, lease.epoch)
        work.release(conn, lease)

    await db.write(give_back)
    skew.seconds += 100_000
    (won,) = await claim_many(db, "next", ttl=1e6)
    done = await worked.apply(idles, won.lease)
    (span,) = await worked.spans()
    assert 10_000_000 <= span.active_us < 10_000_000_000
    assert abs(done.state.active_seconds - span.active_us / 1e6) < 1e-5
    assert await worked.disagree() == []


async def test_an_interrupt_without_a_worker_ends_nothing_twice(worked: Worked, db: Database, skew: Skew) -> None:
    await worked.apply(runs)
    skew.seconds += 10
    await worked.apply(idles)
    assert await worked.spans() == []
    assert await worked.disagree() == []
    lease = await claim(db)
    await worked.apply(runs, lease)
    await worked.apply(idles)
    assert [span.ended for span in await worked.spans()] == [True]
    assert await worked.disagree() == []


@given(st.lists(st.tuples(st.integers(0, 10**9), st.booleans()), max_size=30), st.integers(0, 10**12))
def test_bookings_of_a_span_add_up_to_its_cost(steps: list[tuple[int, bool]], rate: int) -> None:
    """However often it is booked on the way: rounding up happens to the whole."""
    micros, booked = 0, 0
    for more, book in steps:
        micros += more
        if book:
            delta = runtime.cost_of(rate, micros) - booked
            assert delta >= 0
            booked += delta
    whole = runtime.cost_of(rate, micros)
    assert booked + (whole - booked) == whole
    assert 0 <= whole * 3_600_000_000 - rate * micros < 3_600_000_000


@given(st.integers(0, 10**15), st.lists(st.integers(1, 10**9), min_size=1, max_size=40))
def test_shares_add_up_and_are_next_to_exact(total: int, weights: list[int]) -> None:
    parts = shares(total, weights)
    assert sum(parts) == total
    assert all(
        abs(part * sum(weights) - total * weight) < sum(weights) for part, weight in zip(parts, weights, strict=True)
    )


# -------------------------------------------------------------------------------------------------------- reports


async def request(db: Database, session_id: str, usage: Usage, results: Any = (), **facts: Any) -> None:
    model = facts.pop("model", "claude-opus-5-5")

    def unit(conn: Connection) -> None:
        ledger.record_model_request(
            conn,
            db.now(conn),
            session_id=session_id,
            model=model,
            status=200,
            usage=usage,
            stop_reason="end_turn",
            duration_ms=1.0,
            first_byte_ms=None,
            facts=RequestFacts(agent_id="agent_1", environment_id="env_1", **facts),
            results=results,
        )

    await db.write(unit)


async def report(db: Database, *by: Any, limit: int = 100, after: Any = None, **filters: Any) -> list[UsageGroup]:
    found, _ = await db.read(lambda c: usage_report.report(c, by, Filters(**filters), limit=limit, after=after))
    return found


async def busy(db: Database, skew: Skew) -> Worked:
    """Two workspaces, two days, three models, tools, a sub-agent, and running time."""
    await add_catalog(db)
    await add_session(db, "sesn_1", **OF_A_SESSION)
    other = await db.write(lambda c: create_workspace(c, db.now(c), "other").id)
    await add_catalog(db, other, suffix="2")
    await add_session(db, "sesn_2", workspace_id=other, suffix="2", **OF_A_SESSION)
    worked = Worked(db)
    lease = await claim(db)
    await worked.apply(runs, lease)
    await request(db, "sesn_1", Usage(10, 1, 2, 3, 4, 5, 1001), [("bash", 300), ("read", 100), ("bash", 5)])
    await request(db, "sesn_1", Usage(7, 7, list_cost_nanos=10), thread="a1", upstream="spare", model="m2")
    await request(db, "sesn_2", Usage(100, 100, list_cost_nanos=5))
    skew.seconds += 10
    await worked.apply(idles, lease)
    skew.seconds += 86_400
    await request(db, "sesn_1", Usage(1, unpriced_requests=1), [("srv/find", 9)], model="m3", purpose="compaction")
    return worked


REPORTS: tuple[tuple[Any, ...], ...] = (
    (),
    *((key,) for key in GROUP_KEYS),
    ("day", "model"),
    ("workspace", "agent", "tool"),
)


async def test_the_groups_of_every_report_add_up_to_the_ledger(db: Database, skew: Skew) -> None:
    worked = await busy(db, skew)
    whole = await db.read(lambda c: ledger.total(c))
    time = await db.read(lambda c: runtime.total(c, worked.id))
    assert time.active_us > 0
    for by in REPORTS:
        groups = await report(db, *by)
        sums: Counter[str] = Counter()
        for group in groups:
            sums.update({name: getattr(group.usage, name) for name in Usage.__slots__})
            sums.update(active_us=group.active_us, runtime=group.runtime_nanos, requests=group.requests)
        assert {name: sums[name] for name in Usage.__slots__} == {n: getattr(whole.usage, n) for n in Usage.__slots__}
        assert (sums["active_us"], sums["runtime"]) == (time.active_us, time.list_cost_nanos), by
        assert sums["requests"] == whole.requests + (1 if "tool" in by else 0)  # one was made for two tools
        assert [group.keys for group in groups] == sorted(group.keys for group in groups)
        # One group at a time gives the same.
        paged: list[UsageGroup] = []
        while by and (page := await report(db, *by, limit=1, after=paged[-1].keys if paged else None)):
            paged += page
        assert paged == (groups if by else [])


async def test_a_request_is_shared_by_the_tools_whose_results_it_brought(db: Database, skew: Skew) -> None:
    await busy(db, skew)
    found = {group.keys[0]: group for group in await report(db, "tool", workspace_id=WS)}
    assert set(found) == {"", "bash", "read", "srv/find"}
    assert (found["bash"].usage.list_cost_nanos, found["read"].usage.list_cost_nanos) == (754, 247)
    assert (found["bash"].result_bytes, found["read"].result_bytes) == (305, 100)
    assert found[""].usage.list_cost_nanos == 10
    assert found["srv/find"].usage.unpriced_requests == 1


async def test_filters_leave_out_what_does_not_count(db: Database, skew: Skew) -> None:
    await busy(db, skew)

    async def requests(**filters: Any) -> int:
        return sum(group.requests for group in await report(db, **filters))

    assert await requests() == 4
    assert await requests(workspace_id=WS) == 3
    assert await requests(session_id="sesn_2") == 1
    assert await requests(session_id="sesn_2", workspace_id=WS) == 0
    assert await requests(model="m2") == await requests(upstream="spare") == 1
    assert await requests(agent_id="agent_none") == 0
    first, second = [group.keys[0] for group in await report(db, "day", workspace_id=WS)]
    assert await requests(workspace_id=WS, created=Range(gte=second)) == 1
    assert await requests(workspace_id=WS, created=Range(lt=second)) == 2
    assert await requests(created=Range(lt=first)) == 0
    assert [group.spans for group in await report(db, model="m2")] == [0]


# ------------------------------------------------------------------------------------------------- what disagrees


async def test_a_counter_that_is_not_the_sum_of_its_rows_is_found_once(
    worked: Worked, db: Database, skew: Skew
) -> None:
    await request(db, worked.id, Usage(10, 1, list_cost_nanos=7))
    assert await worked.disagree() == []
    await db.write(lambda c: add_usage(c, worked.id, Usage(output_tokens=1, list_cost_nanos=-1)))
    found = await worked.disagree()
    assert found == [("session_total", {"output_tokens": 1, "list_cost_nanos": -1})]
    for new in (1, 0):
        noted = await db.write(lambda c: reconcile.note(c, db.now(c), WS, worked.id, found))
        assert len(noted) == new
    await db.write(lambda c: add_usage(c, worked.id, Usage(output_tokens=1)))
    again = await worked.disagree()
    assert len(await db.write(lambda c: reconcile.note(c, db.now(c), WS, worked.id, again))) == 1
    page = await db.read(lambda c: reconcile.page_of_mismatches(c, WS, limit=1))
    assert (page.rows[0].kind, page.has_next) == ("session_total", True)
    assert not (await db.read(lambda c: reconcile.page_of_mismatches(c, "wrkspc_none", limit=1))).rows


async def test_time_that_is_not_in_the_spans_is_found(worked: Worked, db: Database, skew: Skew) -> None:
    lease = await claim(db)
    await worked.apply(runs, lease)
    skew.seconds += 5
    await worked.apply(idles, lease)
    assert await worked.disagree() == []
    await db.write(lambda c: c.execute(runtime_spans.update().values(active_us=runtime_spans.c.active_us - 3)))
    ((kind, details),) = await worked.disagree()
    assert (kind, abs(details["active_us"] - 3) <= 1) == ("runtime", True)


async def test_no_session_fills_the_table_of_mismatches(worked: Worked, db: Database) -> None:
    async def note(number: int) -> int:
        found = [("session_total", {"output_tokens": number})]
        return len(await db.write(lambda c: reconcile.note(c, db.now(c), WS, worked.id, found)))  # type: ignore[arg-type]

    noted = [await note(number) for number in range(reconcile.MOST_OF_A_SESSION + 3)]
    assert sum(noted) == reconcile.MOST_OF_A_SESSION == 100
