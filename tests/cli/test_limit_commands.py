"""`hostler limits`, as processes against a real server."""

from __future__ import annotations

from cli_processes import Server


def test_limits_are_set_and_shown(server: Server) -> None:
    found = server.hostler("limits", "set", "--requests", "50", "--input-tokens", "30000", "--json").json
    assert found["limits"]["requests_per_minute"] == 50
    shown = server.hostler("limits", "show").out
    assert "30,000" in shown
    assert f"workspace {found['workspace_id']}" in shown
    for text in ("many", "0"):
        wrong = server.hostler("limits", "set", "--requests", text)
        assert (wrong.code, f"{text!r} is no whole number above 0, and not none" in wrong.err) == (2, True)
    assert server.hostler("limits", "set").code == 2
    after = server.hostler("limits", "set", "--requests", "none", "--input-tokens", "none", "--json").json
    assert set(after["limits"].values()) == {None}
