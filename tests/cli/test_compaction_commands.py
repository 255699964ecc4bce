"""`hostler sessions compact`, `compactions` and `archives`, as processes against a real server."""

from __future__ import annotations

from cli_processes import Server


def test_conversation_is_compacted_and_read_from_its_archive(server: Server) -> None:
    done = server.hostler("run", "Say the word plumpudding.", "--keep", "--json")
    session = done.lines[-1]["session_id"]
    compacted = server.hostler("sessions", "compact", session, "--wait", "--instructions", "Mind the pudding.")
    assert compacted.code == 0, compacted.err
    assert "tokens became" in compacted.out
    rows = server.hostler("sessions", "compactions", session, "--json").json
    assert [row["state"] for row in rows["compactions"]] == ["completed"]
    assert "tokens became" in " ".join(server.hostler("sessions", "compactions", session).out.split())
    (archive,) = server.hostler("sessions", "archives", session, "--json").json["archives"]
    assert archive["id"] in server.hostler("sessions", "archives", session).out
    assert "plumpudding" in server.hostler("sessions", "archives", session, "--archive", archive["id"]).out
    assert "plumpudding" in server.hostler("sessions", "archives", session, "--search", "PLUMP").out
    assert "Nothing found" in server.hostler("sessions", "archives", session, "--search", "raisin").out
    both = server.hostler("sessions", "archives", session, "--search", "x", "--archive", "y")
    assert (both.code, "ask one" in both.err) == (2, True)
