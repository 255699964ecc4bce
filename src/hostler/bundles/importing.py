"""How does a bundle become a session? Checked whole, then kept where nobody sees it, then one transaction.

What comes is written to a file without a name, and looked through to its end before anything is made of it. Pieces of
files and attached files are then kept as objects and blobs that no row names; a sweep removes them if it ends there.
The transaction makes the session with all that it has. Whatever happens before it ends, there is no session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sqlalchemy import Connection

from hostler.bundles.checking import check
from hostler.bundles.deciding import Chosen, Left, choose, definitions, undecided
from hostler.bundles.document import Document
from hostler.bundles.files import nameless
from hostler.bundles.keeping import Content
from hostler.bundles.limits import BundleLimits
from hostler.bundles.making import Making, Parts, shown_of
from hostler.bundles.renaming import Renaming
from hostler.bundles.tar import BundleWrong
from hostler.domain.errors import HostlerError, InvalidRequest, TooLarge
from hostler.domain.prices import Prices
from hostler.engine.bundle_port import ImportOptions
from hostler.engine.models import Models
from hostler.engine.object_port import ObjectsUnavailable
from hostler.engine.placement import Placement
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.resources import ResourceKinds
from hostler.engine.sessions import view
from hostler.engine.snapshot_port import (
    SnapshotDamaged,
    SnapshotMakers,
    SnapshotTooLarge,
)
from hostler.engine.threads import in_thread
from hostler.store.blobs import Blobs
from hostler.store.database import Database
from hostler.store.jsontext import encode
from hostler.store.sessions import SessionRow


class SequenceCheck(Protocol):
    def __call__(self, text: str, /) -> object:
        """Raises ValueError, TypeError, KeyError or AttributeError for what the gateway couldn't read."""
        ...


@dataclass(frozen=True, slots=True)
class Importer:
    """Makes sessions of bundles, in all workspaces."""

    database: Database
    snapshots: SnapshotMakers
    blobs: Blobs
    kinds: ResourceKinds
    quotas: WorkspaceQuotas
    placement: Placement
    models: Models
    prices: Prices
    check_sequence: SequenceCheck
    folder: Path
    """Of this host, for files without a name."""
    limits: BundleLimits
    most_file_bytes: int

    async def take_in(self, workspace: str, chunks: AsyncIterator[bytes], options: ImportOptions) -> dict[str, Any]:
        """See `Bundles.take_in`."""
        file = await in_thread(partial(nameless, self.folder))
        try:
            await self._receive(file, chunks)
            return await self._take_in(workspace, file, options)
        except BundleWrong as error:
            raise InvalidRequest(f"Nothing was imported: {error}", code="bundle_wrong") from None
        except RecursionError:
            message = "Nothing was imported: it has JSON that is nested too deep"
            raise InvalidRequest(message, code="bundle_wrong") from None
        except (SnapshotDamaged, SnapshotTooLarge) as error:
            raise InvalidRequest(f"Nothing was imported: {error}", code="bundle_wrong") from None
        except ObjectsUnavailable as error:
            raise HostlerError(f"Nothing was imported, because its files can't be kept now: {error}") from None
        finally:
            file.close()

    async def _receive(self, file: BinaryIO, chunks: AsyncIterator[bytes]) -> None:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self.limits.content_bytes:
                raise TooLarge(f"the bundle is larger than {self.limits.content_bytes >> 20} MiB (bundles.max_mb)")
            await in_thread(partial(file.write, chunk))

    async def _take_in(self, workspace: str, file: BinaryIO, options: ImportOptions) -> dict[str, Any]:
        found = await in_thread(lambda: check(file, self.limits))
        document = found.document
        if options.digest is not None and options.digest != found.digest:
            raise InvalidRequest(
                f"Nothing was imported: this is the bundle {found.digest}, and {options.digest} was asked for",
                code="bundle_wrong",
            )
        said = definitions(document, self.models)
        undecided(document, options)
        shown = shown_of(document)
        self._check_sequence(document)
        names = Renaming.of(found, keep=options.keep_ids)
        survey = await self.placement.survey()
        content = Content(
            self.snapshots, self.blobs, self.limits, self.most_file_bytes, workspace, document, names, found.times
        )
        with await in_thread(partial(nameless, self.folder)) as texts:
            await content.all(file, texts)

            def unit(conn: Connection) -> tuple[SessionRow, Chosen, list[Left]]:
                now = self.database.now(conn)
                self.quotas.admit_session(conn, now, workspace)
                chosen = choose(conn, now, workspace, document, said, options, self.models)
                parts = Parts(self.kinds, self.quotas, self.models, self.prices)
                made = Making(parts, conn, now, workspace, found, names, content, chosen, survey)
                return made.session(shown, options), chosen, made.left

            row, chosen, left = await self.database.write(unit)
        now = await self.database.read(self.database.now)
        return {
            "type": "session_import",
            "id": row.id,
            "digest": found.digest,
            "session": view(row, now),
            "created": chosen.created,
            "left": [one.wire() for one in (*chosen.left, *left)],
        }

    def _check_sequence(self, document: Document) -> None:
        try:
            if document.sequence is not None:
                self.check_sequence(encode(document.sequence))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BundleWrong("session.json: sequence can't be read") from None
