"""What the gate says while the database is away."""

from __future__ import annotations

from typing import Any

from hostler.domain.events import NOT_RECORDED
from hostler.domain.isolation import Hosting
from hostler.engine.call_gate import CallGate
from hostler.engine.content import ContentSource
from hostler.engine.profile import TurnLimits, profile
from hostler.engine.runs import Deny, ToolCall
from hostler.engine.sandbox_port import SandboxLimits
from hostler.engine.state import OpenCall

AGENT: dict[str, Any] = {"model": {"id": "claude-opus-5-5"}, "tools": [{"type": "agent_toolset_20260401"}]}
ENVIRONMENT: dict[str, Any] = {"config": {"type": "cloud", "hosting": Hosting().model_dump()}}


async def test_a_call_that_cannot_be_written_down_does_not_run_and_the_model_is_told_so() -> None:
    async def no_database(decide: object) -> Any:
        raise OSError("connection refused: db.internal:5432")

    gate = CallGate(ContentSource(), no_database, lambda: False)
    known = profile(
        AGENT, ENVIRONMENT, idle_timeout_seconds=1, sandbox_limits=SandboxLimits(), turn_limits=TurnLimits()
    )
    gate.open(known, "wrkspc_1")
    gate.begin()
    await gate.announce([OpenCall(event_id="sevt_1", tool_use_id="toolu_1", kind="builtin", name="bash", gated=False)])
    verdict = await gate.permit(ToolCall("toolu_1", "bash", {"command": "true"}, custom=False))
    assert verdict == Deny(NOT_RECORDED)
    assert gate.touched == 0
