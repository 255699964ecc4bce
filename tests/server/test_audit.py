"""The audit log of a whole server: what a real agent does, what people answer, and what becomes of a budget."""

from __future__ import annotations

from typing import Any

import pytest
from bundlekit import send
from housekit import ASK_FOR_BASH, House, allow, deny
from test_budgets import begin, costs, limit

from hostler.engine.audit_trail import input_sha256
from hostler.engine.audit_verifier import Report, verified
from hostler.sealing.signing import signature_holds
from hostler.store.audit_subjects import keyed_digest
from hostler.testing.rehearsal import step, tool


async def entries(house: House, session: str, *kinds: str) -> list[dict[str, Any]]:
    """Of a session, oldest first."""
    options: Any = {"params": {"session_id": session, "limit": 100, "kind": list(kinds)}}
    found = await house.client.get("/hostler/v1/audit", cast_to=dict[str, Any], options=options)
    rows: list[dict[str, Any]] = found["data"][::-1]
    return rows


async def exported(house: House) -> Report:
    got = await send(house, "GET", "audit/export", {})
    return verified(got.content.splitlines(), signature_holds)


@pytest.mark.one_database
async def test_everything_that_happens_is_in_the_audit_and_the_audit_is_whole(house: House) -> None:
    session = await begin(house, limit(30), ASK_FOR_BASH)
    command = "curl -s -m 30 https://denied.example/; echo once >> log"
    events = await house.turn(session, [step(tool("bash", command=command))])
    (call,) = [event for event in events if event.type == "agent.tool_use"]
    before = len(await house.events(session))
    await house.answer(session, allow(call))
    await house.until_idle(session, before)
    steps = [step(tool("bash", command="true"), usage=costs(40)), step("Then not.")]
    calls = [e for e in await house.turn(session, steps) if e.type == "agent.tool_use"]
    before = len(await house.events(session))
    await house.answer(session, deny(calls[-1], "Not this one."))
    await house.until_idle(session, before)
    before = len(await house.events(session))
    await house.client.beta.sessions.update(session, budget=limit(5000))
    await house.until_idle(session, before)

    found = await entries(house, session)
    acts = [row["act"] for row in found]
    assert acts[0] == "session.create"
    assert acts.count("tool.call") == acts.count("approval.allow") + acts.count("approval.deny") == 2
    assert [row["seq"] is None or row["seq"] > 0 for row in found] == [True] * len(found)
    first, second = [row for row in found if row["kind"] == "tool"]
    assert (first["target_id"], first["actor"]) == (call.id, {"type": "session", "id": session})
    assert first["details"]["outcome"] == "succeeded"
    assert first["details"]["tool"].lower() == "bash"
    assert first["details"]["duration_ms"] >= first["details"]["waited_ms"] > 0
    assert second["details"]["outcome"] == "denied"
    # The input itself is nowhere in the audit; whoever has it and the key of the session can compare.
    assert command not in str(found)
    assert house.hostler is not None
    key = await _key(house, session)
    assert first["details"]["input_digest"] == keyed_digest(key, input_sha256({"command": command}))
    allowed, denied = [row for row in found if row["kind"] == "approval"]
    assert allowed["actor"]["type"] == denied["actor"]["type"] == "api_key"
    assert denied["details"]["message_digest"] == keyed_digest(key, "Not this one.")
    egress = await entries(house, session, "egress")
    assert sum(row["details"]["denied"] for row in egress) >= 1
    budget = await entries(house, session, "budget")
    assert [(row["act"], row["actor"]["type"]) for row in budget] == [
        ("budget.reached", "session"),
        ("budget.changed", "api_key"),
    ]
    assert budget[1]["details"] == {"before_cents": 30, "after_cents": 5000}

    report = await exported(house)
    assert report.intact, report.findings
    assert report.rows >= 1
    await house.client.beta.sessions.archive(session)
    await house.client.beta.sessions.delete(session)
    assert await _key(house, session) is None
    assert [row["act"] for row in await entries(house, session)][-2:] == ["session.archive", "session.delete"]
    again = await exported(house)
    assert again.intact, again.findings
    assert again.entries > report.entries


async def _key(house: House, session: str) -> Any:
    from hostler.domain.principals import DEFAULT_WORKSPACE
    from hostler.store import audit_subjects

    assert house.hostler is not None

    def unit(conn: Any) -> Any:
        id_ = audit_subjects.id_of(conn, DEFAULT_WORKSPACE, session)
        assert id_ is not None
        return audit_subjects.find(conn, DEFAULT_WORKSPACE, [id_])[id_][1]

    return await house.hostler.database.read(unit)
