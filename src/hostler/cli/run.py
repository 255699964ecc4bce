"""`hostler run`: one session from the terminal, from the prompt to the end of the turn.

The agent and the environment are made once and found again by name. The session is pinned to the agent's version and
has the environment's rules from its creation, so two runs at the same time can't change each other's.

A session that waits for a person takes no new message before it has its answers, so `--session` asks for those first.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anthropic

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.problem import FAILED, WRONG, Problem, spelled
from hostler.cli.show import CALLS, Show
from hostler.cli.terminal import plain, plain_line

AGENT_NAME = "Terminal"
TOOLSET = "agent_toolset_20260401"
TOOLS = ("bash", "read", "write", "edit", "glob", "grep", "web_fetch", "web_search")
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Request:
    """What the user typed."""

    prompt: str
    """Blank only with `session_id`: answer what waits there, and say nothing else."""
    model: str = "claude-opus-5-5"
    system: str | None = None
    tools: tuple[str, ...] = ()
    """`bash`, or `bash:ask` for a tool that a person must approve. Empty: all, without asking."""
    hosts: tuple[str, ...] = ()
    agent_id: str | None = None
    session_id: str | None = None
    keep: bool = False
    as_json: bool = False


@dataclass
class _Turn:
    """What one turn has been asked so far."""

    calls: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)


def run(request: Request, address: Address) -> int:
    """The exit code: 0 when the turn ended by itself, 1 when it did not, 130 when the user interrupted it."""
    toolset = _toolset(request.tools)
    if not request.prompt.strip() and request.session_id is None:
        raise Problem("the prompt is empty", next_command='hostler run "Say hello"', code=WRONG)
    with connected(address) as client:
        beta: Any = client.beta
        show = None if request.as_json else Show(terminal.out())
        session_id = request.session_id or _new_session(beta, request, toolset)
        keep = request.keep or request.session_id is not None
        code, waits_for = FAILED, ""
        try:
            code, waits_for = _turns(beta, session_id, request, show)
            keep = keep or waits_for != ""  # an archived session would not go on
        except KeyboardInterrupt:
            code = INTERRUPTED
            beta.sessions.events.send(session_id, events=[{"type": "user.interrupt"}])
            keep = True  # it may take a moment until the interrupted turn has ended
        finally:
            if show is not None:
                show.close()
        if not keep:
            beta.sessions.archive(session_id)
        if show is not None:
            show.summary()
            _afterwards(session_id, keep, waits_for)
    return code


def _afterwards(session_id: str, keep: bool, waits_for: str) -> None:
    if waits_for == "budget_reached":
        said = f"It goes on by itself. Follow it with: {spelled(f'hostler sessions tail {session_id} --follow')}"
    elif waits_for:
        said = f"Answer it at a terminal with: {spelled(f'hostler run --session {session_id}')}"
    elif keep:
        said = f'Go on with: {spelled(f"hostler run --session {session_id}")} "…"'
    else:
        said = f"Look at it again with: {spelled(f'hostler sessions tail {session_id}')}"
    terminal.err().print(said, style="dim", soft_wrap=True)


# ------------------------------------------------------------------------------------------------------ what it runs in


def _toolset(tools: Iterable[str]) -> dict[str, Any]:
    chosen: dict[str, str] = {}
    for tool in tools:
        name, _, policy = tool.partition(":")
        if name not in TOOLS or policy not in ("", "ask"):
            raise Problem(
                f"--tool {tool!r} is none of {', '.join(TOOLS)} (with :ask behind it, a person must approve each call)",
                next_command="hostler run --tool bash --tool write:ask …",
                code=WRONG,
            )
        chosen[name] = "always_ask" if policy else "always_allow"
    if not chosen:
        return {"type": TOOLSET}
    configs = [{"name": name, "enabled": True, "permission_policy": {"type": rule}} for name, rule in chosen.items()]
    return {"type": TOOLSET, "default_config": {"enabled": False}, "configs": configs}


def _new_session(beta: Any, request: Request, toolset: dict[str, Any]) -> str:
    if request.agent_id is not None:
        agent: Any = request.agent_id
    else:
        found = _agent(beta, request, toolset)
        agent = {"type": "agent", "id": found.id, "version": found.version}
    session = beta.sessions.create(
        agent=agent, environment_id=_environment(beta, request.hosts), title=plain_line(request.prompt, 80)
    )
    return str(session.id)


def _agent(beta: Any, request: Request, toolset: dict[str, Any]) -> Any:
    wanted = {"model": request.model, "system": request.system, "tools": [toolset]}
    for agent in beta.agents.list():
        if agent.name == AGENT_NAME:
            return beta.agents.update(agent.id, **wanted)  # the same content makes no new version
    return beta.agents.create(name=AGENT_NAME, **wanted)


def _environment(beta: Any, hosts: tuple[str, ...]) -> str:
    rules = sorted(set(hosts))
    suffix = f"-{hashlib.sha256(' '.join(rules).encode()).hexdigest()[:8]}" if rules else ""
    name = f"terminal{suffix}"

    def known() -> str | None:
        return next((str(found.id) for found in beta.environments.list() if found.name == name), None)

    found = known()
    if found is not None:
        return found
    try:
        config = {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": rules}}
        return str(beta.environments.create(name=name, config=config).id)
    except anthropic.ConflictError:
        found = known()  # another run made it at the same moment
        if found is None:
            raise
        return found


# -------------------------------------------------------------------------------------------------------------- a turn


def _turns(beta: Any, session_id: str, request: Request, show: Show | None) -> tuple[int, str]:
    """The turn that waits for answers, if there is one; then the turn of the prompt, if there is one.

    The exit code, and the stop reason that says for what the session still waits: a person, or a budget; "": nothing.
    """
    waits = _waiting_calls(beta, session_id) if request.session_id is not None else {}
    said = request.prompt.strip() != ""
    if waits:
        if show is None or not sys.stdin.isatty():
            names = ", ".join(plain_line(str(call["name"]), 60) for call in waits.values())
            raise Problem(
                f"{session_id} waits for a person to answer its calls ({names}); nothing was sent",
                next_command=f"hostler run --session {session_id}   (at a terminal, without --json)",
            )
        for call in waits.values():
            show.event(call)
        answers = [_answer(show, call) for call in waits.values()]
        code, waits_for = _turn(beta, session_id, answers, _Turn(dict(waits), set(waits)), show)
        if code != 0 or waits_for or not said:
            return code, waits_for
    elif not said:
        raise Problem(
            f"{session_id} waits for nobody's answer, and there is no prompt",
            next_command=f'hostler run --session {session_id} "Go on"',
            code=WRONG,
        )
    message = {"type": "user.message", "content": [{"type": "text", "text": request.prompt}]}
    return _turn(beta, session_id, [message], _Turn(), show)


def _waiting_calls(beta: Any, session_id: str) -> dict[str, Mapping[str, Any]]:
    """The calls for which an idle session waits, oldest first: the last stop reason names them."""
    events = beta.sessions.events
    if beta.sessions.retrieve(session_id).status != "idle":
        return {}
    newest = next(iter(events.list(session_id, order="desc", limit=1, types=["session.status_idle"])), None)
    if newest is None or newest.stop_reason.type != "requires_action":
        return {}
    wanted = set(newest.stop_reason.event_ids)
    found: dict[str, Mapping[str, Any]] = {}
    for event in events.list(session_id, order="desc", types=sorted(CALLS)):
        if event.id in wanted:
            found[event.id] = event.to_dict(mode="json")
            if len(found) == len(wanted):
                break
    return dict(reversed(found.items()))


def _turn(beta: Any, session_id: str, sent: list[dict[str, Any]], turn: _Turn, show: Show | None) -> tuple[int, str]:
    """Send, and follow until the session is idle. The exit code, and for what it still waits, as `_turns`."""
    reason, usage, failed = None, {}, False
    deltas = [] if show is None else ["agent.message"]
    with beta.sessions.events.stream(session_id, event_deltas=deltas) as stream:
        beta.sessions.events.send(session_id, events=sent)
        for typed in stream:
            event = typed.to_dict(mode="json")
            if show is None:
                print(json.dumps(event), flush=True)
            else:
                show.event(event)
            kind = event["type"]
            if kind in CALLS:
                turn.calls[event["id"]] = event
            elif kind == "session.usage":
                usage = event["usage"]
            elif kind == "session.error":
                failed = failed or event["error"]["retry_status"]["type"] != "retrying"
            elif kind in ("session.status_terminated", "session.deleted"):
                reason = kind.rpartition(".")[2].removeprefix("status_")
            elif kind == "session.status_idle":
                reason = event["stop_reason"]["type"]
                if reason == "requires_action":
                    asked = [i for i in event["stop_reason"]["event_ids"] if i not in turn.answered]
                    if show is not None and sys.stdin.isatty():
                        answers = [_answer(show, turn.calls[i]) for i in asked if i in turn.calls]
                        turn.answered.update(asked)
                        if answers:
                            beta.sessions.events.send(session_id, events=answers)
                        reason = None
                    elif not asked:
                        reason = None
            if reason is not None:
                break
    ended = reason == "end_turn" and not failed
    if show is None:
        result = {"type": "run.result", "session_id": session_id, "stop_reason": reason, "usage": usage, "ok": ended}
        print(json.dumps(result), flush=True)
    if reason is None:
        raise Problem(
            "the stream ended before the turn did; the session goes on without it",
            next_command=f"hostler sessions tail {session_id} --follow",
        )
    if reason == "requires_action":
        terminal.err().print("The agent asks for a person, and this is no terminal. The session waits.")
    return (0 if ended else FAILED), reason if reason in ("requires_action", "budget_reached") else ""


def _answer(show: Show, call: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the person at the terminal. Enter alone means no."""
    show.pause()
    console = terminal.out()
    console.print(plain(f"The agent wants to call {call['name']}:"), style="bold yellow")
    console.print(plain(json.dumps(call.get("input"), indent=2, ensure_ascii=False)))
    if call["type"] == "agent.custom_tool_use":
        content = [{"type": "text", "text": _ask("Its result: ") or "(no result)"}]
        return {"type": "user.custom_tool_result", "custom_tool_use_id": call["id"], "content": content}
    reply = _ask("Allow it? [y/N, or say why not] ").strip()
    if reply.lower() in ("y", "yes"):
        return {"type": "user.tool_confirmation", "tool_use_id": call["id"], "result": "allow"}
    denied = {"type": "user.tool_confirmation", "tool_use_id": call["id"], "result": "deny"}
    return denied if reply.lower() in ("", "n", "no") else {**denied, "deny_message": reply}


def _ask(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        sys.stdout.write(os.linesep)
        return ""
