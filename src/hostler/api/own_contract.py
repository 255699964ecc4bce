"""Which endpoints does Hostler have of its own? All below `/hostler/v1`, where Anthropic's can't collide with them.

Only API keys open them. `scope` is what the key needs: whoever may read may look; whoever may operate sessions changes
what belongs to a session; only administrators change anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hostler.api.contract import Verb
from hostler.domain.principals import Scope

PREFIX: Final = "/hostler/v1"


@dataclass(frozen=True, slots=True)
class OwnEndpoint:
    """One row."""

    name: str
    """Such as `keys.create`."""
    verb: Verb
    path: str
    """Path template, such as `/hostler/v1/keys/{key_id}`."""
    scope: Scope

    @property
    def route(self) -> str:
        """Name of its route: `hostler.keys.create`. A row of the contract never begins like this."""
        return f"hostler.{self.name}"


_TABLE: Final[tuple[tuple[str, Verb, str, Scope], ...]] = (
    ("keys.create", "POST", "/keys", "admin"),
    ("keys.list", "GET", "/keys", "read"),
    ("keys.retrieve", "GET", "/keys/{key_id}", "read"),
    ("keys.revoke", "POST", "/keys/{key_id}/revoke", "admin"),
    ("workspaces.create", "POST", "/workspaces", "admin"),
    ("workspaces.list", "GET", "/workspaces", "read"),
    ("workspaces.retrieve", "GET", "/workspaces/{workspace_id}", "read"),
    ("workspaces.update", "POST", "/workspaces/{workspace_id}", "admin"),
    ("workspaces.archive", "POST", "/workspaces/{workspace_id}/archive", "admin"),
    ("workspaces.quotas.retrieve", "GET", "/workspaces/{workspace_id}/quotas", "read"),
    ("workspaces.quotas.update", "POST", "/workspaces/{workspace_id}/quotas", "admin"),
    ("environments.keys.create", "POST", "/environments/{environment_id}/keys", "admin"),
    ("environments.keys.list", "GET", "/environments/{environment_id}/keys", "read"),
    ("environments.keys.revoke", "POST", "/environments/{environment_id}/keys/{key_id}/revoke", "admin"),
    ("approvals.list", "GET", "/approvals", "read"),
    ("audit.list", "GET", "/audit", "read"),
    ("audit.chain.retrieve", "GET", "/audit/chain", "read"),
    ("audit.export", "GET", "/audit/export", "read"),
    ("audit.redact", "POST", "/audit/redact", "admin"),
    ("sessions.egress.list", "GET", "/sessions/{session_id}/egress", "read"),
    ("sessions.checkpoints.create", "POST", "/sessions/{session_id}/checkpoints", "operate"),
    ("sessions.checkpoints.list", "GET", "/sessions/{session_id}/checkpoints", "read"),
    ("sessions.checkpoints.retrieve", "GET", "/sessions/{session_id}/checkpoints/{checkpoint_id}", "read"),
    ("sessions.checkpoints.delete", "DELETE", "/sessions/{session_id}/checkpoints/{checkpoint_id}", "operate"),
    ("sessions.rewind", "POST", "/sessions/{session_id}/rewind", "operate"),
    ("sessions.rewinds.list", "GET", "/sessions/{session_id}/rewinds", "read"),
    ("sessions.fork", "POST", "/sessions/{session_id}/fork", "operate"),
    ("sessions.bundle", "GET", "/sessions/{session_id}/bundle", "operate"),
    ("sessions.import", "POST", "/sessions/import", "operate"),
    ("sessions.diff", "GET", "/sessions/{session_id}/diff", "read"),
    ("sessions.previews.create", "POST", "/sessions/{session_id}/previews", "operate"),
    ("sessions.previews.list", "GET", "/sessions/{session_id}/previews", "read"),
    ("sessions.previews.revoke", "POST", "/sessions/{session_id}/previews/{preview_id}/revoke", "operate"),
    ("rooms.list", "GET", "/rooms", "read"),
    ("rooms.retrieve", "GET", "/rooms/{room_id}", "read"),
    ("rooms.conflicts.list", "GET", "/rooms/{room_id}/conflicts", "read"),
    ("live_sessions.list", "GET", "/live_sessions", "read"),
    ("waiting_sessions.list", "GET", "/waiting_sessions", "read"),
    ("budgets.create", "POST", "/budgets", "admin"),
    ("budgets.list", "GET", "/budgets", "read"),
    ("budgets.retrieve", "GET", "/budgets/{budget_id}", "read"),
    ("budgets.update", "POST", "/budgets/{budget_id}", "admin"),
    ("budgets.delete", "DELETE", "/budgets/{budget_id}", "admin"),
    ("policy.test", "POST", "/policy/test", "read"),
    ("policy.suggest", "POST", "/policy/suggest", "read"),
    ("sessions.credential_uses.list", "GET", "/sessions/{session_id}/credential_uses", "read"),
    ("sessions.compact", "POST", "/sessions/{session_id}/compact", "operate"),
    ("sessions.compaction.retrieve", "GET", "/sessions/{session_id}/compaction", "read"),
    ("sessions.compactions.list", "GET", "/sessions/{session_id}/compactions", "read"),
    ("sessions.archives.list", "GET", "/sessions/{session_id}/archives", "read"),
    ("sessions.archives.search", "GET", "/sessions/{session_id}/archives/search", "read"),
    ("sessions.archives.retrieve", "GET", "/sessions/{session_id}/archives/{archive_id}", "read"),
    ("sessions.requests.list", "GET", "/sessions/{session_id}/requests", "read"),
    ("routing.explain", "POST", "/routing/explain", "read"),
    ("routing.compare", "POST", "/routing/compare", "read"),
    ("webhook_endpoints.create", "POST", "/webhook_endpoints", "admin"),
    ("webhook_endpoints.list", "GET", "/webhook_endpoints", "read"),
    ("webhook_endpoints.retrieve", "GET", "/webhook_endpoints/{endpoint_id}", "read"),
    ("webhook_endpoints.update", "POST", "/webhook_endpoints/{endpoint_id}", "admin"),
    ("webhook_endpoints.delete", "DELETE", "/webhook_endpoints/{endpoint_id}", "admin"),
    ("webhook_endpoints.rotate_secret", "POST", "/webhook_endpoints/{endpoint_id}/rotate_secret", "admin"),
    ("webhook_endpoints.test", "POST", "/webhook_endpoints/{endpoint_id}/test", "admin"),
    ("webhook_endpoints.deliveries.list", "GET", "/webhook_endpoints/{endpoint_id}/deliveries", "read"),
    (
        "webhook_endpoints.deliveries.retry",
        "POST",
        "/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/retry",
        "admin",
    ),
    ("health.retrieve", "GET", "/health", "read"),
    ("prices.retrieve", "GET", "/prices", "read"),
    ("usage.list", "GET", "/usage", "read"),
    ("usage.mismatches.list", "GET", "/usage/mismatches", "read"),
    ("storage.retrieve", "GET", "/storage", "read"),
    ("retention.retrieve", "GET", "/retention", "read"),
    ("retention.update", "POST", "/retention", "admin"),
    ("retention.runs.create", "POST", "/retention/runs", "admin"),
    ("retention.runs.list", "GET", "/retention/runs", "read"),
    ("retention.runs.retrieve", "GET", "/retention/runs/{run_id}", "read"),
    ("rate_limits.retrieve", "GET", "/rate_limits", "read"),
    ("rate_limits.update", "POST", "/rate_limits", "admin"),
)

OWN_CONTRACT: Final[tuple[OwnEndpoint, ...]] = tuple(
    OwnEndpoint(name, verb, PREFIX + path, scope) for name, verb, path, scope in _TABLE
)
OWN_BY_NAME: Final[dict[str, OwnEndpoint]] = {endpoint.name: endpoint for endpoint in OWN_CONTRACT}
