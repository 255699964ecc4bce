"""`hostler routing` and `hostler sessions requests`, as processes, against a real server with the rehearsal model."""

from __future__ import annotations

import json
from pathlib import Path

from cli_processes import Server

CHEAP = {"routing": {"rules": [{"id": "cheap", "when": {"min_bytes": 1}, "use": "claude-haiku-5-5"}]}}


def test_requests_are_shown_explained_and_priced_anew(server: Server, tmp_path: Path) -> None:
    rules = tmp_path / "cheap.json"
    rules.write_text(json.dumps(CHEAP))
    session = server.hostler("run", "Hello", "--keep", "--json").lines[-1]["session_id"]
    rows = server.hostler("sessions", "requests", session, "--json").json["requests"]
    assert {row["rule"] for row in rows} == {None}
    model = rows[0]["model"]
    assert model in server.hostler("sessions", "requests", session).out
    said = server.hostler("routing", "explain", "--model", model, "--rules", str(rules), "--tag", "a=b").out
    assert f"{model} answers a request for {model}" in " ".join(said.split())
    assert "does not match" in said

    compared = server.hostler("routing", "compare", "--rules", str(rules), "--since", "last-1h", "--json").json
    assert compared["sets"][0]["changed"] == len(rows) == compared["attempts"]
    assert 0 < compared["sets"][0]["cost_nanos"] < compared["recorded"]["cost_nanos"]
    told = " ".join(server.hostler("routing", "compare", "--rules", str(rules)).out.split())
    assert "as recorded" in told
    assert "same tokens" in told


def test_files_and_options_that_say_nothing_are_refused_with_what_to_do(server: Server, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("1")
    for arguments, said in (
        (("compare", "--rules", str(wrong)), "must hold an object with `rules`"),
        (("explain", "--model", "x", "--tag", "a"), "write KEY=VALUE"),
        (("explain",), "with --agent, or which model it names with --model"),
    ):
        result = server.hostler("routing", *arguments)
        assert result.code in (1, 2)
        assert said in " ".join((result.out + result.err).split())
