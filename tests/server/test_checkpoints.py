"""Checkpoints, going back and forks, over HTTP with the official client and the real harness."""

from __future__ import annotations

import json
from typing import Any

from housekit import House

from hostler.testing.rehearsal import step


async def post(house: House, path: str, **body: Any) -> dict[str, Any]:
    return await house.client.post(f"/hostler/v1/sessions/{path}", body=body, cast_to=dict[str, Any])


async def get(house: House, path: str) -> dict[str, Any]:
    return await house.client.get(f"/hostler/v1/sessions/{path}", cast_to=dict[str, Any])


def told(house: House) -> str:
    """What the model was told with the last request."""
    return json.dumps(house.model.message_requests[-1].body["messages"])


async def test_a_session_goes_back_and_a_fork_goes_its_own_way(house: House) -> None:
    session = await house.session()
    await house.turn(session, [step("Said first.")])
    point = await post(house, f"{session}/checkpoints", name="after one")
    await house.turn(session, [step("Said second.")])
    fork = await post(house, f"{session}/fork", checkpoint_id=point["id"])
    await post(house, f"{session}/rewind", checkpoint_id=point["id"])
    await house.turn(session, [step("Said third.")])
    assert "Said first." in told(house)
    assert "Said second." not in told(house)
    await house.turn(fork["id"], [step("Said in the fork.")])
    assert "Said first." in told(house)
    assert "Said second." not in told(house)
    assert "Said third." not in told(house)
