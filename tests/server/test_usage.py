"""What a session cost, on the whole server: three ledgers that agree, and differences that are found.

That they agree is looked at when any house of these tests ends (`housekit`); here it is that one that doesn't is seen.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from housekit import DEADLINE, House, custom, result

from hostler.engine.reconciling import disagreements
from hostler.store import reconcile, runtime, usage_report
from hostler.store.sessions import Usage, add_usage
from hostler.store.usage_report import Filters
from hostler.testing.rehearsal import step, tool


async def compared(house: House, times: int) -> None:
    """Ledgers are compared when a run has ended, after that was told."""
    assert house.hostler is not None
    async with asyncio.timeout(DEADLINE):
        while house.hostler.reconciler.compared < times:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


async def mismatches(house: House) -> list[tuple[str, Any]]:
    found = await house.client.get("/hostler/v1/usage/mismatches", cast_to=dict[str, Any])
    return [(row["kind"], row["details"]) for row in found["data"]]


@pytest.mark.one_database
async def test_an_answer_that_the_two_count_differently_is_found(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """The sum of the written tokens is not that of its parts: `claude` believes the one, the gateway the others."""
    house.may_disagree = frozenset({"harness_tokens"})
    session = await house.session()
    await house.turn(session, [step("Fine.")])
    assert await mismatches(house) == []
    crooked = {"cache_creation_input_tokens": 500, "cache_creation": {"ephemeral_5m_input_tokens": 460}}
    with caplog.at_level(logging.ERROR, "hostler.usage"):
        await house.turn(session, [step("Crooked.", usage=crooked)])
        await house.turn(session, [step("Fine again.")])
        await compared(house, 3)
    assert await mismatches(house) == [("harness_tokens", {"cache_write_input_tokens": 40})]
    (line,) = [record for record in caplog.records if record.message == "usage_mismatch"]
    assert (line.__dict__["session"], line.__dict__["kind"]) == (session, "harness_tokens")


@pytest.mark.one_database
async def test_a_counter_that_somebody_changed_is_found_at_the_end_of_the_next_turn(house: House) -> None:
    session = await house.session()
    await house.turn(session, [step("One.")])
    assert house.hostler is not None
    await compared(house, 1)
    database = house.hostler.database
    await database.write(lambda c: add_usage(c, session, Usage(output_tokens=1)))
    await house.turn(session, [step("Two.")])
    await compared(house, 2)
    assert ("session_total", {"output_tokens": 1}) in await mismatches(house)
    (of,) = await database.read(lambda c: reconcile.ledgers(c, session_id=session))
    assert disagreements(of) == [("session_total", {"output_tokens": 1})]
    # For the look that this house ends with.
    await database.write(lambda c: add_usage(c, session, Usage(output_tokens=-1)))
    house.may_disagree = frozenset({"session_total"})


async def test_the_cost_of_a_turn_is_that_of_its_tools_and_its_time(house: House) -> None:
    session = await house.session([custom("weather"), {"type": "agent_toolset_20260401"}])
    steps = [step(tool("bash", command="seq 1000")), step(tool("weather", q="x")), step("Done.")]
    events = await house.turn(session, steps)
    call = next(event for event in events if event.type == "agent.custom_tool_use")
    before = len(await house.events(session))
    await house.answer(session, result(call, "sunny"))
    await house.until_idle(session, before)
    await compared(house, 2)
    assert house.hostler is not None
    database = house.hostler.database
    groups, _ = await database.read(lambda c: usage_report.report(c, ("tool",), Filters(session_id=session), limit=9))
    found = {group.keys[0]: group for group in groups}
    assert set(found) == {"", "bash", "weather"}
    assert found["bash"].result_bytes > 3000 > found["weather"].result_bytes > 0
    assert all(group.usage.list_cost_nanos > 0 for group in groups)
    ran = await database.read(lambda c: runtime.total(c, session))
    shown = await house.client.beta.sessions.retrieve(session)
    assert shown.usage is not None
    assert shown.usage.active_seconds is not None
    assert ran.spans >= 2
    assert abs(ran.active_us / 1e6 - shown.usage.active_seconds) < 0.01
    assert house.hostler.reconciler.compared >= 1
    assert house.hostler.reconciler.mismatched == 0
