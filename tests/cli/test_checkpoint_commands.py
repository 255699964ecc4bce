"""`hostler sessions checkpoints`, `checkpoint`, `diff`, `fork` and `rewind`, as processes against a real server."""

from __future__ import annotations

import json

from cli_processes import Server

from hostler.testing.rehearsal import prompt, step, tool


def says(server: Server, session: str, command: str) -> None:
    steps = [step(tool("bash", command=command)), step("Done \x1b[31mnow.")]
    assert server.hostler("run", prompt(steps, "Please."), "--session", session, "--keep", "--json").code == 0


def test_a_session_is_looked_at_forked_and_taken_back(server: Server) -> None:
    steps = [step(tool("bash", command="echo one > note.txt")), step("Done.")]
    begun = server.hostler("run", prompt(steps, "Please."), "--keep", "--json")
    session = json.loads(begun.out.splitlines()[-1])["session_id"]
    assert "No checkpoints yet" in server.hostler("sessions", "checkpoints", session).out
    point = server.hostler("sessions", "checkpoint", session, "--name", "first", "--json").json
    assert (point["type"], point["name"]) == ("checkpoint", "first")
    assert "first" in server.hostler("sessions", "checkpoints", session).out

    says(server, session, "echo two > note.txt")
    shown = server.hostler("sessions", "diff", session, "--path", "workspace/note.txt").out
    assert "changed workspace/note.txt (4 → 4 bytes)" in shown
    assert "agent: Done now." in shown
    assert shown.endswith("-one\n+two\n")
    found = server.hostler("sessions", "diff", session, "--from", point["id"], "--json").json
    assert found["files"]["by_kind"] == {"changed": 1}

    fork = server.hostler("sessions", "fork", session, "--title", "Other", "--json").json
    assert (fork["title"], fork["forked_from"]["session_id"]) == ("Other", session)
    assert fork["id"] in server.hostler("sessions", "list").out

    back = server.hostler("sessions", "rewind", session, point["id"])
    assert (back.code, f"{session} is where it was at {point['id']}." in back.out) == (0, True)
    (undo,) = (line for line in back.out.splitlines() if line.startswith("Undo:"))
    assert server.hostler(*undo.split()[2:], "--json").json["to_seq"] > point["seq"]
    gone = server.hostler("sessions", "checkpoints", session, "--delete", point["id"], "--json").json
    assert gone == {"id": point["id"], "type": "checkpoint_deleted"}
    assert point["id"] not in server.hostler("sessions", "checkpoints", session).out
    refused = server.hostler("sessions", "rewind", session, point["id"])
    assert (refused.code, "does not exist" in refused.err) == (1, True)
