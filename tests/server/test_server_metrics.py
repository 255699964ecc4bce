"""What Prometheus reads of a server that has served a session."""

from __future__ import annotations

import asyncio
import secrets
import socket
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from housekit import open_house
from prometheus_client.parser import text_string_to_metric_families

from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.one_database


def free_port() -> int:
    """One that no connection is given by itself: those of other tests come and go meanwhile."""
    for port in (20_000 + secrets.randbelow(10_000) for _ in range(50)):
        with socket.socket() as taken, suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def read(port: int) -> dict[str, float]:
    """Sums over all labels but the ones that are named: `name{label="value"}` is not told apart."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for name in (sample.name, *(f"{sample.name}:{value}" for value in sample.labels.values())):
                found[name] = found.get(name, 0.0) + sample.value
    return found


async def test_a_session_shows_in_what_prometheus_reads(tmp_path: Path, store_url: str) -> None:
    port = free_port()
    async with open_house(tmp_path, store_url, metrics__port=port) as house:
        session = await house.session()
        steps = [step(tool("bash", command="true")), step("Done.")]
        await house.turn(session, steps)
        found = await asyncio.to_thread(read, port)
    assert found["hostler_session_events_total:message"] == 1
    assert found["hostler_session_events_total:tool_call"] == 1
    assert found["hostler_turns_stopped_total:end_turn"] == 1
    assert found["hostler_model_attempts_total:answered"] == 2
    assert found["hostler_model_tokens_total:output"] > 0
    assert found["hostler_cost_usd_total"] > 0
    assert found["hostler_sessions_live"] == 1
    assert found["hostler_http_requests_total:sessions.create"] == 1
    assert found["hostler_http_requests_total:5xx"] == 0
    assert found["hostler_database_up"] == 1
    assert found["hostler_disk_free_bytes"] > 0
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(read, port)
