"""A model's API that fails, as users and operators see it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from housekit import DEADLINE, House, open_house, types

from hostler.testing.own_answers import Health
from hostler.testing.rehearsal import step


@pytest.mark.one_database
async def test_health_is_degraded_and_says_why_while_a_model_is_left_alone(tmp_path: Path, store_url: str) -> None:
    settings = {"attempts__breaker_failures": 3, "attempts__breaker_open_seconds": 300}
    async with open_house(tmp_path, store_url, **settings) as house:

        async def health() -> Health:
            shown = await house.client.get("/hostler/v1/health", cast_to=dict[str, Any])
            return Health.model_validate(shown)

        before = await health()
        assert before.upstreams is not None
        assert [(one.state, one.models) for one in before.upstreams] == [("ok", [])]
        events = await house.turn(await house.session(), [step(error=529, times="always")])
        assert events[-1].stop_reason.type == "retries_exhausted"
        shown = await health()
        assert shown.upstreams is not None
        [trouble] = shown.upstreams[0].models
        assert (shown.status, shown.upstreams[0].state, trouble.state) == ("degraded", "degraded", "open")
        assert (trouble.model, trouble.reason, trouble.failures) == ("claude-opus-5-5", "status 529", 3)
        assert trouble.since is not None
        assert trouble.next_trial_at is not None
        assert trouble.since < trouble.next_trial_at
        [why] = [reason for reason in shown.reasons if reason.startswith("upstream ")]
        assert "claude-opus-5-5" in why
        assert "status 529" in why


@pytest.mark.one_database
async def test_a_turn_that_waits_for_the_model_can_be_interrupted(house: House) -> None:
    session = await house.session()
    await house.say(session, [step("Unheard.", error=429, retry_after=50, times="always")])
    await house.until_event(session, "session.status_rescheduled")
    assert (await house.client.beta.sessions.retrieve(session)).status == "rescheduling"
    await house.client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
    events = await house.until_idle(session)
    assert events[-1].stop_reason.type == "end_turn"
    assert types(events).count("session.status_running") == 1
    assert house.hostler is not None
    rows: Sequence[Any] = ()
    async with asyncio.timeout(DEADLINE):
        while not rows:  # the gateway writes it down when it sees that nobody waits any more
            rows = await house.hostler.database.read(
                lambda conn: conn.execute(sa.text("SELECT status, attempt FROM model_requests")).all()
            )
    assert [(row.status, row.attempt) for row in rows] == [(429, 1)]
    assert len(house.model.message_requests) == 1
