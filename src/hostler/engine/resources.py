"""How does what a client wants mounted become a resource of a session? Each kind of resource knows its own part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection

from hostler.domain.errors import InvalidRequest
from hostler.domain.resources import FileResource, GithubResource, MemoryResource

Resource = dict[str, Any]
"""A resource as the wire shows it."""


class ResourceKind(Protocol):
    """What `engine.sessions` asks of one kind."""

    def attach(
        self,
        connection: Connection,
        now: float,
        workspace: str,
        session_id: str,
        request: Any,
        taken: Sequence[Resource],
    ) -> Resource:
        """Within the transaction that makes the session (or adds to it): check, keep what is secret, show the rest.

        `taken` are the resources before this one: a mount path may be used once. Raises InvalidRequest or NotFound.
        """
        ...

    def copy(
        self, connection: Connection, now: float, workspace: str, session_id: str, resource: Resource, copy_id: str
    ) -> Resource | None:
        """Within the transaction that forks `session_id` as `copy_id`: the resource as the fork has it, under the same
        id and path. None: what it stood for is gone.
        """
        ...

    def detach(self, connection: Connection, workspace: str, session_id: str, resource: Resource) -> None:
        """Within the transaction that removes the resource, or deletes the session."""
        ...


class ResourceKinds:
    """The kinds of resource that this server has, by `type`."""

    def __init__(self, kinds: Mapping[str, ResourceKind]) -> None:
        self._kinds = kinds

    def attach(
        self,
        connection: Connection,
        now: float,
        workspace: str,
        session_id: str,
        requests: Sequence[FileResource | GithubResource | MemoryResource],
        *,
        self_hosted: bool,
        taken: Sequence[Resource] = (),
    ) -> list[Resource]:
        """The new resources, in order. All or nothing, as the transaction is."""
        made: list[Resource] = []
        for request in requests:
            if self_hosted and request.type != "memory_store":
                raise InvalidRequest(f"a {request.type} can't be mounted in a self_hosted environment")
            kind = self._kinds.get(request.type)
            if kind is None:
                raise InvalidRequest(f"resources of type {request.type} are not supported by this server yet")
            made.append(kind.attach(connection, now, workspace, session_id, request, [*taken, *made]))
        return made

    def copy(
        self,
        connection: Connection,
        now: float,
        workspace: str,
        session_id: str,
        resources: Sequence[Resource],
        copy_id: str,
    ) -> list[Resource]:
        """The resources of a session as its fork `copy_id` has them. What is gone by now is left out."""
        made = (
            self._kinds[resource["type"]].copy(connection, now, workspace, session_id, resource, copy_id)
            for resource in resources
        )
        return [resource for resource in made if resource is not None]

    def detach(self, connection: Connection, workspace: str, session_id: str, resources: Sequence[Resource]) -> None:
        """Give up what the resources hold. They stay listed until the caller removes them."""
        for resource in resources:
            kind = self._kinds.get(resource["type"])
            if kind is not None:
                kind.detach(connection, workspace, session_id, resource)


def check_free(path: str, type_: str, taken: Sequence[Resource]) -> None:
    """Raises InvalidRequest when something is mounted at, above or below `path`, except a file within a repository."""
    for resource in taken:
        other = resource["mount_path"]
        pair = (type_, resource["type"])
        if path == other:
            raise InvalidRequest(f"mount_path: {path} is used by another resource; name another path")
        if path.startswith(other + "/") and pair != ("file", "github_repository"):
            raise InvalidRequest(f"mount_path: {path} lies inside {other}, which is mounted already; name another path")
        if other.startswith(path + "/") and pair != ("github_repository", "file"):
            raise InvalidRequest(f"mount_path: {other} is mounted already, inside {path}; name another path")
