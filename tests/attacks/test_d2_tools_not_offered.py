"""D2: a call of a tool that the agent doesn't have, or with a switch that asks for more, never runs past its gate."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from attackkit import call, of_type, outputs
from housekit import ALLOW_ALL, ASK_FOR_BASH, House, allow, custom, types

from hostler.testing.rehearsal import step

ONLY_BASH_ASKING: list[Any] = [
    {
        "type": "agent_toolset_20260401",
        "default_config": {"enabled": False},
        "configs": [{"name": "bash", "enabled": True, "permission_policy": {"type": "always_ask"}}],
    }
]
NOT_OFFERED = {
    "Agent": {"description": "x", "prompt": "touch ran", "subagent_type": "general-purpose"},
    "Task": {"description": "x", "prompt": "touch ran", "subagent_type": "general-purpose"},
    "Skill": {"skill": "evil"},
    "SendMessage": {"to": "uds:/tmp/cc-socks/2.sock", "message": "touch ran"},
    "CronCreate": {"cron": "* * * * *", "prompt": "touch ran"},
    "BashOutput": {"bash_id": "1"},
    "KillShell": {"shell_id": "1"},
    "Monitor": {"command": "touch ran"},
    "NotebookEdit": {"notebook_path": "/workspace/ran.ipynb", "new_source": "x"},
    "ExitPlanMode": {"plan": "touch ran"},
    "EnterWorktree": {"name": "ran"},
    "write": {"file_path": "/workspace/ran", "content": "x"},
    "Write": {"file_path": "/workspace/ran", "content": "x"},
    "BASH": {"command": "touch ran"},
    " Bash": {"command": "touch ran"},
    "mcp__evil__run": {"command": "touch ran"},
    "mcp__custom__pay": {"q": "all"},
    "mcp__custom__": {"q": "all"},
}


async def test_calls_of_tools_that_the_agent_does_not_have_are_refused_and_recorded_so(house: House) -> None:
    session = await house.session(ONLY_BASH_ASKING)
    steps = [step(call(name, given)) for name, given in NOT_OFFERED.items()]
    events = await house.turn(session, [*steps, step("Done.")])
    assert events[-1].stop_reason.type == "end_turn"
    uses = of_type(events, "agent.tool_use")
    assert len(uses) == len(NOT_OFFERED), [use.name for use in uses]
    assert [use.name for use in uses if use.evaluated_permission != "deny" or use.evaluation is not None] == []
    assert [result.is_error for result in of_type(events, "agent.tool_result")] == [True] * len(uses)
    assert "agent.custom_tool_use" not in types(events), "a client must never be asked for a tool that it didn't give"
    assert list(house.workspace(session).iterdir()) == []
    bash = await house.turn(session, [step(call("bash", {"command": "touch ran"})), step("Ok.")])
    assert bash[-1].stop_reason.type == "requires_action"


SWITCHES = [
    {"dangerouslyDisableSandbox": True},
    {"run_in_background": True},
    {"permission_mode": "bypassPermissions", "sandbox": False},
]


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: next(iter(switch)))
async def test_switches_of_bash_neither_open_its_gate_nor_its_sandbox(house: House, switch: dict[str, Any]) -> None:
    session = await house.session(ASK_FOR_BASH)
    events = await house.turn(session, [step(call("bash", {"command": "touch ran", **switch})), step("Ok.")])
    use = of_type(events, "agent.tool_use")[0]
    assert use.evaluated_permission == "ask"
    if events[-1].stop_reason.type == "requires_action":
        before = len(await house.events(session))
        await house.answer(session, {**allow(use), "result": "deny"})
        await house.until_idle(session, before)
    assert not (house.workspace(session) / "ran").exists()
    free = await house.session(ALLOW_ALL)
    events = await house.turn(free, [step(call("bash", {"command": "id -u; ls -d /root", **switch})), step("Ok.")])
    assert outputs(events), "it ran inside, or it was refused"
    assert of_type(events, "agent.tool_result")[0].is_error
    assert not any(text.startswith("0") for text in outputs(events))


async def test_one_id_for_a_free_and_a_gated_call_opens_no_gate(house: House) -> None:
    session = await house.session(ASK_FOR_BASH)
    read = call("read", {"file_path": "/etc/hostname"}, "toolu_twin")
    bash = call("bash", {"command": "touch ran"}, "toolu_twin")
    events = await house.turn(session, [step(read, bash), step(bash), step("Ok.")])
    while events[-1].stop_reason.type == "requires_action":
        before = len(await house.events(session))
        waiting = [e for e in events if e.id in events[-1].stop_reason.event_ids]
        await house.answer(session, *({**allow(e), "result": "deny"} for e in waiting))
        events = await house.until_idle(session, before)
    assert not (house.workspace(session) / "ran").exists()
    again = await house.turn(session, [step(read), step(read), step("Fine.")])
    assert again[-1].stop_reason.type == "end_turn"


async def test_one_approval_runs_one_call_even_if_the_model_gives_all_its_calls_one_id(house: House) -> None:
    session = await house.session(ASK_FOR_BASH)
    calls = [call("bash", {"command": f"echo {n} >> log"}, "toolu_twin") for n in "abc"]
    events = await house.turn(session, [step(*calls), step(calls[1]), step("Ok.")])
    use = of_type(events, "agent.tool_use")
    assert [e.input["command"] for e in use] == ["echo a >> log"]
    before = len(await house.events(session))
    await house.answer(session, allow(use[0]))
    rest = await house.until_idle(session, before)
    assert rest[-1].stop_reason.type == "requires_action", "the next call under this id asks again"
    assert (house.workspace(session) / "log").read_text() == "a\n"


async def test_a_custom_call_that_its_schema_forbids_ends_in_the_log_and_takes_no_answer(house: House) -> None:
    pay = custom("pay")
    pay["input_schema"] = {"type": "object", "properties": {"q": {"type": "integer"}}, "required": ["q"]}
    session = await house.session([pay])
    events = await house.turn(session, [step(call("pay", {"q": {"no": "number"}})), step("Ok.")])
    use = of_type(events, "agent.custom_tool_use")[0]
    if events[-1].stop_reason.type == "end_turn":
        ends = of_type(events, "user.custom_tool_result")
        assert [(end.custom_tool_use_id, end.is_error) for end in ends] == [(use.id, True)]
        with pytest.raises(anthropic.BadRequestError):
            await house.answer(
                session, {"type": "user.custom_tool_result", "custom_tool_use_id": use.id, "content": []}
            )
