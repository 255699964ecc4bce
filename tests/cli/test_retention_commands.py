"""`hostler storage` and `hostler retention`, as processes against a real server, which does what it is asked."""

from __future__ import annotations

from cli_processes import Server


def test_what_is_kept_is_shown_tried_and_removed(server: Server) -> None:
    assert "model_requests" in server.hostler("storage").out
    shown = server.hostler("storage", "--fresh", "--json").json
    assert {one["store"] for one in shown["stores"]} >= {"sessions", "events", "snapshots"}
    assert shown["installation"]["workspaces"] >= 1

    policies = server.hostler("retention", "show").out
    assert "archived_sessions" in policies
    assert "The bill is never removed." in policies
    found = server.hostler("retention", "set", "archived_sessions", "30", "--json").json
    assert {row["name"]: row["days"] for row in found["policies"]}["archived_sessions"] == 30
    assert "30 d (its own)" in server.hostler("retention", "show").out
    wrong = server.hostler("retention", "set", "archived_sessions", "soon")
    assert (wrong.code, "is no number of days" in wrong.err) == (2, True)

    dry = server.hostler("retention", "run", "--dry-run")
    assert (dry.code, dry.out.strip()) == (0, "Nothing is over.")
    real = server.hostler("retention", "run", "--json").json
    assert (real["state"], real["dry_run"], real["items"]) == ("completed", False, 0)
    runs = server.hostler("retention", "history", "--json").json["runs"]
    assert [one["dry_run"] for one in runs] == [False, True]
    assert "completed (dry)" in server.hostler("retention", "history").out
    kept = server.hostler("retention", "set", "archived_sessions", "default", "--json").json
    assert not any(row["overridden"] for row in kept["policies"])
