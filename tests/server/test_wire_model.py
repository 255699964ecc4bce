"""Do agents and sessions agree with a model of them, whatever a client does in whatever order?

The model is a few dictionaries. Hypothesis creates, updates, archives, lists and deletes agents and sessions, and sends
to them, through the official client with strict validation; after each step the server must say what the model says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anthropic
from housekit import House, open_house
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

T = TypeVar("T")
PICK = st.integers(min_value=0, max_value=1000)
TITLES = st.sampled_from([None, "A", "B"])
PATCHES = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([None, "1", "2"]), max_size=2)


@dataclass
class AgentModel:
    id: str
    names: list[str]
    """By version, from 1."""
    archived: bool = False


@dataclass
class SessionModel:
    id: str
    agent: str
    version: int
    title: str | None
    metadata: dict[str, str] = field(default_factory=dict)
    archived: bool = False
    messages: int = 0


def machine_of(house: House, environment: str, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> type:
    """The machine is made around one server; its objects pile up there, and each run knows its own by their names."""
    beta = house.client.beta

    class Wire(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.agents: list[AgentModel] = []
            self.sessions: list[SessionModel] = []

        @initialize(title=TITLES)
        def begin(self, title: str | None) -> None:
            """Most of what can be done needs a session."""
            self.create_agent("x")
            self.create_session(0, title, first=False)

        def refused(self, call: Coroutine[Any, Any, Any], kind: type[Exception] = anthropic.BadRequestError) -> None:
            try:
                run(call)
            except kind:
                return
            raise AssertionError(f"expected {kind.__name__}")

        # -- agents

        @precondition(lambda self: len(self.agents) < 3)
        @rule(name=st.sampled_from(["x", "y"]))
        def create_agent(self, name: str) -> None:
            made = run(beta.agents.create(name=name, model="claude-opus-5-5"))
            assert made.version == 1
            self.agents.append(AgentModel(made.id, [name]))

        @precondition(lambda self: self.agents)
        @rule(pick=PICK, name=st.sampled_from(["x", "y"]), stale=st.booleans())
        def update_agent(self, pick: int, name: str, stale: bool) -> None:
            agent = self.agents[pick % len(self.agents)]
            version = len(agent.names) - stale
            call = beta.agents.update(agent.id, version=version, name=name)
            if agent.archived or version < 1:
                self.refused(call)
            elif stale:
                self.refused(call, anthropic.ConflictError)
            else:
                if agent.names[-1] != name:
                    agent.names.append(name)
                assert run(call).version == len(agent.names)

        @precondition(lambda self: any(not agent.archived for agent in self.agents[1:]))
        @rule(pick=PICK)
        def archive_agent(self, pick: int) -> None:
            """Never the first, so that there is always one that takes new sessions."""
            agent = self.agents[1 + pick % (len(self.agents) - 1)]
            assert run(beta.agents.archive(agent.id)).archived_at is not None
            agent.archived = True

        # -- sessions

        @precondition(lambda self: self.agents)
        @rule(pick=PICK, title=TITLES, first=st.booleans())
        def create_session(self, pick: int, title: str | None, first: bool) -> None:
            agent = self.agents[pick % len(self.agents)]
            version = 1 if first else len(agent.names)
            choice: Any = {"type": "agent", "id": agent.id, "version": 1} if first else agent.id
            call = beta.sessions.create(agent=choice, environment_id=environment, title=title)
            if agent.archived:
                self.refused(call)
                return
            made = run(call)
            assert (made.status, made.agent.name) == ("idle", agent.names[version - 1])
            self.sessions.append(SessionModel(made.id, agent.id, version, title))

        @precondition(lambda self: self.sessions)
        @rule(pick=PICK, title=TITLES, patch=PATCHES)
        def update_session(self, pick: int, title: str | None, patch: dict[str, str | None]) -> None:
            session = self.sessions[pick % len(self.sessions)]
            merged = {k: v for k, v in {**session.metadata, **patch}.items() if v is not None}
            changes = (title, merged) != (session.title, session.metadata)
            call = beta.sessions.update(session.id, title=title, metadata=patch)
            if session.archived and changes:
                self.refused(call)
                return
            run(call)
            session.title, session.metadata = title, merged

        @precondition(lambda self: self.sessions)
        @rule(pick=PICK, many=st.integers(min_value=1, max_value=2))
        def send(self, pick: int, many: int) -> None:
            session = self.sessions[pick % len(self.sessions)]
            message: Any = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
            call = beta.sessions.events.send(session.id, events=[message] * many)
            if session.archived:
                self.refused(call)
                return
            seen = len(run(house.events(session.id)))
            assert [event.type for event in run(call).data] == ["user.message"] * many
            session.messages += many
            run(house.until_idle(session.id, seen))

        @precondition(lambda self: self.sessions)
        @rule(pick=PICK)
        def bad_send_changes_nothing(self, pick: int) -> None:
            session = self.sessions[pick % len(self.sessions)]
            message: Any = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
            bad: Any = {"type": "user.custom_tool_result", "custom_tool_use_id": "sevt_none"}
            self.refused(beta.sessions.events.send(session.id, events=[message, bad]))

        @precondition(lambda self: self.sessions)
        @rule(pick=PICK)
        def archive_session(self, pick: int) -> None:
            session = self.sessions[pick % len(self.sessions)]
            assert run(beta.sessions.archive(session.id)).status == "terminated"
            session.archived = True

        @precondition(lambda self: self.sessions)
        @rule(pick=PICK)
        def delete_session(self, pick: int) -> None:
            session = self.sessions.pop(pick % len(self.sessions))
            assert run(beta.sessions.delete(session.id)).id == session.id
            self.refused(beta.sessions.retrieve(session.id), anthropic.NotFoundError)

        # -- what must hold

        @invariant()
        def sessions_are_as_the_model_says(self) -> None:
            for session in self.sessions:
                shown = run(beta.sessions.retrieve(session.id))
                assert shown.status == ("terminated" if session.archived else "idle")
                assert (shown.title, shown.metadata) == (session.title, session.metadata)
                assert (shown.agent.id, shown.agent.version) == (session.agent, session.version)
                log = run(house.events(session.id))
                assert len({event.id for event in log}) == len(log)
                assert sum(event.type == "user.message" for event in log) == session.messages

        @invariant()
        def lists_are_as_the_model_says(self) -> None:
            for agent in self.agents:
                mine = [s for s in self.sessions if s.agent == agent.id]
                for archived in (False, True):
                    wanted = [s.id for s in reversed(mine) if archived or not s.archived]
                    assert (
                        run(_ids(beta.sessions.list(agent_id=agent.id, include_archived=archived, limit=2))) == wanted
                    )
                versions = run(_all(beta.agents.versions.list(agent.id)))
                assert [v.name for v in versions] == agent.names[::-1]
                assert (run(beta.agents.retrieve(agent.id)).archived_at is not None) == agent.archived

    return Wire


async def _all(paginator: Any) -> list[Any]:
    return [item async for item in paginator]


async def _ids(paginator: Any) -> list[str]:
    return [item.id async for item in paginator]


async def test_agents_and_sessions_agree_with_the_model(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url, turns__idle_timeout_seconds=5) as house:
        environment = await house.environment()
        loop = asyncio.get_running_loop()

        def run(call: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(call, loop).result(60)

        wire = machine_of(house, environment, run)
        few = settings(
            max_examples=25,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=(Phase.generate,),  # a smaller example is not worth minutes of a whole server
        )
        await asyncio.to_thread(run_state_machine_as_test, wire, settings=few)
        await house.until_no_process()
