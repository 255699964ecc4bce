"""Decisions that come together are committed together, in order, and one that can't be written is alone in that."""

from __future__ import annotations

import asyncio

import pytest
from storekit import add_catalog, add_session

from hostler.compose.stored import StoredDecisions
from hostler.domain.errors import NotFound
from hostler.engine.denials import Denials
from hostler.engine.egress_port import EgressDecision
from hostler.store import ledger
from hostler.store.database import Database


def decision(number: int, session_id: str = "sesn_1", *, allowed: bool = True) -> EgressDecision:
    return EgressDecision(session_id, "GET", f"h{number}.example", 443, allowed, "r", f"hint {number}", f"/{number}")


async def _all(recorder: StoredDecisions, *decisions: EgressDecision) -> list[BaseException | None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_tried(recorder, each)) for each in decisions]
    return [task.result() for task in tasks]


async def _tried(recorder: StoredDecisions, one: EgressDecision) -> BaseException | None:
    try:
        await recorder.record(one)
    except Exception as error:
        return error
    return None


async def test_what_comes_together_is_written_in_few_transactions_and_in_order(db: Database) -> None:
    await add_catalog(db)
    await add_session(db, "sesn_1")
    writes = 0
    write = db.write

    async def counted(fn):  # type: ignore[no-untyped-def]
        nonlocal writes
        writes += 1
        return await write(fn)

    db.write = counted  # type: ignore[method-assign]
    assert await _all(StoredDecisions(db, Denials()), *(decision(number) for number in range(600))) == [None] * 600
    rows = await db.read(lambda c: ledger.list_egress(c, "sesn_1"))
    assert [row.host for row in rows] == [f"h{number}.example" for number in range(600)]
    assert (rows[7].path, rows[7].hint) == ("/7", "hint 7")
    assert writes < 10


async def test_one_that_cannot_be_written_takes_none_of_the_others_along(db: Database) -> None:
    await add_catalog(db)
    await add_session(db, "sesn_1")
    heard: list[str] = []
    denials = Denials()
    recorder = StoredDecisions(db, denials)
    with denials.heard_by("sesn_1", lambda told: heard.append(told.host)):
        first, unknown, last = await _all(
            recorder, decision(1, allowed=False), decision(2, "sesn_unknown", allowed=False), decision(3)
        )
    assert (first, last) == (None, None)
    assert isinstance(unknown, NotFound)
    assert [row.host for row in await db.read(lambda c: ledger.list_egress(c, "sesn_1"))] == [
        "h1.example",
        "h3.example",
    ]
    assert heard == ["h1.example"]


async def test_a_waiter_that_is_cancelled_does_not_keep_the_others_from_being_written(db: Database) -> None:
    await add_catalog(db)
    await add_session(db, "sesn_1")
    recorder = StoredDecisions(db, Denials())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(recorder.record(decision(number))) for number in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
    hosts = {row.host for row in await db.read(lambda c: ledger.list_egress(c, "sesn_1"))}
    assert {"h1.example", "h3.example", "h4.example"} <= hosts
    with pytest.raises(asyncio.CancelledError):
        tasks[2].result()
