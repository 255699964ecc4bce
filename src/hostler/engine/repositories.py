"""How does a repository come into a session? Cloned by the host, mounted writable, its token never inside.

The clone stays as long as the session: what the agent changes in it is there again after a restart. When it can't be
cloned the session goes on without it, the log says why, and the next process tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from hostler.domain import events as ev
from hostler.domain.errors import InvalidRequest, SecretUnreadable
from hostler.domain.ids import new_id
from hostler.domain.resources import UPLOADS, WORKSPACE, GithubResource, repository_name
from hostler.engine.attachments import Attachment, Complaint
from hostler.engine.homes import remove_tree
from hostler.engine.mountpoints import MountPoints, Surface, repository_folder
from hostler.engine.ports import CloneFailed, CloneOrder, CloneProblem, Cloner, Sealer
from hostler.engine.resources import Resource, check_free
from hostler.engine.sandbox_port import Mount
from hostler.store import files as rows
from hostler.store.database import Database
from hostler.store.moments import moment
from hostler.store.sessions import SessionRow

log = logging.getLogger("hostler.repositories")

_ERRORS: dict[CloneProblem, ev.RepositoryError] = {
    "authentication": "repository_authentication_error",
    "forbidden": "repository_forbidden_error",
    "not_found": "repository_not_found_error",
    "checkout": "repository_checkout_error",
    "clone": "repository_clone_error",
}


def secret_context(resource_id: str) -> str:
    """What the token of a resource is sealed for."""
    return f"session_resource:{resource_id}"


class RepositoryKind:
    """Resources of type `github_repository`. Implements `ResourceKind`."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def attach(
        self,
        connection: Connection,
        now: float,
        workspace: str,
        session_id: str,
        request: GithubResource,
        taken: Sequence[Resource],
    ) -> Resource:
        path = request.mount_path or f"{WORKSPACE}/{repository_name(request.url)}"
        if path.startswith(UPLOADS + "/"):
            raise InvalidRequest(f"mount_path: {UPLOADS} is read-only; mount a repository below {WORKSPACE}")
        check_free(path, "github_repository", taken)
        resource_id = new_id("sesrsc")
        if request.authorization_token is not None:
            self.keep_token(connection, session_id, resource_id, request.authorization_token)
        return {
            "id": resource_id,
            "type": "github_repository",
            "url": request.url,
            "checkout": None if request.checkout is None else request.checkout.model_dump(mode="json"),
            "mount_path": path,
            "created_at": moment(now),
            "updated_at": moment(now),
        }

    def detach(self, connection: Connection, workspace: str, session_id: str, resource: Resource) -> None:
        rows.drop_secret(connection, session_id, resource["id"])

    def copy(
        self, connection: Connection, now: float, workspace: str, session_id: str, resource: Resource, copy_id: str
    ) -> Resource | None:
        """The same repository, under the same id: the clone lies in a folder of that name."""
        rows.copy_secret(connection, session_id, resource["id"], copy_id)
        return resource

    def keep_token(self, connection: Connection, session_id: str, resource_id: str, token: str) -> None:
        """In place of the one before."""
        sealed = self._sealer.seal(secret_context(resource_id), token.encode())
        rows.put_secret(connection, session_id, resource_id, sealed)


class Repositories(Attachment):
    """Clones what a session wants and does not have yet, each into `repositories/<resource>` of its home."""

    def __init__(self, database: Database, cloner: Cloner, sealer: Sealer) -> None:
        self._database = database
        self._cloner = cloner
        self._sealer = sealer
        self._complaints: defaultdict[str, list[Complaint]] = defaultdict(list)

    async def lay_out(self, session: SessionRow, home: Path) -> Sequence[Mount]:
        wanted = [resource for resource in session.resources if resource["type"] == "github_repository"]
        folder = home / "repositories"
        if not wanted and not folder.exists():
            return ()
        await asyncio.to_thread(self._tidy, folder, {resource["id"] for resource in wanted})
        self._complaints.pop(session.id, None)
        mounts = []
        for resource in wanted:
            target = repository_folder(home, resource["id"])
            if not target.exists():
                try:
                    await self._clone(session, resource, target)
                except CloneFailed as error:
                    log.warning("not_cloned", extra={"session": session.id, "kind": error.kind})
                    self._complain(session.id, error, resource["url"])
                    continue
            mounts.append(Mount(target, resource["mount_path"], writable=True))
        points = MountPoints(home / "repositories" / "mount-points.json")
        surface = [Surface(WORKSPACE, home / "workspace")]
        paths = [mount.inside for mount in mounts]
        await asyncio.to_thread(points.prepare, surface, paths, folders=True)
        return mounts

    def complaints(self, session_id: str) -> Sequence[Complaint]:
        return self._complaints.pop(session_id, ())

    async def _clone(self, session: SessionRow, resource: Resource, target: Path) -> None:
        sealed = await self._database.read(lambda c: rows.get_secret(c, session.id, resource["id"]))
        try:
            token = None if sealed is None else self._sealer.open(secret_context(resource["id"]), sealed)
        except SecretUnreadable:
            raise CloneFailed(
                "authentication", "The token of this repository can't be opened with this server's key; send it again."
            ) from None
        checkout = resource["checkout"] or {}
        named = (checkout.get("name"), checkout.get("sha"))
        await self._cloner.clone(CloneOrder(session.workspace_id, resource["url"], *named, token, target))

    def _complain(self, session_id: str, error: CloneFailed, url: str) -> None:
        kind, message = _ERRORS[error.kind], error.message
        self._complaints[session_id].append(lambda at: ev.repository_error(at, kind, message, url))

    @staticmethod
    def _tidy(folder: Path, wanted: set[str]) -> None:
        """Remove clones of resources that are gone, and what a crash has left of half a clone."""
        folder.mkdir(mode=0o711, exist_ok=True)
        for entry in folder.iterdir():
            if entry.is_dir() and entry.name not in wanted:
                remove_tree(entry)
