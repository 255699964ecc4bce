"""`hostler audit`, as processes: a log is exported, verified without a server, and caught when it was changed."""

from __future__ import annotations

from pathlib import Path

import zstandard
from cli_processes import Server, hostler


def test_a_log_is_exported_and_verified_without_a_server(server: Server, tmp_path: Path) -> None:
    key = server.hostler("key", "create", "laptop", "--json").json["id"]
    file = tmp_path / "log.jsonl.zst"
    exported = server.hostler("audit", "export", "-o", str(file), "--json").json
    assert exported["entries"] > 0
    alone = {"HOSTLER_STATE_DIR": str(tmp_path / "nothing")}
    shown = hostler("audit", "verify", str(file), "--json", "--anchor", exported["anchor"], **alone).json
    assert (shown["intact"], shown["anchor"], shown["pinned"]) == (True, exported["anchor"], False)
    status = server.hostler("audit", "status", "--json").json
    trusted = tmp_path / "key.txt"
    trusted.write_text(status["signers"][0]["public_key"] + "\n")
    pinned = ("audit", "verify", str(file), "--public-key", str(trusted))
    assert hostler(*pinned, **alone).code == 0
    assert server.hostler("audit", "verify").out.startswith("Intact")

    plain = tmp_path / "log.jsonl"
    text = zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes())
    plain.write_bytes(text.replace(b'"act":"key.create"', b'"act":"key.revoke"', 1))
    caught = hostler("audit", "verify", str(plain), **alone)
    assert caught.code == 1
    assert caught.out.startswith("CHANGED  entry ")
    trusted.write_text("00" * 32)
    assert "SIGNER" in hostler(*pinned, **alone).out
    trusted.write_text("nothing")
    assert hostler(*pinned, **alone).code == 2
    assert hostler("audit", "verify", str(tmp_path / "none"), **alone).code == 1
    assert server.hostler("audit", "export", "-o", str(file)).code == 1

    rows = server.hostler("audit", "--kind", "administration", "--target", key, "--json").json["audit"]
    assert [row["details"]["name"] for row in rows] == ["laptop"]
    assert server.hostler("audit", "redact", key).code == 0
    rows = server.hostler("audit", "--act", "key.create", "--target", key, "--json").json["audit"]
    assert [row["redacted"] for row in rows] == [True]


def test_a_new_signing_key_is_signed_by_the_one_before(tmp_path: Path) -> None:
    state = {"HOSTLER_STATE_DIR": str(tmp_path)}
    first = hostler("audit", "rotate-key", "--json", **state).json
    second = hostler("audit", "rotate-key", "--json", **state).json
    assert len(first["older"]) == 1
    assert second["older"] == [*first["older"], first["key"]]
    assert (tmp_path / "secrets" / "audit-keys.json").stat().st_mode & 0o777 == 0o600
    given = hostler("audit", "rotate-key", HOSTLER_AUDIT__KEY="A" * 43 + "=", **state)
    assert (given.code, "audit.previous_keys" in given.err) == (2, True)
