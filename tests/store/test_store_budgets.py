"""Is money set aside by one only, given back once, and never lost? On both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from storekit import Skew, add_catalog, add_session, claim

from hostler.compose.stored import runner_ledger
from hostler.domain.errors import Conflict, NotFound, StoreBusy
from hostler.domain.prices import Prices
from hostler.engine.model_port import Grant
from hostler.engine.ports import ModelRequestRecord
from hostler.engine.purse import StoredPurse
from hostler.engine.runner_parts import LeaseTerms
from hostler.store import budgets, ledger, reservations, runtime, work
from hostler.store.budgets import BudgetRow
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE as WS
from hostler.store.reservations import Subjects, Taken
from hostler.store.sessions import Usage, get_session
from hostler.store.tables_webhooks import webhook_deliveries
from hostler.store.webhooks import create_endpoint

LIMIT = {"type": "limit", "max_list_cost": {"amount": "100", "currency": "USD"}}
DAY = 86_400.0


def whose(epoch: int = 1) -> Subjects:
    return Subjects(WS, "sesn_1", "agent_1", epoch)


async def take(db: Database, grant: str, nanos: int, epoch: int = 1) -> Taken:
    return await db.write_one(lambda c: reservations.take(c, db.now(c), grant, whose(epoch), nanos))


async def settle(db: Database, grant: str, cost: int = 0, uncertain: int = 0, *, over: bool = True) -> None:
    await db.write(
        lambda c: reservations.settle(c, db.now(c), grant, whose(), cost=cost, uncertain=uncertain, over=over)
    )


async def rows(db: Database) -> dict[str, BudgetRow]:
    def read(conn: Connection) -> dict[str, BudgetRow]:
        return {row.scope: BudgetRow(*row) for row in conn.execute(sa.select(budgets.budgets))}

    return await db.read(read)


async def arrange(db: Database, **session: Any) -> None:
    await add_catalog(db)
    await add_session(db, "sesn_1", **{"budget": LIMIT, **session})


async def add_budget(db: Database, scope: Any, subject: str, nanos: int, **more: Any) -> BudgetRow:
    period = more.pop("period", "month")
    return await db.write(
        lambda c: budgets.create(c, db.now(c), WS, scope, subject, period, nanos, more.get("warn_at", ()))
    )


async def test_what_fits_alone_and_not_together_is_given_to_as_many_as_fit(db: Database) -> None:
    await arrange(db)
    taken: list[Taken] = []

    async def one(number: int) -> None:
        taken.append(await take(db, f"grnt_{number}", 300_000_000))

    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(one(number))
    assert sum(each.fits for each in taken) == 3
    assert (await rows(db))["session"].reserved_nanos == 900_000_000
    refused = next(each for each in taken if not each.fits)
    assert refused.rooms[0].alone == 1_000_000_000
    assert refused.rooms[0].now == 100_000_000


async def test_all_budgets_give_room_or_none(db: Database) -> None:
    await arrange(db)
    await add_budget(db, "agent", "agent_1", 500_000_000, period="total")
    await add_budget(db, "workspace", WS, 2_000_000_000)
    assert not (await take(db, "grnt_1", 600_000_000)).fits
    assert {row.reserved_nanos for row in (await rows(db)).values()} == {0}
    assert (await take(db, "grnt_2", 400_000_000)).fits
    assert {row.reserved_nanos for row in (await rows(db)).values()} == {400_000_000}
    await settle(db, "grnt_2", 150_000_000, 50_000_000)
    for row in (await rows(db)).values():
        assert (row.spent_nanos, row.uncertain_nanos, row.reserved_nanos) == (150_000_000, 50_000_000, 0)


async def test_a_reservation_is_settled_once_and_stays_for_an_attempt_that_cost_nothing(db: Database) -> None:
    await arrange(db)
    await take(db, "grnt_1", 300_000_000)
    await settle(db, "grnt_1", over=False)
    assert (await rows(db))["session"].reserved_nanos == 300_000_000
    await settle(db, "grnt_1", 100_000_000)
    await settle(db, "grnt_1", 100_000_000)
    row = (await rows(db))["session"]
    assert (row.spent_nanos, row.reserved_nanos) == (100_000_000, 0)
    await take(db, "grnt_2", 300_000_000)
    assert await db.write(lambda c: reservations.release(c, "grnt_2"))
    assert not await db.write(lambda c: reservations.release(c, "grnt_2"))
    assert (await rows(db))["session"].reserved_nanos == 0


async def test_what_began_before_there_was_a_budget_counts_in_it(db: Database) -> None:
    await arrange(db, budget=None)
    assert (await take(db, "grnt_1", 300_000_000)) == Taken(True, ())
    await add_budget(db, "workspace", WS, 2_000_000_000)
    await settle(db, "", 100_000_000)
    assert (await rows(db))["workspace"].spent_nanos == 100_000_000


async def test_a_reservation_is_as_good_as_its_lease(db: Database, skew: Skew) -> None:
    await arrange(db)
    lease = await claim(db)
    await take(db, "grnt_1", 300_000_000, lease.epoch)
    assert await db.write(lambda c: reservations.abandon(c, db.now(c))) == 0
    skew.seconds += 31.0
    assert await db.write(lambda c: reservations.abandon(c, db.now(c))) == 1
    row = (await rows(db))["session"]
    assert (row.uncertain_nanos, row.reserved_nanos) == (300_000_000, 0)
    # Whoever was thought dead records what it was: that is counted already.
    await settle(db, "grnt_1", 100_000_000)
    assert (await rows(db))["session"] == row


async def test_the_reservation_of_an_earlier_lease_is_left_although_the_session_has_one(db: Database) -> None:
    await arrange(db)
    lease = await claim(db)
    await take(db, "grnt_1", 300_000_000, lease.epoch)
    await db.write(lambda c: work.release(c, lease))
    following = await claim(db, "w2")
    await take(db, "grnt_2", 200_000_000, following.epoch)
    assert await db.write(lambda c: reservations.abandon(c, db.now(c))) == 1
    row = (await rows(db))["session"]
    assert (row.uncertain_nanos, row.reserved_nanos) == (300_000_000, 200_000_000)


async def test_a_month_begins_anew_and_what_is_under_way_stays_reserved(db: Database, skew: Skew) -> None:
    await arrange(db, budget=None)
    made = await add_budget(db, "workspace", WS, 500_000_000)
    await take(db, "grnt_1", 300_000_000)
    await settle(db, "grnt_1", 300_000_000)
    await take(db, "grnt_2", 150_000_000)
    assert not (await take(db, "grnt_3", 100_000_000)).fits
    assert not await db.read(lambda c: budgets.has_room(c, db.now(c), made.id, 300_000_000))
    skew.seconds += 32 * DAY
    assert await db.read(lambda c: budgets.has_room(c, db.now(c), made.id, 300_000_000))
    assert (await take(db, "grnt_3", 100_000_000)).fits
    row = (await rows(db))["workspace"]
    assert (row.spent_nanos, row.reserved_nanos) == (0, 250_000_000)
    assert row.month > made.month
    await settle(db, "grnt_2", 120_000_000)
    assert (await rows(db))["workspace"].spent_nanos == 120_000_000


async def test_each_threshold_is_told_once_and_again_when_it_is_crossed_again(db: Database) -> None:
    await arrange(db, budget=None)
    await db.write(
        lambda c: create_endpoint(
            c,
            db.now(c),
            id="whep_1",
            workspace_id=WS,
            url="https://example.com/",
            name="",
            description="",
            enabled_events=["*"],
            secret="hs1.x",
            most=5,
        )
    )
    made = await add_budget(db, "agent", "agent_1", 1_000_000_000, warn_at=(50, 80))

    async def told() -> list[str]:
        query = sa.select(webhook_deliveries.c.data).order_by(webhook_deliveries.c.enqueued_at)
        found = await db.read(lambda c: list(c.execute(query).scalars()))
        return [data.partition('"percent":"')[2].partition('"')[0] for data in found]

    for number, (cost, expected) in enumerate(
        [(400_000_000, []), (100_000_000, ["50"]), (100_000_000, ["50"]), (300_000_000, ["50", "80"])]
    ):
        await take(db, f"grnt_{number}", cost)
        await settle(db, f"grnt_{number}", cost)
        assert await told() == expected
    # Raised, so that 50 % is not reached any more; then lowered again.
    await db.write(lambda c: budgets.change(c, db.now(c), WS, made.id, limit_nanos=4_000_000_000))
    await db.write(lambda c: budgets.change(c, db.now(c), WS, made.id, limit_nanos=1_500_000_000))
    assert await told() == ["50", "80", "50"]


async def test_there_is_one_budget_for_each_period_and_none_of_others(db: Database) -> None:
    await arrange(db)
    made = await add_budget(db, "agent", "agent_1", 1)
    await add_budget(db, "agent", "agent_1", 1, period="total")
    with pytest.raises(Conflict):
        await add_budget(db, "agent", "agent_1", 2)
    for workspace, budget in (("wrkspc_other", made.id), (WS, (await rows(db))["session"].id)):
        with pytest.raises(NotFound):
            await db.read(lambda c, w=workspace, b=budget: budgets.get(c, w, b))  # type: ignore[misc]


async def test_requests_of_another_workspace_find_no_budget_here(db: Database) -> None:
    await arrange(db)
    strange = Subjects("wrkspc_other", "sesn_1", "agent_1", 1)
    taken = await db.write_one(lambda c: reservations.take(c, db.now(c), "grnt_1", strange, 1))
    assert taken.rooms == ()


async def test_nobody_looks_through_all_budgets_of_a_workspace(db: Database) -> None:
    """Every session may have one, and each of these statements is part of a model request."""
    if db.dialect != "sqlite":
        pytest.skip("PostgreSQL decides by what the tables hold")

    def plans(conn: Connection) -> list[str]:
        said: list[str] = []

        def explain(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
            if not many and "budgets" in statement:
                rows = conn.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
                said.extend(row[3] for row in rows if " budgets" in row[3])

        sa.event.listen(conn, "before_cursor_execute", explain)
        try:
            reservations.take(conn, db.now(conn), "grnt_1", whose(), 1)
            reservations.rooms(conn, db.now(conn), whose())
            reservations.settle(conn, db.now(conn), "grnt_1", whose(), cost=1, uncertain=0, over=True)
            budgets.counts_for(conn, WS, "agent_1")
        finally:
            sa.event.remove(conn, "before_cursor_execute", explain)
        return said

    await arrange(db)
    found = await db.write(plans)
    assert len(found) > 4
    assert [plan for plan in found if not plan.startswith("SEARCH") or "workspace" in plan] == []


class DatabaseThatIsBusy:
    """The real database, which does the first `busy` writes only after it has said that it could not."""

    def __init__(self, database: Database, busy: int) -> None:
        self._database = database
        self._busy = busy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, fn: Any) -> Any:
        if self._busy:
            self._busy -= 1
            raise StoreBusy("try again")
        return await self._database.write(fn)


async def test_what_could_not_be_given_back_at_once_is_given_back_with_the_next_look(db: Database) -> None:
    await arrange(db)
    busy: Any = DatabaseThatIsBusy(db, 1)
    purse = StoredPurse(busy, Prices())
    assert (await take(db, "grnt_1", 7)).fits
    with pytest.raises(StoreBusy):
        await purse.release(Grant("grnt_1", 7))
    assert (await rows(db))["session"].reserved_nanos == 7
    await purse.abandon()
    session = (await rows(db))["session"]
    assert (session.reserved_nanos, session.uncertain_nanos) == (0, 0)
    assert purse._unreleased == {}


async def test_a_lease_that_was_extended_is_held_although_its_running_time_can_not_be_booked(db: Database) -> None:
    await arrange(db)
    lease = await claim(db)
    await db.write(lambda c: runtime.begin(c, get_session(c, WS, "sesn_1"), db.now(c) - 5, lease.epoch, 1_000))

    class BusyAfterOne(DatabaseThatIsBusy):
        async def write(self, fn: Any) -> Any:
            done = await super().write(fn)
            self._busy = 1
            return done

    busy: Any = BusyAfterOne(db, 0)
    prices = Prices()
    assert await runner_ledger(busy, LeaseTerms(), prices, StoredPurse(db, prices)).extend(lease) is True


async def test_a_request_that_is_written_down_again_costs_nothing_more(db: Database) -> None:
    """As whoever does it must who was not told how the first time ended."""
    await arrange(db)
    prices = Prices()
    record = runner_ledger(db, LeaseTerms(), prices, StoredPurse(db, prices)).record_request
    used = Usage(output_tokens=1000)
    first = ModelRequestRecord(
        "sesn_1", "claude-opus-5-5", 200, used, "end_turn", 1.0, 1.0, request_id="mreq_1", agent_id="agent_1"
    )
    await record(first)
    once = (await rows(db))["session"].spent_nanos
    assert once > 0
    await record(first)
    assert (await rows(db))["session"].spent_nanos == once
    await record(replace(first, attempt=2))
    assert (await rows(db))["session"].spent_nanos == 2 * once
    assert (await db.read(lambda c: ledger.total(c, session_id="sesn_1"))).requests == 2
    assert (await db.read(lambda c: get_session(c, WS, "sesn_1"))).usage.output_tokens == 2000
