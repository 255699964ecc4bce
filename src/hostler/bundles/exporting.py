"""How does a session become a bundle? What counts at one point of it is read in pages and written to a nameless file.

Only a bundle that is complete is sent: a session that is deleted meanwhile, a damaged snapshot or a secret that is
found costs nobody half a file. The file has no name, so that nothing is left of it, whatever happens.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from sqlalchemy import Connection

from hostler.bundles.composing import Composing, Sources
from hostler.bundles.files import nameless
from hostler.bundles.limits import BundleLimits
from hostler.bundles.points import Point, StillHeld, as_it_is, at_checkpoint, refuse_shared_files
from hostler.bundles.searching import SecretSearch
from hostler.bundles.tar import BundleWrong
from hostler.bundles.writing import BundleWriter
from hostler.domain.errors import Conflict, HostlerError, InvalidRequest, SecretUnreadable
from hostler.engine.bundle_port import ExportOptions
from hostler.engine.checkpoints import Checkpoints
from hostler.engine.credentials import opened
from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.ports import Sealer
from hostler.engine.repositories import secret_context
from hostler.engine.snapshot_port import SnapshotDamaged, SnapshotReading
from hostler.engine.threads import in_thread
from hostler.store import files, vaults
from hostler.store.blobs import Blobs
from hostler.store.database import Database
from hostler.store.moments import moment
from hostler.store.sessions import SessionRow, get_session

_LOOKS: Final = 300
_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Exported:
    """A complete bundle, at its beginning."""

    file: BinaryIO
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Exporter:
    """Makes bundles of the sessions of all workspaces."""

    database: Database
    checkpoints: Checkpoints
    snapshots: SnapshotReading
    blobs: Blobs
    sealer: Sealer
    folder: Path
    """Of this host, for files without a name."""
    limits: BundleLimits
    producer: str
    own_secrets: Mapping[str, str]
    """Secrets of the server itself, and what to call each."""

    async def export(self, workspace: str, session_id: str, options: ExportOptions) -> Exported:
        """See `Bundles.export`."""
        session = await self.database.read(lambda c: get_session(c, workspace, session_id))
        refuse_shared_files(session, options.without)
        if options.checkpoint_id is not None:
            point = await self.database.read(
                lambda c: at_checkpoint(c, workspace, session_id, str(options.checkpoint_id))
            )
            return await self._write(point, options, point.checkpoint_id)
        point_or_none = await self._when_put_away(workspace, session_id)
        if point_or_none is not None:
            return await self._write(point_or_none, options, None)
        # The worker that has the session keeps its files, and says at which point they are.
        taken = await self.checkpoints.take(workspace, session_id, None, "export")
        try:
            point = await self.database.read(lambda c: at_checkpoint(c, workspace, session_id, taken.id))
            return await self._write(point, options, None)
        finally:
            with suppress(HostlerError):
                await self.checkpoints.delete(workspace, session_id, taken.id)

    async def _when_put_away(self, workspace: str, session_id: str) -> Point | None:
        """What `as_it_is` says once no worker has the session any more: until then outputs are still taken, and files
        are kept. Nothing announces the end of a lease, so it is looked for."""
        for _ in range(_LOOKS):
            try:
                return await self.database.read(lambda c: as_it_is(c, self.database.now(c), workspace, session_id))
            except StillHeld:
                await asyncio.sleep(_LOOK_SECONDS)
        raise Conflict("A worker is still putting the files of this session away: try again in a moment.")

    async def _write(self, point: Point, options: ExportOptions, checkpoint_id: str | None) -> Exported:
        secrets = await self.database.read(lambda c: self._secrets(c, point.session))
        search = SecretSearch.of({**self.own_secrets, **secrets})
        now = await self.database.read(self.database.now)
        file = await in_thread(partial(nameless, self.folder))
        try:
            texts = await in_thread(partial(nameless, self.folder))
            try:
                sources = Sources(self.database, self.snapshots, self.blobs)
                writer = await in_thread(partial(BundleWriter, file, self.producer, moment(now), self.limits))
                composing = Composing(
                    sources, point, options.without, checkpoint_id, moment(now), texts, search, writer
                )
                digest = await composing.all()
            finally:
                texts.close()
            if search.places:
                raise _held(search.places)
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
        except BaseException as error:
            file.close()
            if isinstance(error, BundleWrong):
                raise InvalidRequest(f"This session can't be exported: {error}") from None
            if isinstance(error, SnapshotDamaged):
                raise Conflict(f"The files of this session can't be read: {error}. Export it without=workspace.") from (
                    None
                )
            if isinstance(error, ObjectsUnavailable):
                raise Conflict(f"The files of this session can't be read now: {error}") from None
            raise
        return Exported(file, size, digest)

    def _secrets(self, conn: Connection, session: SessionRow) -> dict[str, str]:
        """What the session could use, and what to call each."""
        found: dict[str, str] = {}
        for vault_id in session.vault_ids:
            for row in vaults.active_credentials(conn, session.workspace_id, vault_id):
                with suppress(SecretUnreadable):  # then nobody could have used it here either
                    for secret in opened(self.sealer, row).values():
                        found[secret] = f"credential {row.id}"
        for resource in session.resources:
            sealed = files.get_secret(conn, session.id, resource["id"]) if "id" in resource else None
            if sealed is not None:
                with suppress(SecretUnreadable):
                    token = self.sealer.open(secret_context(resource["id"]), sealed).decode()
                    found[token] = f"the token of {resource['id']}"
        return found


def _held(places: Sequence[tuple[str, str]]) -> InvalidRequest:
    shown = "; ".join(f"{name[:200]} has the secret of {label}" for name, label in places[:5])
    more = f", and {len(places) - 5} more places" if len(places) > 5 else ""
    return InvalidRequest(
        f"Nothing was exported, because a bundle must not hold secrets: {json.dumps(shown)[1:-1]}{more}. Remove it "
        "from the files, or replace the secret in the vault (the old one is worth nothing then), and export again.",
        code="bundle_holds_secrets",
    )
