"""T48: the official worker leaves a session that has nothing to do, whatever the session's history looks like."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import anthropic
import pytest
from apikit_queue import QueueServer, Yard
from apikit_server import Access

from hostler.domain import events as ev
from hostler.domain.ids import new_id
from hostler.engine.work_items import Terms
from hostler.testing.postgres import PostgresCluster

MAX_IDLE = 1.0
RELEASE = 2.0
GRACE = 6.0
"""For heartbeats, which come every second with the shortest lease, and a slow machine."""

AT = "2026-01-01T00:00:00.000000Z"


def _quiet(yard: Yard) -> str:
    """A turn that is over."""
    session = yard.session()
    yard.server.begins(session)
    yard.server.ends(session)
    return session


def _after_web_search(yard: Yard) -> str:
    """The worker's own clock waits for an answer to the web call that it will never see."""
    session = yard.session()
    yard.server.begins(session)
    yard.server.calls(session, "web_search", query="weather")
    yard.server.finishes_call(session, "sunny")
    yard.server.ends(session)
    return session


def _custom_without_answer(yard: Yard) -> str:
    """A custom call that nobody ever answered, as another server may have left it."""
    session = yard.session()
    yard.server.begins(session)
    yard.server.records_only(session, ev.agent_custom_tool_use(AT, new_id("sevt"), "lookup", {}))
    yard.server.ends(session)
    return session


def _custom_interrupted(yard: Yard) -> str:
    session = yard.session()
    yard.server.begins(session)
    yard.server.calls(session, "lookup", custom=True)
    yard.server.waits(session)
    yard.interrupt(session)
    assert yard.types(session)[-4:-3] == ["user.custom_tool_result"]
    return session


def _bash_interrupted(yard: Yard) -> str:
    session = yard.session()
    yard.server.begins(session)
    yard.server.calls(session, "bash", command="touch ran-after-all")
    yard.server.waits(session)
    yard.interrupt(session)
    assert yard.types(session)[-4:-3] == ["user.tool_result"], "anything else would be run again"
    return session


def _bash_closed_by_the_server(yard: Yard) -> str:
    """An interrupted call that was closed in the way of the cloud: the worker runs it again and is refused."""
    session = yard.session()
    yard.server.begins(session)
    call = new_id("sevt")
    yard.server.records_only(
        session,
        ev.agent_tool_use(AT, call, "bash", {"command": "true"}, "allow", {"type": "always_allow"}),
        ev.agent_tool_result(AT, call, [ev.text_block(ev.INTERRUPTED)], True),
    )
    yard.server.ends(session)
    return session


def _updated_after_idle(yard: Yard) -> str:
    session = _quiet(yard)
    yard.client.beta.sessions.update(session, title="a new title")
    assert yard.types(session)[-1] == "session.updated"
    return session


def _thread_ended_after_idle(yard: Yard) -> str:
    session = _quiet(yard)
    yard.server.records_only(session, ev.thread_status(AT, "terminated", "sthr_child", "Helper"))
    return session


HISTORIES: dict[str, Callable[[Yard], str]] = {
    "idle": _quiet,
    "web search": _after_web_search,
    "custom call without an answer": _custom_without_answer,
    "custom call interrupted": _custom_interrupted,
    "bash interrupted": _bash_interrupted,
    "bash closed by agent.tool_result": _bash_closed_by_the_server,
    "updated after idle": _updated_after_idle,
    "thread ended after idle": _thread_ended_after_idle,
}


@pytest.fixture(params=["sqlite", "postgresql"])
def hasty_yard(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'hostler.db'}"
    else:
        cluster: PostgresCluster = request.getfixturevalue("cluster")
        url = cluster.create_database("idle", template="migrated")
    server = QueueServer(url)
    server.terms = Terms(lease_seconds=2, release_idle_seconds=RELEASE)
    with server:
        yield Yard(server, Access(server.base_url, *server.new_workspace()))


@pytest.mark.endpoint("environments.work.heartbeat")
async def test_every_history_lets_the_worker_go(
    hasty_yard: Yard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight rows of the matrix; a session that never ran is the last: it has no work at all."""
    yard = hasty_yard
    caplog.set_level(logging.CRITICAL, logger="anthropic")
    never_ran = yard.session(said=None)
    assert yard.poll() is None
    sessions = {name: make(yard) for name, make in HISTORIES.items()}
    left: dict[str, float] = {}

    async def serve(client: anthropic.AsyncAnthropic, name: str) -> None:
        """One item of the queue, served by the official worker, until it leaves by itself."""
        workdir = tmp_path / name
        workdir.mkdir()
        worker = client.beta.environments.work.worker(workdir=str(workdir), max_idle=MAX_IDLE)
        poll = client.copy(api_key=yard.key).beta.environments.work
        item = await poll.poll(yard.environment)
        assert item is not None
        await poll.ack(item.id, environment_id=yard.environment)
        begun = asyncio.get_running_loop().time()
        await worker.handle_item(
            work_id=item.id,
            environment_id=yard.environment,
            session_id=item.data.id,
            work_secret=item.secret,
        )
        left[item.data.id] = asyncio.get_running_loop().time() - begun

    async with anthropic.AsyncAnthropic(base_url=yard.access.base_url, api_key=yard.access.key) as client:
        async with asyncio.timeout(60), asyncio.TaskGroup() as workers:
            for name in sessions:
                workers.create_task(serve(client, name))
    assert set(left) == set(sessions.values()), "one item each"
    assert never_ran not in left
    late = {name: left[session] for name, session in sessions.items() if left[session] > MAX_IDLE + RELEASE + GRACE}
    assert not late
    states = [item.state for item in yard.worker.beta.environments.work.list(yard.environment)]
    assert states == ["stopped"] * len(sessions)
    assert not list(tmp_path.rglob("ran-after-all"))
