"""The audit log over HTTP: kinds, what people set up, exports, and what is taken back."""

from __future__ import annotations

import json
from typing import Any

import anthropic
from apikit_raw import RawAnswer, send
from apikit_server import Access, RunningServer

from hostler.engine.audit_verifier import verified
from hostler.sealing.signing import signature_holds


def call(access: Access, verb: str, path: str, body: Any = None) -> RawAnswer:
    raw = None if verb == "GET" else json.dumps(body).encode()
    return send(access.base_url, verb, f"/hostler/v1{path}", key=access.key, body=raw)


def rows(access: Access, query: str = "") -> list[dict[str, Any]]:
    answer = call(access, "GET", f"/audit?limit=100&{query}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["data"]
    return found[::-1]


def test_what_people_set_up_is_in_the_audit_with_the_key_that_did(access: Access, client: anthropic.Anthropic) -> None:
    vault = client.beta.vaults.create(display_name="Alice's").id
    auth: Any = {"type": "static_bearer", "mcp_server_url": "https://mcp.example.com", "token": "canary"}
    credential = client.beta.vaults.credentials.create(vault, auth=auth).id
    changed: Any = {"type": "static_bearer", "token": "canary-2"}
    client.beta.vaults.credentials.update(credential, vault_id=vault, auth=changed)
    client.beta.vaults.credentials.delete(credential, vault_id=vault)
    client.beta.vaults.archive(vault)
    agent = client.beta.agents.create(name="A", model="claude-opus-5-5")
    environment = client.beta.environments.create(name="audited").id
    client.beta.environments.update(environment, description="other")
    found = rows(access)
    acts = [(row["act"], row["target_id"]) for row in found]
    for wanted in (
        ("vault_credential.create", credential),
        ("vault_credential.update", credential),
        ("vault_credential.delete", credential),
        ("vault.archive", vault),
        ("agent.create", agent.id),
        ("environment.create", environment),
        ("environment.update", environment),
    ):
        assert acts.count(wanted) == 1, wanted
    assert {row["actor"]["type"] for row in found} == {"api_key"}
    assert "canary" not in str(found)
    assert rows(access, "session_id=sesn_1") == []
    assert rows(access, "kind[]=tool&kind[]=approval") == []
    assert rows(access, "kind[]=administration") == found
    refused = call(access, "GET", "/audit?kind[]=nothing")
    assert refused.status == 400


def test_an_export_is_verified_and_names_are_taken_back(access: Access, server: RunningServer) -> None:
    made = call(access, "POST", "/keys", {"name": "Alice's laptop"}).json
    exported = call(access, "GET", "/audit/export")
    assert exported.headers["content-type"] == "application/x-ndjson"
    report = verified(exported.body.splitlines(), signature_holds)
    assert report.intact, report.findings
    assert report.workspace == access.workspace
    assert report.entries == report.signed_seq > 0
    assert b"Alice" not in exported.body
    chain = call(access, "GET", "/audit/chain").json
    assert (chain["seq"], chain["hash"]) == (report.seq, report.hash)
    assert {key["id"] for key in chain["signers"]} >= set(report.signers)
    (row,) = rows(access, f"target_id={made['id']}")
    assert (row["details"]["name"], row["redacted"]) == ("Alice's laptop", False)
    done = call(access, "POST", "/audit/redact", {"subject": made["id"]})
    assert done.status == 200, done.body
    (row,) = rows(access, f"target_id={made['id']}")
    assert ("name" in row["details"], row["redacted"]) == (False, True)
    for body in ({}, {"subject": ""}, {"subject": "a\u0000"}, {"subject": 1}, {"subject": "x", "more": 1}):
        assert call(access, "POST", "/audit/redact", body).status == 400, body
    assert call(access, "POST", "/audit/redact", {"subject": "nobody"}).status == 404
    again = verified(
        call(access, "GET", "/audit/export").body.splitlines(), signature_holds, anchors=[f"{report.seq}:{report.hash}"]
    )
    assert again.intact, again.findings
