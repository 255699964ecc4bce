"""`hostler webhook`, as processes against a real server."""

from __future__ import annotations

from cli_processes import Server

HOOKS = "https://hooks.invalid/x"
"""A name that no resolver knows."""


def test_endpoint_is_made_tried_listed_and_its_secret_changed(server: Server) -> None:
    made = server.hostler("webhook", "create", HOOKS, "--event", "session.idled", "--name", "app", "--json").json
    assert made["enabled_events"] == ["session.idled"]
    assert made["signing_secret"].startswith("whsec_")
    listed = server.hostler("webhook", "list", "--json").json["webhooks"]
    assert "signing_secret" not in next(row for row in listed if row["id"] == made["id"])
    assert made["id"] in server.hostler("webhook", "list").out

    tried = server.hostler("webhook", "test", made["id"])
    assert (tried.code, "failed" in tried.out) == (1, True), "nobody is there"
    delivery = server.hostler("webhook", "deliveries", made["id"], "--json").json["deliveries"][0]
    assert (delivery["event_type"], delivery["test"], delivery["state"]) == ("session.idled", True, "failed")
    assert "session.idled (test)" in " ".join(server.hostler("webhook", "deliveries", made["id"]).out.split())

    rotated = server.hostler("webhook", "rotate", made["id"], "--grace-seconds", "0")
    assert rotated.code == 0
    assert rotated.out.startswith("whsec_")
    assert rotated.out.strip() != made["signing_secret"]

    acts = [row["act"] for row in server.hostler("audit", "--target", made["id"], "--json").json["audit"]]
    assert acts == ["webhook_endpoint.rotate_secret", "webhook_endpoint.test", "webhook_endpoint.create"]


def test_without_events_all_are_told(server: Server) -> None:
    made = server.hostler("webhook", "create", HOOKS)
    assert made.out.startswith("whsec_")
    assert "hostler webhook test whep_" in " ".join(made.err.split())
    assert "all" in server.hostler("webhook", "list", "--limit", "1").out


def test_what_the_server_refuses_is_said(server: Server) -> None:
    for arguments, said in (
        (("create", "ftp://x"), "is not a URL"),
        (("create", HOOKS, "--event", "session.exploded"), "is not a webhook event type"),
        (("test", "whep_none"), "does not exist"),
        (("rotate", "whep_none"), "does not exist"),
        (("deliveries", "whep_none"), "does not exist"),
    ):
        result = server.hostler("webhook", *arguments)
        assert result.code == 1
        assert said in " ".join(result.err.split()), result.err
