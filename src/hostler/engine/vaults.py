"""What may happen to vaults? Creation, change, archiving, deletion; and which of them a session may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id
from hostler.domain.sessions import Position
from hostler.domain.values import merge_metadata
from hostler.domain.vaults import CreateVault, UpdateVault
from hostler.engine.credentials import archive_in
from hostler.engine.ports import Announce
from hostler.store import vaults as rows
from hostler.store.database import Database
from hostler.store.pages import Position as StorePosition
from hostler.store.vaults import VaultRow
from hostler.store.webhooks import emit

View = dict[str, Any]


class Vaults:
    """The vaults of every workspace, as the wire shows them. NotFound for another workspace's."""

    def __init__(self, database: Database, announce: Announce = emit) -> None:
        self._database = database
        self._announce = announce

    async def create(self, workspace: str, request: CreateVault) -> View:
        vault_id = new_id("vlt")

        def unit(conn: Connection) -> VaultRow:
            now = self._database.now(conn)
            row = rows.create_vault(
                conn,
                now,
                id=vault_id,
                workspace_id=workspace,
                display_name=request.display_name,
                metadata=request.metadata,
            )
            self._announce(conn, now, workspace, "vault.created", {"id": vault_id})
            return row

        return vault_wire(await self._database.write(unit))

    async def retrieve(self, workspace: str, vault_id: str) -> View:
        return vault_wire(await self._database.read(lambda conn: rows.get_vault(conn, workspace, vault_id)))

    async def update(self, workspace: str, vault_id: str, patch: UpdateVault) -> View:
        """Raises InvalidRequest when it is archived."""

        def unit(conn: Connection) -> VaultRow:
            row = _active(rows.get_vault(conn, workspace, vault_id, for_update=True))
            name = row.display_name if patch.display_name is None else patch.display_name
            metadata = merge_metadata(row.metadata, patch.metadata)
            if (name, metadata) == (row.display_name, row.metadata):
                return row
            return rows.update_vault(conn, self._database.now(conn), row, display_name=name, metadata=metadata)

        return vault_wire(await self._database.write(unit))

    async def list(
        self, workspace: str, *, limit: int, after: Position | None = None, include_archived: bool = False
    ) -> tuple[list[View], bool]:
        """Vaults, newest first, and whether more follow."""
        place = None if after is None else StorePosition(*after)
        found = await self._database.read(
            lambda c: rows.list_vaults(c, workspace, limit=limit, after=place, include_archived=include_archived)
        )
        return [vault_wire(row) for row in found.rows], found.has_next

    async def archive(self, workspace: str, vault_id: str) -> View:
        """For good, with its credentials, whose secrets are gone. A second time changes nothing."""

        def unit(conn: Connection) -> VaultRow:
            row = rows.get_vault(conn, workspace, vault_id, for_update=True)
            if row.archived_at is not None:
                return row
            now = self._database.now(conn)
            for credential in rows.active_credentials(conn, workspace, vault_id):
                archive_in(conn, now, workspace, vault_id, credential.id, self._announce)
            archived = rows.archive_vault(conn, now, row)
            self._announce(conn, now, workspace, "vault.archived", {"id": vault_id})
            return archived

        return vault_wire(await self._database.write(unit))

    async def delete(self, workspace: str, vault_id: str) -> None:
        """With its credentials. Running sessions go on without it."""

        def unit(conn: Connection) -> None:
            row = rows.get_vault(conn, workspace, vault_id, for_update=True)
            now = self._database.now(conn)
            page = rows.list_credentials(conn, workspace, vault_id, limit=10_000, include_archived=True)
            for credential in page.rows:
                data = {"id": credential.id, "vault_id": vault_id}
                self._announce(conn, now, workspace, "vault_credential.deleted", data)
            rows.delete_vault(conn, row)
            self._announce(conn, now, workspace, "vault.deleted", {"id": vault_id})

        await self._database.write(unit)


# ------------------------------------------------------------------------------------------------------- for sessions


def session_vaults(conn: Connection, workspace: str, vault_ids: Sequence[str], *, self_hosted: bool) -> None:
    """Whether a new session may take these vaults. Raises NotFound, and InvalidRequest for what it couldn't use."""
    for vault_id in vault_ids:
        row = rows.get_vault(conn, workspace, vault_id)
        if row.archived_at is not None:
            raise InvalidRequest(f"vault_ids: vault {vault_id} is archived; leave it out, or name another one")
        if not self_hosted:
            continue
        for credential in rows.active_credentials(conn, workspace, vault_id):
            if credential.auth["type"] == "environment_variable":
                # Commands run in the user's own sandbox there, whose requests don't come by here.
                raise InvalidRequest(
                    f"vault_ids: vault {vault_id} holds the environment_variable credential {credential.id} "
                    f"({credential.auth['secret_name']}), which a self_hosted environment can't use: its requests "
                    "don't pass this server; keep it in a vault of its own, and leave that vault out"
                )


# ------------------------------------------------------------------------------------------------------------- shapes


def vault_wire(row: VaultRow) -> View:
    return {
        "id": row.id,
        "type": "vault",
        "display_name": row.display_name,
        "metadata": row.metadata,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "archived_at": row.archived_at,
    }


def _active(row: VaultRow) -> VaultRow:
    if row.archived_at is not None:
        raise InvalidRequest(f"vault {row.id} is archived and can't be changed; make another one")
    return row
