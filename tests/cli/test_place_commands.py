"""`hostler sessions live` and `waiting`, as processes against a real server."""

from __future__ import annotations

from typing import Any

import anthropic
from cli_processes import Server

from hostler.testing.rehearsal import prompt, step, tool


def test_who_is_live_and_who_waits_is_shown(server: Server) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key=server.api_key) as client:
        tools: Any = [{"type": "agent_toolset_20260401"}]
        agent = client.beta.agents.create(name="A", model="claude-opus-5-5", tools=tools)
        config: Any = {"type": "cloud", "hosting": {"max_live_sessions": 1}}
        environment = client.beta.environments.create(name=f"places {agent.id}", config=config)
        works, waits = (client.beta.sessions.create(agent=agent.id, environment_id=environment.id).id for _ in range(2))

        def say(session: str, text: str) -> None:
            message: Any = {"type": "user.message", "content": [{"type": "text", "text": text}]}
            client.beta.sessions.events.send(session, events=[message])

        with client.beta.sessions.events.stream(works) as stream:
            say(works, prompt([step(tool("bash", command="sleep 600")), step("Done.")]))
            next(event for event in stream if event.type == "agent.tool_use")
            say(waits, prompt([step("Never.")]))
            live = server.hostler("sessions", "live", "--json").json["live"]
            assert [row["idle"] for row in live if row["session_id"] == works] == [False]
            (mine,) = (
                row
                for row in server.hostler("sessions", "waiting", "--json").json["waiting"]
                if row["session_id"] == waits
            )
            assert (mine["reason"], mine["place"], mine["limit"]) == ("environment_limit", 1, 1)
            assert works in server.hostler("sessions", "live").out
            shown = " ".join(server.hostler("sessions", "waiting").out.split())
            assert waits in shown
            assert "max_live_sessions" in shown
            for session in (waits, works):
                client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
            next(event for event in stream if event.type == "session.status_idle")
    assert server.hostler("sessions", "waiting").out.strip() == "No session waits for a place."
