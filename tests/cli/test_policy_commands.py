"""`hostler policy` and `hostler sessions denials`, as processes, against a real server with the rehearsal model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cli_processes import Server, hostler

from hostler.store import ledger
from hostler.store.database import Database
from hostler.testing.rehearsal import prompt, step, tool

CURLS = "curl -s http://api.example.com/; curl -s http://api.example.com/; curl -s http://cdn.example.com/"
ASK = prompt([step(tool("bash", command=CURLS)), step("Done.")], "Fetch them.")


@pytest.fixture(scope="module")
def denied(server: Server) -> tuple[str, str]:
    """A session that was denied three requests, and its environment."""
    session = server.hostler("run", ASK, "--keep", "--json").lines[-1]["session_id"]
    return session, server.hostler("sessions", "show", session, "--json").json["environment_id"]


def test_denials_of_a_session_are_shown_with_what_would_allow_them(server: Server, denied: tuple[str, str]) -> None:
    session, _ = denied
    rows = server.hostler("sessions", "denials", session, "--json").json["denials"]
    assert {(row["host"], row["count"]) for row in rows} == {("api.example.com", 2), ("cdn.example.com", 1)}
    assert {row["reason"] for row in rows} == {"host_not_allowed"}
    shown = server.hostler("sessions", "denials", session).out
    assert "api.example.com:80" in shown
    assert "To allow it" in shown


def test_a_session_is_shown_with_its_isolation(server: Server, denied: tuple[str, str]) -> None:
    shown = server.hostler("sessions", "show", denied[0]).out
    assert "development" in shown
    assert server.facts["isolation"]["technology"] in shown


def test_a_run_tells_of_a_denial_and_ends_well(server: Server) -> None:
    result = server.hostler("run", ASK)
    assert "Hostler denied api.example.com:80" in " ".join(result.out.split())
    assert "trying again" not in result.out
    assert result.code == 0


def test_a_list_is_tried_and_the_exit_code_says_whether_it_would_have_hurt(
    server: Server, denied: tuple[str, str], tmp_path: Path
) -> None:
    _, environment = denied
    hosts = tmp_path / "hosts"
    hosts.write_text("# those that are used\napi.example.com\n\ncdn.example.com # images\n")
    opened = server.hostler("policy", "test", "--environment", environment, "--hosts", str(hosts), "--json")
    assert opened.code == 0
    assert {use["host"] for use in opened.json["newly_allowed"]} == {"api.example.com", "cdn.example.com"}
    said = server.hostler("policy", "test", "--environment", environment, "--hosts", str(hosts))
    assert "newly allowed (2)" in said.out
    assert "api.example.com:80" in said.out

    networking = tmp_path / "networking.json"
    networking.write_text(json.dumps({"type": "limited", "allowed_hosts": ["cdn.example.com"]}))
    same = server.hostler("policy", "test", "--environment", environment, "--networking", str(networking), "--json")
    assert [use["host"] for use in same.json["newly_allowed"]] == ["cdn.example.com"]


def test_the_smallest_list_is_printed_as_an_environment_takes_it(server: Server, denied: tuple[str, str]) -> None:
    session, environment = denied
    result = server.hostler("policy", "suggest", "--session", session)
    assert result.json == {"type": "limited", "allowed_hosts": [], "allow_mcp_servers": False}
    assert "Denied then, and not in this list: api.example.com, cdn.example.com" in " ".join(result.err.split())
    whole = server.hostler("policy", "suggest", "--environment", environment, "--json").json
    assert whole["type"] == "policy_suggestion"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("suggest",), "name either a session or an environment"),
        (("suggest", "--session", "s", "--environment", "e"), "name either"),
        (("test", "--environment", "e", "--hosts", "/does/not/exist"), "can't be read"),
        (("test", "--environment", "e", "--rules", "/dev/null"), "must hold JSON"),
        (("test", "--environment", "e", "--networking", "/dev/null", "--hosts", "/dev/null"), "its parts"),
    ],
)
def test_wrong_options_are_said_before_anybody_is_asked(arguments: tuple[str, ...], said: str) -> None:
    result = hostler("policy", *arguments, "--url", "http://127.0.0.1:9", "--api-key", "k")
    assert result.code == 2
    assert said in result.err
    assert "try: hostler policy" in result.err


def test_a_list_that_would_have_blocked_something_is_exit_code_1(server: Server, tmp_path: Path) -> None:
    session = server.hostler("run", prompt([step("Hello.")], "Hi."), "--keep", "--json").lines[-1]["session_id"]
    environment = server.hostler("sessions", "show", session, "--json").json["environment_id"]

    async def used() -> None:  # nothing outside can be reached from a test, so the proxy's record is written here
        database = await Database.open(f"sqlite:///{server.state_dir / 'hostler.db'}", migrate=False)
        asked: Any = {"method": "CONNECT", "host": "used.example.com", "port": 443, "reason": "public_host"}
        await database.write(
            lambda c: ledger.record_egress(c, database.now(c), session_id=session, allowed=True, **asked)
        )
        await database.close()

    asyncio.run(used())
    result = server.hostler("policy", "test", "--environment", environment)
    assert result.code == 1
    assert "would be blocked (1)" in result.out
    assert "used.example.com:443" in result.out
    suggested = server.hostler("policy", "suggest", "--session", session)
    assert suggested.json["allowed_hosts"] == ["used.example.com"]
    networking = tmp_path / "networking.json"
    networking.write_text(suggested.out)
    assert server.hostler("policy", "test", "--environment", environment, "--networking", str(networking)).code == 0
    missing = server.hostler("policy", "test", "--environment", "env_none")
    assert missing.code == 1
    assert "env_none" in missing.err
