"""A server with real sessions and a real queue, and nobody who runs them: the test says what the agent does."""

from __future__ import annotations

import time
from typing import Any

import anthropic
from apikit_server import PLACEMENT, Access, RunningServer

from hostler.domain import events as ev
from hostler.domain.prices import Prices
from hostler.engine import runs, turns
from hostler.engine.composer import composer_of
from hostler.engine.models import Models
from hostler.engine.profile import Profile, TurnLimits, profile
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.records import Records
from hostler.engine.resources import ResourceKinds
from hostler.engine.sandbox_port import SandboxLimits
from hostler.engine.sessions import Sessions
from hostler.engine.state import Moment, SessionState, Step, Totals
from hostler.engine.turns import RunEnd
from hostler.store.sessions import SessionRow


class _Sessions(Sessions):
    async def close(self) -> None:
        """Nothing runs here."""


class QueueServer(RunningServer):
    """Plays the agent of any session: what a worker with `claude` would report, through the same transitions."""

    def make_sessions(self, models: Models, quotas: WorkspaceQuotas) -> Any:
        self.records = Records(self.database, self.hub)
        return _Sessions(self.database, self.hub, self.records, models, ResourceKinds({}), quotas, Prices(), PLACEMENT)

    def _apply(self, session: str, decide: Any) -> Step:
        def step(state: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
            made: Step = decide(state, at, totals, row)
            return made

        return self.call(self.records.apply(session, step)).step

    def until_polled(self, environment: str) -> None:
        """Until a poll waits there."""
        deadline = time.monotonic() + 60
        while not self.hub.polled(environment):
            assert time.monotonic() < deadline, "nobody polls"

    def begins(self, session: str) -> None:
        """A worker takes up the turn."""
        self._apply(session, lambda s, at, t, _: turns.take_up(s, at, t)[0])

    def calls(self, session: str, name: str, custom: bool = False, **given: Any) -> str:
        """The model calls a tool. Gives the id of the event."""
        self._count = getattr(self, "_count", 0) + 1
        made = runs.ToolCall(f"toolu_{self._count}", name, given, custom or name in ("bash", "write", "read"))

        def announce(state: SessionState, at: Moment, totals: Totals, row: SessionRow) -> Step:
            return composer_of(_profile(row)).announce(made, held=False)(state, at, totals)

        return self._apply(session, announce).events[0].id

    def finishes_call(self, session: str, text: str) -> None:
        """The only open call has run here."""
        content = [ev.text_block(text)]
        self._apply(session, lambda s, at, t, _: turns.call_finished(s, at, s.calls[0].tool_use_id, content, False))

    def waits(self, session: str) -> None:
        """The run ends because its calls wait for others."""
        self._apply(session, lambda s, at, t, _: turns.run_ended(s, at, t, RunEnd("deferred")))

    def ends(self, session: str) -> None:
        """The answers were handed over, and the turn is over."""

        def decide(state: SessionState, at: Moment, totals: Totals, _: SessionRow) -> Step:
            events: list[ev.Event] = []
            for call in state.calls:
                step = turns.call_finished(state, at, call.tool_use_id, (), False)
                state, events = step.state, [*events, *step.events]
            step = turns.run_ended(state, at, totals, RunEnd("completed"))
            return Step(step.state, (*events, *step.events), step.wanted)

        self._apply(session, decide)

    def records_only(self, session: str, *events: ev.Event) -> None:
        """Put events into the log that say nothing about the session's state: what another version may have left."""
        self._apply(session, lambda s, at, t, _: Step(s, events))


def _profile(row: SessionRow) -> Profile:
    return profile(
        row.agent,
        row.environment,
        idle_timeout_seconds=0,
        sandbox_limits=SandboxLimits(),
        turn_limits=TurnLimits(),
    )


class Yard:
    """One workspace with a self-hosted environment and a key for it."""

    def __init__(self, server: QueueServer, access: Access) -> None:
        self.server = server
        self.access = access
        self.client = access.client()
        self.agent = self.client.beta.agents.create(
            name="Coder",
            model="claude-opus-5-5",
            tools=[
                {"type": "agent_toolset_20260401"},
                {
                    "type": "custom",
                    "name": "lookup",
                    "description": "Looks something up.",
                    "input_schema": {"type": "object"},
                },
            ],
        ).id
        self.environment = self.new_environment("mine")
        self.key = self.new_key(self.environment)
        self.worker = self.as_worker(self.key)
        """A client with the environment's key."""

    def new_environment(self, name: str) -> str:
        return self.client.beta.environments.create(name=name, config={"type": "self_hosted"}).id

    def new_key(self, environment: str) -> str:
        made = self.client.post(
            f"/hostler/v1/environments/{environment}/keys", body={"name": "w"}, cast_to=dict[str, Any]
        )
        return str(made["secret"])

    def as_worker(self, secret: str, **options: Any) -> anthropic.Anthropic:
        return Access(self.access.base_url, self.access.workspace, secret).client(**options)

    def session(self, *, said: str | None = "go", environment: str | None = None, **more: Any) -> str:
        """A session, running already when it was told something."""
        content: Any = [{"type": "text", "text": said}]
        events: Any = [{"type": "user.message", "content": content}] if said else []
        made = self.client.beta.sessions.create(
            agent=self.agent, environment_id=environment or self.environment, initial_events=events, **more
        )
        return made.id

    def say(self, session: str, text: str = "go on") -> None:
        self.client.beta.sessions.events.send(
            session, events=[{"type": "user.message", "content": [{"type": "text", "text": text}]}]
        )

    def interrupt(self, session: str) -> None:
        self.client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])

    def poll(self, **more: Any) -> Any:
        return self.worker.beta.environments.work.poll(self.environment, **more)

    def claim(self) -> tuple[Any, anthropic.Anthropic]:
        """The next item, acknowledged, and a client with its session token."""
        item = self.poll()
        assert item is not None, "something is queued"
        self.worker.beta.environments.work.ack(item.id, environment_id=self.environment)
        return item, self.as_worker(token_of(item))

    def beat(self, client: anthropic.Anthropic, item: Any, expected: str = "NO_HEARTBEAT", **more: Any) -> Any:
        return client.beta.environments.work.heartbeat(
            item.id, environment_id=self.environment, expected_last_heartbeat=expected, **more
        )

    def item(self, work_id: str) -> Any:
        return self.client.beta.environments.work.retrieve(work_id, environment_id=self.environment)

    def stats(self) -> Any:
        return self.client.beta.environments.work.stats(self.environment)

    def types(self, session: str) -> list[str]:
        return [event.type for event in self.client.beta.sessions.events.list(session, limit=1000)]


def token_of(item: Any) -> str:
    """The session token in a polled item's secret, taken out as the official worker does it."""
    from anthropic.lib.environments._worker import _sessions_token_from_secret

    token = _sessions_token_from_secret(item.secret)
    assert token is not None
    return token


def result(call: str, text: str = "done", **more: Any) -> dict[str, Any]:
    return {"type": "user.tool_result", "tool_use_id": call, "content": [{"type": "text", "text": text}], **more}
