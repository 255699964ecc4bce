"""What may be done with the resources of a session that exists? Look, add a file, renew a token, take one away.

What changes is mounted with the next process: the worker sees that the session's resources are not the ones that its
process was started with, and starts another one at the next turn.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.resources import FileResource, UpdateResource
from hostler.engine.repositories import RepositoryKind
from hostler.engine.resources import Resource, ResourceKinds
from hostler.store import sessions as rows
from hostler.store.database import Database
from hostler.store.moments import moment
from hostler.store.sessions import SessionRow, SessionUpdate

_Changed = tuple[list[Resource], Resource]
"""All resources of a session as they become, and the one that it is about."""


class SessionResources:
    """Every method raises NotFound for a session of another workspace."""

    def __init__(self, database: Database, kinds: ResourceKinds, repositories: RepositoryKind) -> None:
        self._database = database
        self._kinds = kinds
        self._repositories = repositories

    async def list(self, workspace: str, session_id: str) -> list[Resource]:
        """In the order in which they were added. Memory stores have no id and are shown like the others."""
        row = await self._database.read(lambda c: rows.get_session(c, workspace, session_id))
        return row.resources

    async def retrieve(self, workspace: str, session_id: str, resource_id: str) -> Resource:
        return _found(await self.list(workspace, session_id), resource_id)

    async def add(self, workspace: str, session_id: str, request: FileResource) -> Resource:
        """Mounted at the next turn."""

        def change(connection: Connection, now: float, row: SessionRow) -> _Changed:
            (made,) = self._kinds.attach(
                connection,
                now,
                workspace,
                session_id,
                [request],
                self_hosted=row.environment["config"].get("type") == "self_hosted",
                taken=row.resources,
            )
            return [*row.resources, made], made

        return await self._change(workspace, session_id, change)

    async def update(self, workspace: str, session_id: str, resource_id: str, request: UpdateResource) -> Resource:
        """A new token. A repository that could not be cloned with the old one is tried again at the next turn."""

        def change(connection: Connection, now: float, row: SessionRow) -> _Changed:
            resource = _found(row.resources, resource_id)
            if resource["type"] != "github_repository":
                raise InvalidRequest(f"{resource_id} is a {resource['type']}; only a github_repository has a token")
            self._repositories.keep_token(connection, session_id, resource_id, request.authorization_token)
            changed = {**resource, "updated_at": moment(now)}
            return [changed if one.get("id") == resource_id else one for one in row.resources], changed

        return await self._change(workspace, session_id, change)

    async def delete(self, workspace: str, session_id: str, resource_id: str) -> None:
        """Not mounted any more from the next turn on."""

        def change(connection: Connection, now: float, row: SessionRow) -> _Changed:
            resource = _found(row.resources, resource_id)
            self._kinds.detach(connection, workspace, session_id, [resource])
            return [one for one in row.resources if one.get("id") != resource_id], resource

        await self._change(workspace, session_id, change)

    async def _change(
        self,
        workspace: str,
        session_id: str,
        change: Callable[[Connection, float, SessionRow], _Changed],
    ) -> Resource:
        def unit(connection: Connection) -> Resource:
            row = rows.lock_session(connection, workspace, session_id)
            if row.archived_at is not None:
                raise InvalidRequest("This session is archived; its resources can't be changed. Create a new session.")
            now = self._database.now(connection)
            resources, result = change(connection, now, row)
            update = SessionUpdate(resources=resources)
            rows.update_session_fields(connection, now, workspace, session_id, update)
            return result

        return await self._database.write(unit)


def _found(resources: list[Resource], resource_id: str) -> Resource:
    for resource in resources:
        if resource.get("id") == resource_id:
            return resource
    raise NotFound(f"resource {resource_id} does not exist in this session")
