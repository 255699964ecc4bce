"""A program of the old generation: every vault and credential endpoint, with strict validation.

Arguments: base URL, key. Run by its own interpreter, with the old client before ours on the path.
"""

import sys

import anthropic

base_url, key = sys.argv[1:]
assert anthropic.__version__ == "0.121.0", anthropic.__version__
client = anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0, _strict_response_validation=True)
vaults = client.beta.vaults

vault = vaults.create(display_name="v", metadata={"a": "1"})
assert vaults.retrieve(vault.id) == vault
assert vaults.update(vault.id, display_name="w", metadata={"a": None}).metadata == {}
assert [row.id for row in vaults.list(include_archived=True, limit=1)] == [vault.id]

url = "http://127.0.0.1:1/mcp"
refresh = {
    "client_id": "me",
    "refresh_token": "canary",
    "token_endpoint": "https://auth.example.com/token",
    "token_endpoint_auth": {"type": "client_secret_post", "client_secret": "canary"},
}
bearer = vaults.credentials.create(
    vault.id, auth={"type": "static_bearer", "mcp_server_url": "https://a.example.com", "token": "canary"}
)
oauth = vaults.credentials.create(
    vault.id,
    display_name="O",
    auth={
        "type": "mcp_oauth",
        "mcp_server_url": url,
        "access_token": "canary",
        "expires_at": "2999-01-01T00:00:00Z",
        "refresh": refresh,
    },
)
variable = vaults.credentials.create(
    vault.id,
    auth={
        "type": "environment_variable",
        "secret_name": "TOKEN",
        "secret_value": "canary",
        "networking": {"type": "limited", "allowed_hosts": ["api.example.com"]},
    },
)
assert oauth.auth.expires_at.year == 2999
assert vaults.credentials.retrieve(oauth.id, vault_id=vault.id) == oauth
changed = vaults.credentials.update(oauth.id, vault_id=vault.id, auth={"type": "mcp_oauth", "access_token": "canary2"})
assert changed.auth == oauth.auth
found = vaults.credentials.mcp_oauth_validate(oauth.id, vault_id=vault.id)
assert (found.status, found.has_refresh_token, found.mcp_probe.method) == ("unknown", True, "initialize"), found
assert [row.id for row in vaults.credentials.list(vault.id, limit=2)] == [variable.id, oauth.id, bearer.id]
assert vaults.credentials.archive(bearer.id, vault_id=vault.id).archived_at is not None
assert vaults.credentials.delete(variable.id, vault_id=vault.id).type == "vault_credential_deleted"
assert vaults.archive(vault.id).archived_at is not None
assert vaults.delete(vault.id).type == "vault_deleted"
try:
    vaults.retrieve(vault.id)
except anthropic.NotFoundError as error:
    gone = error.request_id
else:
    raise AssertionError("it is gone")
assert gone.startswith("req_")
print("done")
