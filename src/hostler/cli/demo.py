"""The demo session of `hostler start`: the official client, the public API, a real sandbox, before your eyes.

Run as a process of its own (`python -m hostler.cli.demo`). It loads its libraries, then reads one line of JSON from
standard input, `{"base_url": …, "api_key": …, "json": false}`. Exit code 0 only when the session ended its turn and
every tool call succeeded.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import anthropic

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.problem import FAILED, Problem
from hostler.cli.show import Show

PROMPT = "Look at the machine you are on, then write a small Python program that says hello, and run it."
SYSTEM = "You work in a sandbox. Be brief: a sentence before each tool call, and a short report at the end."
MODEL = "claude-opus-5-5"


def play(client: anthropic.Anthropic, show: Show, *, as_json: bool) -> bool:
    """One session from its creation to the end of its turn. True when it went well.

    With `as_json`: every event on a line, then `{"type": "demo.result", "session_id", "stop_reason", "usage", "ok"}`.
    """
    beta: Any = client.beta
    agent = beta.agents.create(name="Demo", model=MODEL, system=SYSTEM, tools=[{"type": "agent_toolset_20260401"}])
    environment = demo_environment(beta)
    session = beta.sessions.create(agent=agent.id, environment_id=environment, title="Demo")
    show.prompt(PROMPT)
    with beta.sessions.events.stream(session.id, event_deltas=["agent.message"]) as stream:
        message = {"type": "user.message", "content": [{"type": "text", "text": PROMPT}]}
        beta.sessions.events.send(session.id, events=[message])
        for event in stream:
            fact = event.to_dict(mode="json")
            show.event(fact)
            if as_json and not fact["type"].startswith("event_"):
                print(json.dumps(fact), flush=True)
            if show.tally.stop_reason is not None:
                break
    show.summary()
    tally = show.tally
    ok = tally.stop_reason == "end_turn" and tally.calls > 0 and not tally.failed_calls and not tally.errors
    if as_json:
        result = {"session_id": session.id, "stop_reason": tally.stop_reason, "usage": tally.usage, "ok": ok}
        print(json.dumps({"type": "demo.result", **result}), flush=True)
    return ok


def demo_environment(beta: Any) -> str:
    """An environment without any network, made by the first demo and used by the others."""
    name = "demo"
    for environment in beta.environments.list():
        if environment.name == name:
            return str(environment.id)
    config = {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
    return str(beta.environments.create(name=name, config=config).id)


def main() -> int:
    line = sys.stdin.readline()
    if not line:
        return FAILED  # the server did not start, and has said why
    where = json.loads(line)
    as_json = bool(where.get("json"))
    console = terminal.nowhere() if as_json else terminal.out()
    show = Show(console)
    try:
        with connected(Address(where["base_url"], where["api_key"])) as client:
            return 0 if play(client, show, as_json=as_json) else FAILED
    except Problem as problem:
        show.close()
        terminal.err().print(f"The demo session failed: {problem.message}", style="bold red")
        return FAILED
    finally:
        show.close()


if __name__ == "__main__":
    # Ctrl-C is for the server, which ends this process in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main())
