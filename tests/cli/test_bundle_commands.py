"""`hostler sessions export`, `verify-bundle` and `import`: against a real server, and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_processes import Server

from hostler.bundles.writing import BundleWriter
from hostler.cli import bundles
from hostler.cli.problem import Problem
from hostler.testing.rehearsal import prompt, step, tool


def test_a_session_is_exported_and_imported(server: Server, tmp_path: Path) -> None:
    steps = [step(tool("bash", command="echo one > note.txt")), step("Done.")]
    begun = server.hostler("run", prompt(steps, "Please."), "--keep", "--json")
    session = json.loads(begun.out.splitlines()[-1])["session_id"]
    file = tmp_path / "it.tar.zst"
    made = server.hostler("sessions", "export", session, "-o", str(file), "--json").json
    assert (made["file"], made["bytes"]) == (str(file), file.stat().st_size)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["it.tar.zst"]
    found = server.hostler("sessions", "verify-bundle", str(file), "--digest", made["digest"], "--json").json
    assert (found["session_id"], found["digest"], found["files"]) == (session, made["digest"], 2)
    refused = server.hostler("sessions", "import", str(file), "--vault", "vlt_1=vlt_2")
    assert (refused.code, "has no vlt_1" in refused.err) == (1, True)
    taken = server.hostler("sessions", "import", str(file), "--title", "Moved")
    assert (taken.code, "goes on where" in taken.out) == (0, True)
    # What it says to go on with, goes on.
    (go_on,) = (line for line in taken.out.splitlines() if line.startswith("Go on:"))
    steps = [step(tool("bash", command="cat note.txt")), step("It says {{last_tool_result}}")]
    words = [prompt(steps, "Please.") if word == "PROMPT" else word for word in go_on.split()[3:]]
    assert "It says one" in server.hostler(*words, "--json").out


def test_what_is_no_bundle_is_told_before_anybody_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "a.tar.zst"
    with pytest.raises(Problem, match="No such file"):
        bundles.verify(file, None, as_json=False)
    with file.open("wb") as out, BundleWriter(out, "hostler 0", "2026-01-02T03:04:05Z") as writer:
        writer.finish()
    with pytest.raises(Problem, match=r"session\.json is missing"):
        bundles.verify(file, None, as_json=False)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(Problem, match="in the middle"):
        bundles.verify(file, None, as_json=False)
    with pytest.raises(Problem, match="is no OLD=NEW"):
        bundles.replaced("--vault", ["vlt_1"])
    assert bundles.replaced("--vault", ["vlt_1=", "vlt_2=vlt_3"]) == ["vlt_1:", "vlt_2:vlt_3"]
