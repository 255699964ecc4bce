"""How does what a server counts come to those who read it?"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from importlib.metadata import version

from prometheus_client import start_http_server
from sqlalchemy import Connection

from hostler.api.app import own_endpoints, served_methods
from hostler.config import Settings
from hostler.domain.errors import HostlerError, InvalidRequest
from hostler.engine.model_port import Upstreams
from hostler.engine.reconciling import Reconciler
from hostler.store import admission
from hostler.store.database import Database
from hostler.telemetry.metrics import Metrics

log = logging.getLogger("hostler.metrics")

MOST_WAITING = 1000
"""Of each environment."""


def open_metrics(upstreams: Iterable[str]) -> Metrics:
    own = (f"hostler.{name}" for name in own_endpoints())
    return Metrics(version("hostler"), endpoints=(*sorted(served_methods()), *sorted(own)), upstreams=upstreams)


@contextlib.contextmanager
def exposed(settings: Settings, metrics: Metrics) -> Iterator[int | None]:
    """Answers Prometheus from a thread of its own, so that a server that hangs can still be looked at. The port."""
    terms = settings.metrics
    if not terms.port:
        yield None
        return
    try:
        server, thread = start_http_server(terms.port, terms.host, metrics.registry)
    except OSError as error:
        raise InvalidRequest(
            f"metrics.port {terms.port} on {terms.host}: {error.strerror or error}; choose another, or 0 for none"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def watch(
    settings: Settings, metrics: Metrics, database: Database, upstreams: Upstreams, reconciler: Reconciler
) -> None:
    """Until cancelled: what waits, whether the database answers, how upstreams do, and whether ledgers agree."""
    differed = 0

    def unit(conn: Connection) -> tuple[int, float]:
        now = database.now(conn)
        found = [row for row in admission.waiting(conn, now, most=MOST_WAITING) if row.need == "turn"]
        return len(found), max((now - row.since for row in found), default=0.0)

    while True:
        metrics.upstreams(upstreams.health())
        metrics.differed(reconciler.mismatched - differed)
        differed = reconciler.mismatched
        try:
            waiting, oldest = await database.read(unit)
        except (HostlerError, OSError):
            metrics.database(up=False)
        else:
            metrics.database(up=True)
            metrics.queue(waiting, max(0.0, oldest))
        await asyncio.sleep(settings.metrics.look_seconds)
