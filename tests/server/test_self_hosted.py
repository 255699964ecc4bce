"""Self-hosted environments: the tools run where the official worker runs, everything else here."""

from __future__ import annotations

from pathlib import Path

import pytest
from housekit import House
from workerkit import official_worker, served_turn

from hostler.testing.rehearsal import step, tool


@pytest.mark.endpoint("environments.work.poll", "environments.work.ack", "environments.work.heartbeat")
async def test_the_official_worker_runs_a_sessions_tools_on_its_own_machine(house: House, tmp_path: Path) -> None:
    session, environment, key = await house.self_hosted()
    elsewhere = tmp_path / "elsewhere"
    async with official_worker(house, environment, key, elsewhere):
        events = await served_turn(
            house,
            session,
            [
                step(tool("write", file_path="hello.txt", content="from afar")),
                step(tool("bash", command="cat hello.txt; pwd")),
                step("It says: {{last_tool_result}}"),
            ],
        )
    print([(e.type, getattr(e, "input", None), getattr(e, "content", None)) for e in events])
    assert (elsewhere / "hello.txt").read_text() == "from afar"
    assert not list(house.workspace(session).iterdir())
    print(sorted(t["name"] for t in house.model.requests[-1].body["tools"]))
    import json

    for r in house.model.requests[:1]:
        for t in r.body["tools"]:
            print(json.dumps({k: (v if k != "input_schema" else sorted(v)) for k, v in t.items()})[:250])
        print(json.dumps(r.body.get("system"))[:3000])
        print({k: v for k, v in r.headers.items() if "beta" in k.lower()})
