"""Which endpoints does the contract have? All 114 of them, built here or not.

The one list behind the 501 answers and the score card. Grouped by resource: tier of the endpoint (`1a` core, `1b` data,
`2` operations, `3` advanced, `X` only meaningful in Anthropic's cloud), verb, method of the SDK, path below the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Verb = Literal["GET", "POST", "DELETE"]
Tier = Literal["1a", "1b", "2", "3", "X"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the contract."""

    method: str
    """The SDK's method, such as `agents.versions.list`."""
    verb: Verb
    path: str
    """Path template, such as `/v1/agents/{agent_id}`."""
    tier: Tier


_Rows = tuple[tuple[Tier, Verb, str, str], ...]

_TABLE: Final[tuple[tuple[str, str, _Rows], ...]] = (
    ("models", "/v1/models", (
        ("1a", "GET", "retrieve", "/{model_id}"),
        ("1a", "GET", "list", ""),
    )),
    ("agents.versions", "/v1/agents/{agent_id}/versions", (
        ("1a", "GET", "list", ""),
    )),
    ("agents", "/v1/agents", (
        ("1a", "POST", "create", ""),
        ("1a", "GET", "retrieve", "/{agent_id}"),
        ("1a", "POST", "update", "/{agent_id}"),
        ("1a", "GET", "list", ""),
        ("1a", "POST", "archive", "/{agent_id}/archive"),
    )),
    ("environments.work", "/v1/environments/{environment_id}/work", (
        ("1a", "GET", "retrieve", "/{work_id}"),
        ("1a", "POST", "update", "/{work_id}"),
        ("1a", "GET", "list", ""),
        ("1a", "POST", "ack", "/{work_id}/ack"),
        ("1a", "POST", "heartbeat", "/{work_id}/heartbeat"),
        ("1a", "GET", "poll", "/poll"),
        ("1a", "GET", "stats", "/stats"),
        ("1a", "POST", "stop", "/{work_id}/stop"),
    )),
    ("environments", "/v1/environments", (
        ("1a", "POST", "create", ""),
        ("1a", "GET", "retrieve", "/{environment_id}"),
        ("1a", "POST", "update", "/{environment_id}"),
        ("1a", "GET", "list", ""),
        ("1a", "DELETE", "delete", "/{environment_id}"),
        ("1a", "POST", "archive", "/{environment_id}/archive"),
    )),
    ("sessions.events", "/v1/sessions/{session_id}/events", (
        ("1a", "GET", "list", ""),
        ("1a", "POST", "send", ""),
        ("1a", "GET", "stream", "/stream"),
    )),
    ("sessions.resources", "/v1/sessions/{session_id}/resources", (
        ("1b", "GET", "retrieve", "/{resource_id}"),
        ("1b", "POST", "update", "/{resource_id}"),
        ("1b", "GET", "list", ""),
        ("1b", "DELETE", "delete", "/{resource_id}"),
        ("1b", "POST", "add", ""),
    )),
    ("sessions.threads.events", "/v1/sessions/{session_id}/threads/{thread_id}", (
        ("1a", "GET", "list", "/events"),
        ("1a", "GET", "stream", "/stream"),
    )),
    ("sessions.threads", "/v1/sessions/{session_id}/threads", (
        ("1a", "GET", "retrieve", "/{thread_id}"),
        ("1a", "GET", "list", ""),
        ("1a", "POST", "archive", "/{thread_id}/archive"),
    )),
    ("sessions", "/v1/sessions", (
        ("1a", "POST", "create", ""),
        ("1a", "GET", "retrieve", "/{session_id}"),
        ("1a", "POST", "update", "/{session_id}"),
        ("1a", "GET", "list", ""),
        ("1a", "DELETE", "delete", "/{session_id}"),
        ("1a", "POST", "archive", "/{session_id}/archive"),
    )),
    ("deployments", "/v1/deployments", (
        ("2", "POST", "create", ""),
        ("2", "GET", "retrieve", "/{deployment_id}"),
        ("2", "POST", "update", "/{deployment_id}"),
        ("2", "GET", "list", ""),
        ("2", "POST", "archive", "/{deployment_id}/archive"),
        ("2", "POST", "pause", "/{deployment_id}/pause"),
        ("2", "POST", "run", "/{deployment_id}/run"),
        ("2", "POST", "unpause", "/{deployment_id}/unpause"),
    )),
    ("deployment_runs", "/v1/deployment_runs", (
        ("2", "GET", "retrieve", "/{deployment_run_id}"),
        ("2", "GET", "list", ""),
    )),
    ("vaults.credentials", "/v1/vaults/{vault_id}/credentials", (
        ("1b", "POST", "create", ""),
        ("1b", "GET", "retrieve", "/{credential_id}"),
        ("1b", "POST", "update", "/{credential_id}"),
        ("1b", "GET", "list", ""),
        ("1b", "DELETE", "delete", "/{credential_id}"),
        ("1b", "POST", "archive", "/{credential_id}/archive"),
        ("1b", "POST", "mcp_oauth_validate", "/{credential_id}/mcp_oauth_validate"),
    )),
    ("vaults", "/v1/vaults", (
        ("1b", "POST", "create", ""),
        ("1b", "GET", "retrieve", "/{vault_id}"),
        ("1b", "POST", "update", "/{vault_id}"),
        ("1b", "GET", "list", ""),
        ("1b", "DELETE", "delete", "/{vault_id}"),
        ("1b", "POST", "archive", "/{vault_id}/archive"),
    )),
    ("memory_stores.memories", "/v1/memory_stores/{memory_store_id}/memories", (
        ("1b", "POST", "create", ""),
        ("1b", "GET", "retrieve", "/{memory_id}"),
        ("1b", "POST", "update", "/{memory_id}"),
        ("1b", "GET", "list", ""),
        ("1b", "DELETE", "delete", "/{memory_id}"),
    )),
    ("memory_stores.memory_versions", "/v1/memory_stores/{memory_store_id}/memory_versions", (
        ("1b", "GET", "retrieve", "/{memory_version_id}"),
        ("1b", "GET", "list", ""),
        ("1b", "POST", "redact", "/{memory_version_id}/redact"),
    )),
    ("memory_stores", "/v1/memory_stores", (
        ("1b", "POST", "create", ""),
        ("1b", "GET", "retrieve", "/{memory_store_id}"),
        ("1b", "POST", "update", "/{memory_store_id}"),
        ("1b", "GET", "list", ""),
        ("1b", "DELETE", "delete", "/{memory_store_id}"),
        ("1b", "POST", "archive", "/{memory_store_id}/archive"),
    )),
    ("files", "/v1/files", (
        ("1a", "GET", "list", ""),
        ("1a", "DELETE", "delete", "/{file_id}"),
        ("1a", "GET", "download", "/{file_id}/content"),
        ("1a", "GET", "retrieve_metadata", "/{file_id}"),
        ("1a", "POST", "upload", ""),
    )),
    ("skills.versions", "/v1/skills/{skill_id}/versions", (
        ("1b", "POST", "create", ""),
        ("1b", "GET", "retrieve", "/{version}"),
        ("1b", "GET", "list", ""),
        ("1b", "DELETE", "delete", "/{version}"),
        ("1b", "GET", "download", "/{version}/content"),
    )),
    ("skills", "/v1/skills", (
        ("1b", "POST", "create", ""),
        ("1b", "GET", "retrieve", "/{skill_id}"),
        ("1b", "GET", "list", ""),
        ("1b", "DELETE", "delete", "/{skill_id}"),
    )),
    ("user_profiles.action_urls", "/v1/user_profiles/{user_profile_id}/action_urls", (
        ("3", "POST", "create", ""),
    )),
    ("user_profiles", "/v1/user_profiles", (
        ("3", "POST", "create", ""),
        ("3", "GET", "retrieve", "/{user_profile_id}"),
        ("3", "POST", "update", "/{user_profile_id}"),
        ("3", "GET", "list", ""),
        ("3", "DELETE", "delete", "/{user_profile_id}"),
        ("3", "POST", "create_enrollment_url", "/{user_profile_id}/enrollment_url"),
    )),
    ("dreams", "/v1/dreams", (
        ("3", "POST", "create", ""),
        ("3", "GET", "retrieve", "/{dream_id}"),
        ("3", "GET", "list", ""),
        ("3", "POST", "archive", "/{dream_id}/archive"),
        ("3", "POST", "cancel", "/{dream_id}/cancel"),
    )),
    ("tunnels.certificates", "/v1/tunnels/{tunnel_id}/certificates", (
        ("X", "POST", "create", ""),
        ("X", "GET", "retrieve", "/{certificate_id}"),
        ("X", "GET", "list", ""),
        ("X", "POST", "archive", "/{certificate_id}/archive"),
    )),
    ("tunnels", "/v1/tunnels", (
        ("X", "POST", "create", ""),
        ("X", "GET", "retrieve", "/{tunnel_id}"),
        ("X", "GET", "list", ""),
        ("X", "POST", "archive", "/{tunnel_id}/archive"),
        ("X", "POST", "reveal_token", "/{tunnel_id}/reveal_token"),
        ("X", "POST", "rotate_token", "/{tunnel_id}/rotate_token"),
    )),
)  # fmt: skip

CONTRACT: Final[tuple[Endpoint, ...]] = tuple(
    Endpoint(f"{resource}.{name}", verb, prefix + rest, tier)
    for resource, prefix, rows in _TABLE
    for tier, verb, name, rest in rows
)
BY_METHOD: Final[dict[str, Endpoint]] = {endpoint.method: endpoint for endpoint in CONTRACT}
