"""Where room runs short, nothing new is begun, and what is there can be read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from apikit_raw import send
from apikit_server import Access, RunningServer

from hostler.domain.errors import Busy
from hostler.engine.guards import BEHIND_BEATS, Guards, GuardTerms

MB = 1 << 20


@pytest.fixture
def short(server: RunningServer) -> Iterator[RunningServer]:
    server.free["disk"] = 100 * MB
    server.call(server.guards.look())
    yield server
    server.free["disk"] = 1 << 40
    server.call(server.guards.look())


def test_a_full_disk_refuses_what_would_grow_and_nothing_else(short: RunningServer, access: Access) -> None:
    with access.client(max_retries=0) as client:
        agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
        environment = client.beta.environments.create(name="e")
        refused = send(
            access.base_url,
            "POST",
            "/v1/sessions",
            key=access.key,
            body=f'{{"agent": "{agent.id}", "environment_id": "{environment.id}"}}'.encode(),
        )
        assert (refused.status, refused.error["type"]) == (529, "overloaded_error")
        assert "disk runs short: 100 MiB" in refused.error["message"]
        assert refused.headers["retry-after"] == "5"
        assert list(client.beta.sessions.list()) == []
        health = send(access.base_url, "GET", "/hostler/v1/health", key=access.key).json
        assert health["status"] == "degraded"
        assert health["guards"]["admits"] is False
        assert health["guards"]["disk_free_bytes"] == 100 * MB
        assert any("disk runs short" in reason for reason in health["reasons"])
        short.free["disk"] = 1 << 40
        short.call(short.guards.look())
        assert client.beta.sessions.create(agent=agent.id, environment_id=environment.id).status == "idle"


def test_a_loop_that_stays_late_refuses_and_one_pause_does_not() -> None:
    guards = Guards(GuardTerms(delay_seconds=0.5), lambda: None, lambda: None)
    for delay in (2.0, 0.0, 0.6, 0.7, 0.8):
        guards.beat(delay)
    guards.admit()
    guards.beat(0.9)
    with pytest.raises(Busy, match="falls behind"):
        guards.admit()
    guards.beat(0.0)
    guards.admit()
    assert BEHIND_BEATS == 4
    assert guards.figures()["loop_delay_ms"]["max"] == 2000.0


async def test_what_cannot_be_measured_refuses_nothing() -> None:
    def broken() -> int:
        raise OSError("gone")

    guards = Guards(GuardTerms(), broken, lambda: None)
    await guards.look()
    guards.admit()
    assert guards.figures()["disk_free_bytes"] is None


async def test_a_guard_that_cannot_measure_any_more_stays_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    free: list[int] = [0]
    guards = Guards(GuardTerms(), lambda: free[0], lambda: None)
    await guards.look()
    free.clear()

    def gone() -> int:
        raise OSError("gone")

    guards._disk = gone
    for _ in range(2):
        await guards.look()
    with pytest.raises(Busy, match="disk runs short"):
        guards.admit()
    assert [record.msg for record in caplog.records] == ["guard_closed", "guard_blind"]


def test_a_server_says_whether_it_is_ready_without_a_key(server: RunningServer) -> None:
    ready = send(server.base_url, "GET", "/readyz")
    assert (ready.status, ready.json) == (200, {"status": "ready"})
