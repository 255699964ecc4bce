"""`hostler sessions export`, `verify-bundle` and `import`, as processes against a real server."""

from __future__ import annotations

import json
from pathlib import Path

from cli_processes import Server

from hostler.testing.rehearsal import prompt, step, tool


def test_a_session_is_exported_verified_and_imported(server: Server, tmp_path: Path) -> None:
    steps = [step(tool("bash", command="echo one > note.txt")), step("Done.")]
    begun = server.hostler("run", prompt(steps, "Please."), "--keep", "--json")
    session = json.loads(begun.out.splitlines()[-1])["session_id"]
    file = tmp_path / "it.tar.zst"

    made = server.hostler("sessions", "export", session, "-o", str(file), "--json").json
    assert (made["file"], made["bytes"]) == (str(file), file.stat().st_size)
    assert file.stat().st_mode & 0o777 == 0o600
    again = server.hostler("sessions", "export", session, "-o", str(file))
    assert (again.code, "is there already" in again.err) == (1, True)

    found = server.hostler("sessions", "verify-bundle", str(file), "--digest", made["digest"], "--json").json
    assert (found["session_id"], found["digest"], found["files"]) == (session, made["digest"], 2)
    assert "whole bundle of" in server.hostler("sessions", "verify-bundle", str(file)).out
    other = server.hostler("sessions", "verify-bundle", str(file), "--digest", "0" * 64)
    assert (other.code, "another bundle" in other.err) == (1, True)
    half = tmp_path / "half.tar.zst"
    half.write_bytes(file.read_bytes()[:-10])
    assert "in the middle" in server.hostler("sessions", "verify-bundle", str(half)).err
    assert server.hostler("sessions", "import", str(half)).code == 1

    refused = server.hostler("sessions", "import", str(file), "--vault", "vlt_1=vlt_2")
    assert (refused.code, "has no vlt_1" in refused.err) == (1, True)
    taken = server.hostler("sessions", "import", str(file), "--title", "Moved")
    moved = taken.out.split()[0]
    assert (taken.code, "goes on where" in taken.out) == (0, True)
    steps = [step(tool("bash", command="cat note.txt")), step("It says {{last_tool_result}}")]
    (go_on,) = (line for line in taken.out.splitlines() if line.startswith("Go on:"))
    words = ["" if word == "PROMPT" else word for word in go_on.split()[3:]]
    said = server.hostler(*(word or prompt(steps, "Please.") for word in words), "--json")
    assert moved in go_on
    assert "It says one" in said.out
