"""`hostler key`, `workspace`, `approvals` and `audit`, as processes against a real server."""

from __future__ import annotations

import getpass
import urllib.error
import urllib.request
from pathlib import Path

import anthropic
from cli_processes import Server, hostler

from hostler.testing.rehearsal import prompt, step, tool


def status(server: Server, verb: str, path: str, key: str) -> int:
    request = urllib.request.Request(f"{server.url}{path}", headers={"x-api-key": key}, method=verb)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_key_of_another_workspace_with_one_scope(server: Server) -> None:
    team = server.hostler("workspace", "create", "Team", "--json").json
    assert team["name"] == "Team"
    assert team["id"] in [row["id"] for row in server.hostler("workspace", "list", "--json").json["workspaces"]]
    assert "Team" in server.hostler("workspace", "list").out
    arguments = ("--scope", "read", "--expires-in", "12h", "--workspace", team["id"], "--json")
    key = server.hostler("key", "create", "reader", *arguments).json
    assert (key["scopes"], key["workspace_id"]) == (["read"], team["id"])
    assert key["expires_at"][:10] >= key["created_at"][:10]
    assert status(server, "GET", "/v1/agents", key["secret"]) == 200
    assert status(server, "POST", "/v1/agents", key["secret"]) == 403
    shown = server.hostler("key", "list").out
    assert "reader" in shown
    assert "valid until" in " ".join(shown.split())
    assert server.hostler("key", "revoke", key["id"]).code == 0


def test_wrong_arguments_are_said_with_a_way_out(tmp_path: Path) -> None:
    def make(*arguments: str) -> tuple[int, str]:
        result = hostler("key", "create", *arguments, HOSTLER_STATE_DIR=str(tmp_path))
        return result.code, result.err

    code, said = make("k", "--scope", "root")
    assert (code, "scopes[0]" in said) == (2, True)
    code, said = make("k", "--expires-in", "soon")
    assert (code, "--expires-in 30d" in said) == (2, True)
    code, said = make("k", "--workspace", "wrkspc_none")
    assert (code, "try: hostler workspace list" in said) == (1, True)
    code, said = make(" ")
    assert code == 2


def test_audit_shows_what_commands_of_this_host_did(server: Server) -> None:
    key = server.hostler("key", "create", "seen", "--json").json
    server.hostler("key", "revoke", key["id"])
    rows = server.hostler("audit", "--target", key["id"], "--json").json["audit"]
    assert [row["act"] for row in rows] == ["key.revoke", "key.create"]
    assert {(row["actor"]["type"], row["actor"]["id"]) for row in rows} == {("command_line", getpass.getuser())}
    assert "key.create" in server.hostler("audit", "--act", "key.create", "--limit", "1").out


def test_approvals_show_what_waits(server: Server) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key=server.api_key) as client:
        agent = client.beta.agents.create(
            name="A",
            model="claude-opus-5-5",
            tools=[
                {
                    "type": "agent_toolset_20260401",
                    "configs": [{"name": "bash", "permission_policy": {"type": "always_ask"}}],
                }
            ],
        )
        environment = client.beta.environments.create(name=f"approvals {agent.id}")
        session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id, title="Waits")
        with client.beta.sessions.events.stream(session.id) as stream:
            text = prompt([step(tool("bash", command="echo hello")), step("Done.")])
            client.beta.sessions.events.send(
                session.id, events=[{"type": "user.message", "content": [{"type": "text", "text": text}]}]
            )
            for event in stream:
                if event.type == "session.status_idle":
                    break
        rows = server.hostler("approvals", "--json").json["approvals"]
        mine = next(row for row in rows if row["session_id"] == session.id)
        assert (mine["tool_name"], mine["input"], mine["kind"]) == ("bash", {"command": "echo hello"}, "confirmation")
        shown = " ".join(server.hostler("approvals").out.split())
        assert session.id in shown
        assert "hostler run --session" in shown
        client.beta.sessions.archive(session.id)
    assert session.id not in server.hostler("approvals").out
