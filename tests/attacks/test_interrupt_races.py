"""Interrupts at every possible moment: the session always ends idle, without an open call, and takes its next turn."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251 - seeded, so that a failure can be repeated

import anthropic
import pytest
from attackkit import call, of_type
from housekit import ASK_FOR_BASH, House, allow, custom, result, types

from hostler.testing.rehearsal import step, text

SEED = 20261121
TOOLS = [*ASK_FOR_BASH, custom("pay")]
STEPS = [
    step(text("Looking."), call("read", {"file_path": "/etc/hostname"}), call("glob", {"pattern": "*"})),
    step(text("Working. " * 20, rate=400), call("bash", {"command": "echo ran >> log"}), call("pay", {"q": "1"})),
    step(call("write", {"file_path": "/workspace/w", "content": "x"})),
    step("Done."),
]


async def hurry(house: House, session: str, dice: random.Random) -> None:
    """Answers what waits, so that interrupts also meet turns that are being resumed."""
    events = await house.events(session)
    idle = [e for e in events if e.type == "session.status_idle"]
    if not idle or events[-1] is not idle[-1] or idle[-1].stop_reason.type != "requires_action":
        return
    calls = {e.id: e for e in events if e.type in ("agent.tool_use", "agent.custom_tool_use")}
    for id_ in idle[-1].stop_reason.event_ids:
        waiting = calls[id_]
        answer = allow(waiting) if waiting.type == "agent.tool_use" else result(waiting, "paid")
        if dice.random() < 0.7:
            try:
                await house.answer(session, answer)
            except anthropic.BadRequestError:
                return


def assert_whole(events: list) -> None:
    """Every call has one end, every request span is closed, every idle follows a running."""
    calls = [e for e in events if e.type in ("agent.tool_use", "agent.custom_tool_use")]
    ends = [e.tool_use_id for e in events if e.type == "agent.tool_result"]
    ends += [e.custom_tool_use_id for e in events if e.type == "user.custom_tool_result"]
    assert sorted(ends) == sorted(c.id for c in calls)
    starts = [e.id for e in events if e.type == "span.model_request_start"]
    assert [e.model_request_start_id for e in events if e.type == "span.model_request_end"] == starts
    assert types(events)[-1] == "session.status_idle"


async def one_round(house: House, session: str, dice: random.Random) -> None:
    async def interrupt(delay: float) -> None:
        await asyncio.sleep(delay)
        await house.answer(session, {"type": "user.interrupt"})

    await house.say(session, STEPS)
    moment = dice.choice((0.0, dice.uniform(0, 0.1), dice.uniform(0.1, 0.6), dice.uniform(0.3, 1.5)))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(interrupt(moment))
        if dice.random() < 0.3:
            tasks.create_task(interrupt(moment + dice.uniform(0, 0.05)))
        if dice.random() < 0.5:
            await asyncio.sleep(dice.uniform(0, moment))
            await hurry(house, session, dice)
    await settled(house, session)
    assert_whole(await house.events(session))
    after = await house.turn(session, [step("Listening.")])
    assert after[-1].stop_reason.type == "end_turn"
    assert of_type(after, "agent.message")[-1].content[0].text == "Listening."


async def settled(house: House, session: str) -> None:
    """Idle, with nothing waiting: what is left after the interrupt found nothing to interrupt is interrupted again."""
    while True:
        last = (await house.until_idle(session))[-1]
        events = await house.events(session)
        waiting = [e for e in events if e.type.startswith("user.") and e.processed_at is None]
        if last.type == "session.status_idle" and not waiting and events[-1].id == last.id:
            if last.stop_reason.type != "requires_action":
                return
            await house.answer(session, {"type": "user.interrupt"})


async def rounds(house: House, seed: int, many: int) -> None:
    dice = random.Random(seed)
    session = await house.session(TOOLS)
    for number in range(many):
        try:
            await one_round(house, session, dice)
        except BaseException as error:
            error.add_note(f"seed {seed}, round {number}")
            for event in (await house.events(session))[-25:]:
                error.add_note(f"{event.type} {getattr(event, 'error', '')} {getattr(event, 'stop_reason', '')}")
            raise


async def test_an_interrupt_at_any_moment_ends_idle(house: House) -> None:
    await rounds(house, SEED, 8)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(SEED, SEED + 6))
async def test_many_interrupts_at_any_moment_end_idle(house: House, seed: int) -> None:
    await rounds(house, seed, 12)
