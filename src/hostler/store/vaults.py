"""Which vaults does a workspace have, and which credentials are in them?

Every function runs inside the caller's transaction; `now` is `Database.now`. Another workspace's vault is not found.
Secrets pass through here only sealed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.errors import Conflict, NotFound
from hostler.store.jsontext import decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.tables_vaults import credentials, vaults


@dataclass(frozen=True, slots=True)
class VaultRow:
    id: str
    workspace_id: str
    display_name: str
    metadata_json: str
    created_at: str
    updated_at: str
    archived_at: str | None

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = decode(self.metadata_json)
        return found


@dataclass(frozen=True, slots=True)
class CredentialRow:
    id: str
    workspace_id: str
    vault_id: str
    display_name: str | None
    metadata_json: str
    auth_json: str
    match_key: str | None
    """What must be unique among the active credentials of a vault. None when archived."""
    sealed: str | None = field(repr=False)
    """The secrets. None when archived."""
    refreshing_by: str | None
    refreshing_until: float | None
    refresh_failed_at: float | None
    created_at: str
    updated_at: str
    archived_at: str | None

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = decode(self.metadata_json)
        return found

    @property
    def auth(self) -> dict[str, Any]:
        """What is public of it, as the wire shows it. Parsed at each call."""
        found: dict[str, Any] = decode(self.auth_json)
        return found


_VAULT = tuple(vaults.c)
_CREDENTIAL = tuple(credentials.c)


# ------------------------------------------------------------------------------------------------------------- vaults


def create_vault(
    conn: Connection, now: float, *, id: str, workspace_id: str, display_name: str, metadata: Mapping[str, str]
) -> VaultRow:
    """Raises NotFound for an unknown workspace."""
    at = moment(now)
    values = {"id": id, "workspace_id": workspace_id, "display_name": display_name, "metadata": encode(dict(metadata))}
    try:
        with conn.begin_nested():
            conn.execute(vaults.insert().values(**values, created_at=at, updated_at=at))
    except IntegrityError as error:
        raise NotFound(f"workspace {workspace_id} does not exist") from error
    return get_vault(conn, workspace_id, id)


def get_vault(conn: Connection, workspace_id: str, vault_id: str, *, for_update: bool = False) -> VaultRow:
    """Raises NotFound. `for_update` keeps others from changing it, and from adding credentials."""
    query = sa.select(*_VAULT).where(vaults.c.workspace_id == workspace_id, vaults.c.id == vault_id)
    row = conn.execute(query.with_for_update() if for_update else query).first()
    if row is None:
        raise NotFound(f"vault {vault_id} does not exist")
    return VaultRow(*row)


def list_vaults(
    conn: Connection, workspace_id: str, *, limit: int, after: Position | None = None, include_archived: bool = False
) -> Page[VaultRow]:
    """Newest first."""
    conditions = [vaults.c.workspace_id == workspace_id]
    if not include_archived:
        conditions.append(vaults.c.archived_at.is_(None))
    return page(
        conn,
        vaults,
        _VAULT,
        conditions,
        VaultRow,
        keys=(vaults.c.created_at, vaults.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def update_vault(
    conn: Connection, now: float, row: VaultRow, *, display_name: str, metadata: Mapping[str, str]
) -> VaultRow:
    """Read with `for_update` before."""
    values = {"display_name": display_name, "metadata": encode(dict(metadata)), "updated_at": moment(now)}
    conn.execute(vaults.update().where(vaults.c.id == row.id).values(**values))
    return get_vault(conn, row.workspace_id, row.id)


def archive_vault(conn: Connection, now: float, row: VaultRow) -> VaultRow:
    """For good. Its credentials are archived by the caller. Read with `for_update` before."""
    at = moment(now)
    conn.execute(vaults.update().where(vaults.c.id == row.id).values(archived_at=at, updated_at=at))
    return get_vault(conn, row.workspace_id, row.id)


def delete_vault(conn: Connection, row: VaultRow) -> None:
    """With its credentials."""
    conn.execute(vaults.delete().where(vaults.c.id == row.id))


# -------------------------------------------------------------------------------------------------------- credentials


def create_credential(
    conn: Connection,
    now: float,
    vault: VaultRow,
    *,
    id: str,
    display_name: str | None,
    metadata: Mapping[str, str],
    auth: Mapping[str, Any],
    match_key: str,
    sealed: str,
) -> CredentialRow:
    """Raises Conflict when an active credential of the vault has this key. Read the vault with `for_update` before."""
    at = moment(now)
    values = {
        "id": id,
        "workspace_id": vault.workspace_id,
        "vault_id": vault.id,
        "display_name": display_name,
        "metadata": encode(dict(metadata)),
        "auth": encode(dict(auth)),
        "match_key": match_key,
        "sealed": sealed,
        "created_at": at,
        "updated_at": at,
    }
    try:
        with conn.begin_nested():
            conn.execute(credentials.insert().values(**values))
    except IntegrityError as error:
        what = match_key.partition(" ")[2]
        raise Conflict(
            f"vault {vault.id} has an active credential for {what} already; update it, or archive it first"
        ) from error
    return get_credential(conn, vault.workspace_id, vault.id, id)


def get_credential(
    conn: Connection, workspace_id: str, vault_id: str | None, credential_id: str, *, for_update: bool = False
) -> CredentialRow:
    """Raises NotFound. Without a vault, whichever it is in."""
    query = sa.select(*_CREDENTIAL).where(credentials.c.workspace_id == workspace_id, credentials.c.id == credential_id)
    if vault_id is not None:
        query = query.where(credentials.c.vault_id == vault_id)
    row = conn.execute(query.with_for_update() if for_update else query).first()
    if row is None:
        raise NotFound(f"credential {credential_id} does not exist")
    return CredentialRow(*row)


def list_credentials(
    conn: Connection,
    workspace_id: str,
    vault_id: str,
    *,
    limit: int,
    after: Position | None = None,
    include_archived: bool = False,
) -> Page[CredentialRow]:
    """Newest first. Raises NotFound for an unknown vault."""
    get_vault(conn, workspace_id, vault_id)
    conditions = [credentials.c.vault_id == vault_id]
    if not include_archived:
        conditions.append(credentials.c.archived_at.is_(None))
    return page(
        conn,
        credentials,
        _CREDENTIAL,
        conditions,
        CredentialRow,
        keys=(credentials.c.created_at, credentials.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def active_credentials(conn: Connection, workspace_id: str, vault_id: str) -> Sequence[CredentialRow]:
    """Oldest first; at most twenty. Empty for an unknown vault."""
    query = sa.select(*_CREDENTIAL).where(
        credentials.c.workspace_id == workspace_id,
        credentials.c.vault_id == vault_id,
        credentials.c.archived_at.is_(None),
    )
    return [CredentialRow(*row) for row in conn.execute(query.order_by(credentials.c.created_at, credentials.c.id))]


def find_active(conn: Connection, workspace_id: str, vault_id: str, match_key: str) -> CredentialRow | None:
    """The active credential of the vault with this key. An archived or deleted vault has none."""
    row = conn.execute(
        sa.select(*_CREDENTIAL).where(
            credentials.c.workspace_id == workspace_id,
            credentials.c.vault_id == vault_id,
            credentials.c.match_key == match_key,
        )
    ).first()
    return None if row is None else CredentialRow(*row)


def change_credential(conn: Connection, now: float, row: CredentialRow, **values: Any) -> CredentialRow:
    """Replace these columns; `metadata` and `auth` as values. Read with `for_update` before."""
    changes = {name: encode(value) if name in ("metadata", "auth") else value for name, value in values.items()}
    conn.execute(credentials.update().where(credentials.c.id == row.id).values(**changes, updated_at=moment(now)))
    return get_credential(conn, row.workspace_id, row.vault_id, row.id)


def archive_credential(conn: Connection, now: float, row: CredentialRow) -> CredentialRow:
    """For good: the secrets are gone and the key is free. Read with `for_update` before."""
    return change_credential(
        conn, now, row, sealed=None, match_key=None, archived_at=moment(now), refreshing_by=None, refreshing_until=None
    )


def delete_credential(conn: Connection, row: CredentialRow) -> None:
    conn.execute(credentials.delete().where(credentials.c.id == row.id))


# ------------------------------------------------------------------------------------------------------ one refresher


def take_refresh(conn: Connection, row: CredentialRow, owner: str, until: float) -> None:
    """Nobody else refreshes it before `until` (seconds since 1970). Read with `for_update` before."""
    conn.execute(
        credentials.update().where(credentials.c.id == row.id).values(refreshing_by=owner, refreshing_until=until)
    )


def end_refresh(conn: Connection, credential_id: str, owner: str, *, failed_at: float | None) -> None:
    """Gives the right back, if `owner` still has it, and notes whether it failed."""
    conn.execute(
        credentials.update()
        .where(credentials.c.id == credential_id, credentials.c.refreshing_by == owner)
        .values(refreshing_by=None, refreshing_until=None, refresh_failed_at=failed_at)
    )
