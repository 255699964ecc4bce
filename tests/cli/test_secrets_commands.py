"""`hostler secrets`, as processes, while a server runs."""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

import anthropic
import pytest
from cli_processes import hostler, start


@pytest.mark.slow
def test_keys_are_seen_rotated_and_pruned_while_the_server_runs(tmp_path: Path) -> None:
    server = start(tmp_path / "state", "--rehearse")
    try:
        assert server.hostler("secrets", "status", "--json").json == {"keys": []}
        assert "made when the first secret" in server.hostler("secrets", "status").out
        with anthropic.Anthropic(base_url=server.url, api_key=server.api_key) as client:
            vault = client.beta.vaults.create(display_name="v").id

            def store(number: int) -> None:
                url = f"https://mcp{number}.example.com"
                auth: Any = {"type": "static_bearer", "mcp_server_url": url, "token": "canary"}
                client.beta.vaults.credentials.create(vault, auth=auth)

            store(1)
            file = server.state_dir / "secrets" / "master-keys.json"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            (old,) = server.hostler("secrets", "status", "--json").json["keys"]
            assert old == {"id": old["id"], "current": True, "here": True, "secrets": 1}
            done = server.hostler("secrets", "rotate", "--json").json
            assert (done["rewrapped"], done["kept"]) == (1, [old["id"]])
            store(2)  # The server, which runs on, uses the new key.
            shown = server.hostler("secrets", "status", "--json").json["keys"]
            assert [(key["id"], key["current"], key["secrets"]) for key in shown] == [
                (done["key"], True, 2),
                (old["id"], False, 0),
            ]
            assert server.hostler("secrets", "prune", "--json").json == {"removed": []}
            _age(file)
            assert server.hostler("secrets", "prune", "--json").json == {"removed": [old["id"]]}
            assert "Nothing to remove" in server.hostler("secrets", "prune").out
            rotated = server.hostler("secrets", "rotate")
            assert "2 secrets were re-wrapped" in rotated.out
            assert "hostler secrets prune" in rotated.err
        key = base64.b64decode(json.loads(file.read_text())["keys"][0]["key"])
        log = (server.state_dir / "server.log").read_text()
        assert base64.b64encode(key).decode() not in log
        assert "canary" not in log
    finally:
        assert server.stop() == 0


def test_a_lost_or_open_key_file_is_said(tmp_path: Path) -> None:
    state = tmp_path / "state"
    server = start(state, "--rehearse")
    try:
        with anthropic.Anthropic(base_url=server.url, api_key=server.api_key, max_retries=0) as client:
            vault = client.beta.vaults.create(display_name="v").id
            auth: Any = {"type": "static_bearer", "mcp_server_url": "https://a.example.com", "token": "canary"}
            credential = client.beta.vaults.credentials.create(vault, auth=auth).id
            (key,) = server.hostler("secrets", "status", "--json").json["keys"]
            file = state / "secrets" / "master-keys.json"
            os.chmod(file, 0o644)
            refused = server.hostler("secrets", "status")
            assert (refused.code, f"chmod 600 {file}" in refused.err) == (2, True)
            file.unlink()
            assert "MISSING" in server.hostler("secrets", "status").out
            failed = server.hostler("secrets", "rotate")
            assert failed.code == 1
            assert key["id"] in failed.err
            with pytest.raises(anthropic.InternalServerError) as caught:
                client.beta.vaults.credentials.mcp_oauth_validate(_oauth(client, vault, file), vault_id=vault)
            assert "canary" not in caught.value.response.text
            assert client.beta.vaults.credentials.retrieve(credential, vault_id=vault).id == credential
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"HOSTLER_SECRETS__KEY": "short"}, "secrets.key: is not 32 bytes in base64"),
        ({"HOSTLER_SECRETS__PREVIOUS_KEYS": "a,b"}, "secrets.previous_keys: needs secrets.key"),
        ({"HOSTLER_SECRETS__KEY": "x", "HOSTLER_SECRETS__COMMAND": "y"}, "secrets.key: can't be used together"),
    ],
)
def test_keys_of_the_configuration_that_are_none(tmp_path: Path, settings: dict[str, str], says: str) -> None:
    found = hostler("secrets", "status", HOSTLER_STATE_DIR=str(tmp_path), **settings)
    assert found.code == 2
    assert says in found.err


def test_a_key_of_the_environment_is_used_instead_of_a_file(tmp_path: Path) -> None:
    keys = [base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2)]
    folder = {"HOSTLER_STATE_DIR": str(tmp_path)}
    (first,) = hostler("secrets", "status", "--json", HOSTLER_SECRETS__KEY=keys[0], **folder).json["keys"]
    assert first["current"] is True
    both = {"HOSTLER_SECRETS__KEY": keys[1], "HOSTLER_SECRETS__PREVIOUS_KEYS": keys[0]}
    done = hostler("secrets", "rotate", "--json", **both, **folder).json
    assert done["kept"] == [first["id"]]
    refused = hostler("secrets", "prune", **both, **folder)
    assert (refused.code, "previous_keys" in refused.err) == (2, True)
    assert not (tmp_path / "secrets").exists()


def _age(file: Path) -> None:
    """As if the rotation had been an hour ago."""
    kept = json.loads(file.read_text())
    for key in kept["keys"]:
        if "retired_at" in key:
            key["retired_at"] = "2020-01-01T00:00:00.000000Z"
    file.write_text(json.dumps(kept))


def _oauth(client: anthropic.Anthropic, vault: str, key_file: Path) -> str:
    """An OAuth credential whose key is lost again at once."""
    auth: Any = {"type": "mcp_oauth", "mcp_server_url": "https://b.example.com", "access_token": "canary"}
    made = client.beta.vaults.credentials.create(vault, auth=auth).id
    key_file.unlink()
    return str(made)
