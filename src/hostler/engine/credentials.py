"""What may happen to a credential? Creation, change, archiving, deletion; and how its secrets are kept.

Secrets come in with a request, are sealed in the transaction that stores them, and are in no answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection

from hostler.domain.clock import parse_rfc3339, rfc3339
from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id
from hostler.domain.sessions import Position
from hostler.domain.values import merge_metadata
from hostler.domain.vaults import (
    MAX_CREDENTIALS,
    CreateCredential,
    EnvironmentVariableRequest,
    EnvironmentVariableUpdate,
    McpOauthRequest,
    McpOauthUpdate,
    StaticBearerRequest,
    StaticBearerUpdate,
    UpdateCredential,
    WorkspaceScope,
    normalised_url,
    stored_injection,
)
from hostler.engine.ports import Announce, Sealer
from hostler.store import audit
from hostler.store import vaults as rows
from hostler.store.acting import acting
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition
from hostler.store.vaults import CredentialRow
from hostler.store.webhooks import emit

View = dict[str, Any]


class Credentials:
    """The credentials of every vault, as the wire shows them. NotFound for another workspace's.

    plain_http  whether addresses of the operator's own network may be named with http://; otherwise only https.
    """

    def __init__(
        self, database: Database, sealer: Sealer, announce: Announce = emit, *, plain_http: bool = False
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._announce = announce
        self._plain_http = plain_http

    async def create(self, workspace: str, vault_id: str, request: CreateCredential) -> View:
        """Raises Conflict when an active credential has the same URL or name, InvalidRequest when the vault is full."""
        auth, secrets, key = _new_auth(request.auth)
        self._check_urls(auth)
        credential_id = new_id("vcrd")

        def unit(conn: Connection) -> CredentialRow:
            vault = rows.get_vault(conn, workspace, vault_id, for_update=True)
            if vault.archived_at is not None:
                raise InvalidRequest(f"vault {vault_id} is archived and takes no credentials; make another one")
            now = self._database.now(conn)
            _check_expiry(auth, now)
            if len(rows.active_credentials(conn, workspace, vault_id)) >= MAX_CREDENTIALS:
                raise InvalidRequest(
                    f"vault {vault_id} has {MAX_CREDENTIALS} credentials; archive one, or use another vault"
                )
            row = rows.create_credential(
                conn,
                now,
                vault,
                id=credential_id,
                display_name=request.display_name,
                metadata=request.metadata,
                auth=auth,
                match_key=key,
                sealed=seal(self._sealer, workspace, vault_id, credential_id, auth, secrets),
            )
            self._announce(
                conn, now, workspace, "vault_credential.created", {"id": credential_id, "vault_id": vault_id}
            )
            return row

        return credential_wire(await self._database.write(unit))

    async def retrieve(self, workspace: str, vault_id: str, credential_id: str) -> View:
        return credential_wire(
            await self._database.read(lambda conn: rows.get_credential(conn, workspace, vault_id, credential_id))
        )

    async def update(self, workspace: str, vault_id: str, credential_id: str, patch: UpdateCredential) -> View:
        """Raises InvalidRequest when it is archived, or of another type than `patch.auth` says."""

        def unit(conn: Connection) -> CredentialRow:
            row = rows.get_credential(conn, workspace, vault_id, credential_id, for_update=True)
            if row.archived_at is not None:
                raise InvalidRequest(f"credential {credential_id} is archived and can't be changed; make another one")
            now = self._database.now(conn)
            changes: dict[str, Any] = {}
            if "display_name" in patch.model_fields_set and patch.display_name != row.display_name:
                changes["display_name"] = patch.display_name
            metadata = merge_metadata(row.metadata, patch.metadata)
            if metadata != row.metadata:
                changes["metadata"] = metadata
            if patch.auth is not None:
                auth, new_secrets = _changed_auth(row.auth, patch.auth)
                if auth != row.auth:
                    changes["auth"] = auth
                    if auth.get("expires_at") != row.auth.get("expires_at"):
                        _check_expiry(auth, now)
                if new_secrets or _bound(auth) != _bound(row.auth):
                    secrets = {**opened(self._sealer, row), **new_secrets}
                    changes["sealed"] = seal(self._sealer, workspace, vault_id, credential_id, auth, secrets)
                if changes.keys() & {"auth", "sealed"}:
                    changes["refresh_failed_at"] = None  # what failed before may work now
            if not changes:
                return row
            audit.record_act(
                conn,
                now,
                actor=acting(conn),
                act="vault_credential.update",
                target_id=credential_id,
                workspace_id=workspace,
                details={"vault_id": vault_id, "changed": sorted(changes)},
            )
            return rows.change_credential(conn, now, row, **changes)

        return credential_wire(await self._database.write(unit))

    async def list(
        self,
        workspace: str,
        vault_id: str,
        *,
        limit: int,
        after: Position | None = None,
        include_archived: bool = False,
    ) -> tuple[list[View], bool]:
        """Credentials, newest first, and whether more follow."""
        place = None if after is None else StorePosition(*after)
        found = await self._database.read(
            lambda c: rows.list_credentials(
                c, workspace, vault_id, limit=limit, after=place, include_archived=include_archived
            )
        )
        return [credential_wire(row) for row in found.rows], found.has_next

    async def archive(self, workspace: str, vault_id: str, credential_id: str) -> View:
        """For good: its secrets are gone, its key is free. A second time changes nothing."""

        def unit(conn: Connection) -> CredentialRow:
            row = rows.get_credential(conn, workspace, vault_id, credential_id)
            if row.archived_at is not None:
                return row
            return archive_in(conn, self._database.now(conn), workspace, vault_id, credential_id, self._announce)

        return credential_wire(await self._database.write(unit))

    async def delete(self, workspace: str, vault_id: str, credential_id: str) -> None:
        def unit(conn: Connection) -> None:
            row = rows.get_credential(conn, workspace, vault_id, credential_id, for_update=True)
            rows.delete_credential(conn, row)
            now = self._database.now(conn)
            self._announce(conn, now, workspace, "vault_credential.deleted", {"id": row.id, "vault_id": vault_id})

        await self._database.write(unit)

    # -- inside

    def _check_urls(self, auth: Mapping[str, Any]) -> None:
        if self._plain_http:
            return
        named = {"auth.mcp_server_url": auth.get("mcp_server_url")}
        named["auth.refresh.token_endpoint"] = (auth.get("refresh") or {}).get("token_endpoint")
        for place, url in named.items():
            if url is not None and urlsplit(url).scheme.lower() != "https":
                raise InvalidRequest(
                    f"{place}: must begin with https://, or the secret could be read on its way; the operator of this "
                    "server can allow http:// for addresses of their own network (egress.private_allowed)"
                )


def archive_in(
    conn: Connection, now: float, workspace: str, vault_id: str, credential_id: str, announce: Announce
) -> CredentialRow:
    """Within a transaction: its secrets are gone, its key is free. A second time changes nothing."""
    row = rows.get_credential(conn, workspace, vault_id, credential_id, for_update=True)
    if row.archived_at is not None:
        return row
    archived = rows.archive_credential(conn, now, row)
    announce(conn, now, workspace, "vault_credential.archived", {"id": row.id, "vault_id": vault_id})
    return archived


# ------------------------------------------------------------------------------------------------------------ secrets


def seal(
    sealer: Sealer,
    workspace: str,
    vault_id: str,
    credential_id: str,
    auth: Mapping[str, Any],
    secrets: Mapping[str, str],
) -> str:
    """The secrets of one credential in one envelope, so that they change together. `auth` is its public half."""
    return sealer.seal(_context(workspace, vault_id, credential_id, auth), json.dumps(dict(secrets)).encode())


def opened(sealer: Sealer, row: CredentialRow) -> dict[str, str]:
    """The secrets of `row`; empty when it is archived. Raises SecretUnreadable."""
    if row.sealed is None:
        return {}
    context = _context(row.workspace_id, row.vault_id, row.id, row.auth)
    found: dict[str, str] = json.loads(sealer.open(context, row.sealed))
    return found


def _context(workspace: str, vault_id: str, credential_id: str, auth: Mapping[str, Any]) -> str:
    """Where the secrets belong, and where they may go: what says that in the row is bound to them.

    Whoever can write to the database could otherwise name a server of their own, and wait for the token.
    """
    return f"{workspace}/{vault_id}/{credential_id}/{_bound(auth)}"


def _bound(auth: Mapping[str, Any]) -> str:
    """What of `auth` the secrets don't open without. When it changes, they are sealed again."""
    refresh = auth.get("refresh") or {}
    bound = [
        auth["type"],
        auth.get("mcp_server_url") or auth.get("secret_name"),
        *(refresh.get(name) for name in ("token_endpoint", "client_id", "resource", "token_endpoint_auth")),
    ]
    if auth["type"] == "environment_variable":
        bound += [auth[name] for name in ("networking", "injection_location", "scope")]
    return json.dumps(bound, sort_keys=True)


# ------------------------------------------------------------------------------------------------------------- shapes


def credential_wire(row: CredentialRow) -> View:
    return {
        "id": row.id,
        "type": "vault_credential",
        "vault_id": row.vault_id,
        "display_name": row.display_name,
        "metadata": row.metadata,
        "auth": row.auth,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "archived_at": row.archived_at,
    }


def match_key(url: str) -> str:
    """The key under which a vault has at most one active credential for an MCP server. Raises ValueError."""
    return f"mcp {normalised_url(url)}"


def _new_auth(
    request: StaticBearerRequest | McpOauthRequest | EnvironmentVariableRequest,
) -> tuple[dict[str, Any], dict[str, str], str]:
    """What is public, what is secret, and what must be unique."""
    match request:
        case StaticBearerRequest():
            public: dict[str, Any] = {"type": request.type, "mcp_server_url": request.mcp_server_url}
            return public, {"token": request.token}, match_key(request.mcp_server_url)
        case McpOauthRequest():
            public = {"type": request.type, "mcp_server_url": request.mcp_server_url, "refresh": None}
            secrets = {"access_token": request.access_token}
            if request.expires_at is not None:
                public["expires_at"] = rfc3339(request.expires_at)
            if (refresh := request.refresh) is not None:
                public["refresh"] = {
                    "client_id": refresh.client_id,
                    "token_endpoint": refresh.token_endpoint,
                    "token_endpoint_auth": {"type": refresh.token_endpoint_auth.type},
                    "resource": refresh.resource,
                    "scope": refresh.scope or None,
                }
                secrets["refresh_token"] = refresh.refresh_token
                if refresh.token_endpoint_auth.type != "none":
                    secrets["client_secret"] = refresh.token_endpoint_auth.client_secret
            return public, secrets, match_key(request.mcp_server_url)
        case EnvironmentVariableRequest():
            public = {
                "type": request.type,
                "secret_name": request.secret_name,
                "networking": request.networking.model_dump(mode="json"),
                "injection_location": _injection(None, request.injection_location),
                "scope": (request.scope or WorkspaceScope()).model_dump(mode="json"),
            }
            return public, {"secret_value": request.secret_value}, f"variable {request.secret_name}"


def _changed_auth(
    stored: dict[str, Any], patch: StaticBearerUpdate | McpOauthUpdate | EnvironmentVariableUpdate
) -> tuple[dict[str, Any], dict[str, str]]:
    """`stored` with the patch, and the secrets that are new. Raises InvalidRequest."""
    if stored["type"] != patch.type:
        raise InvalidRequest(f"auth.type: is {stored['type']} and can't be changed; make another credential")
    auth, secrets = dict(stored), dict[str, str | None]()
    match patch:
        case StaticBearerUpdate():
            secrets["token"] = patch.token
        case McpOauthUpdate():
            secrets["access_token"] = patch.access_token
            if "expires_at" in patch.model_fields_set:
                auth.pop("expires_at", None)
                if patch.expires_at is not None:
                    auth["expires_at"] = rfc3339(patch.expires_at)
            if (refresh := patch.refresh) is not None:
                if auth["refresh"] is None:
                    raise InvalidRequest("auth.refresh: this credential was made without one; make another credential")
                if refresh.scope is not None:
                    auth["refresh"] = {**auth["refresh"], "scope": refresh.scope or None}
                secrets["refresh_token"] = refresh.refresh_token
                if refresh.token_endpoint_auth is not None:
                    if auth["refresh"]["token_endpoint_auth"]["type"] == "none":
                        raise InvalidRequest(
                            "auth.refresh.token_endpoint_auth: this credential has none; make another credential"
                        )
                    secrets["client_secret"] = refresh.token_endpoint_auth.client_secret
        case EnvironmentVariableUpdate():
            secrets["secret_value"] = patch.secret_value
            if patch.networking is not None:
                auth["networking"] = patch.networking.model_dump(mode="json")
            auth["injection_location"] = _injection(stored["injection_location"], patch.injection_location)
            if patch.scope is not None:
                auth["scope"] = patch.scope.model_dump(mode="json")
    return auth, {name: value for name, value in secrets.items() if value is not None}


def _injection(stored: dict[str, bool] | None, sent: Any) -> dict[str, bool]:
    merged = stored_injection(stored, sent)
    if not any(merged.values()):
        raise InvalidRequest("auth.injection_location: switches header and body off; leave at least one on")
    return merged


def _check_expiry(auth: Mapping[str, Any], now: float) -> None:
    text = auth.get("expires_at")
    if text is not None and parse_rfc3339(text).timestamp() <= now:
        raise InvalidRequest("auth.expires_at: is in the past; send a token that is still good, and when it expires")
