"""What does a session of an environment with packages say on a host that has no base image?"""

from __future__ import annotations

import pytest
from housekit import House, types

from hostler.engine.state import SessionState
from hostler.store.sessions import get_session
from hostler.testing.rehearsal import step

pytestmark = pytest.mark.one_database


async def test_the_error_says_which_command_helps_and_other_sessions_run(house: House) -> None:
    other = await house.session()
    agent = await house.client.beta.agents.create(name="Coder", model="claude-opus-5-5")
    made = await house.client.beta.environments.create(
        name="with packages", config={"type": "cloud", "packages": {"type": "packages", "pip": ["six"]}}
    )
    session = (await house.client.beta.sessions.create(agent=agent.id, environment_id=made.id)).id
    events = await house.turn(session, [step("never")])
    [error] = [event.error for event in events if event.type == "session.error"]
    assert error.message.startswith(("This host has no base image", "An environment's packages need a worker"))
    assert "hostler image build" in error.message or "as root" in error.message
    assert "agent.message" not in types(events)
    # The model was never shown what was said: the next turn takes it along.
    await house.turn(session, [step("again")])
    assert house.hostler is not None
    row = await house.hostler.database.read(lambda c: get_session(c, None, session))
    assert len(SessionState.model_validate_json(row.state).unsent) == 2
    assert "agent.message" in types(await house.turn(other, [step("here")]))
