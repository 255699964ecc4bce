"""What do clients and workers say about units of work? The bodies of the work endpoints."""

from __future__ import annotations

from hostler.domain.values import MetadataPatch, Value


class StopWork(Value):
    """The body of `POST …/work/{id}/stop`."""

    force: bool | None = None


class UpdateWork(Value):
    """The body of `POST …/work/{id}`."""

    metadata: MetadataPatch
