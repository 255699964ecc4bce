"""A real server on loopback for the official client, on both databases. Each test gets a workspace of its own."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anthropic
import pytest
from apikit_queue import QueueServer, Yard
from apikit_server import Access, RunningServer

from hostler.testing.postgres import PostgresCluster

DIALECTS = ("sqlite", "postgresql")


@contextmanager
def fresh(cluster: PostgresCluster, name: str) -> Iterator[str]:
    """A database for the block. More than once in a process: pytest ends a server when it is not needed for a while."""
    yield cluster.create_database(name, template="migrated")
    cluster.drop_database(name)


@pytest.fixture(scope="session", params=DIALECTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    if request.param == "sqlite":
        with RunningServer(f"sqlite:///{tmp_path_factory.mktemp('api') / 'hostler.db'}") as running:
            yield running
    else:
        cluster: PostgresCluster = request.getfixturevalue("cluster")
        with fresh(cluster, "api") as url, RunningServer(url) as running:
            yield running


@pytest.fixture
def access(server: RunningServer) -> Access:
    workspace, key = server.new_workspace()
    return Access(server.base_url, workspace, key)


@pytest.fixture
def stranger(server: RunningServer) -> Access:
    """Somebody else, with a workspace of their own."""
    workspace, key = server.new_workspace()
    return Access(server.base_url, workspace, key)


@pytest.fixture
def client(access: Access) -> Iterator[anthropic.Anthropic]:
    with access.client() as made:
        yield made


OLD_GENERATION = "anthropic==0.121.0"


@pytest.fixture(scope="session")
def old_generation() -> Path:
    """A directory with the last client of the old generation and what it needs. Installed once, then kept."""
    cache = Path(__file__).parents[2] / ".cache"
    cache.mkdir(exist_ok=True)
    target = cache / OLD_GENERATION.replace("==", "-")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            fresh = cache / f"{target.name}.partial"
            shutil.rmtree(fresh, ignore_errors=True)
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*install, "--target", str(fresh), OLD_GENERATION], check=True, timeout=300)
            fresh.rename(target)
    return target


@pytest.fixture(scope="session", params=DIALECTS)
def queue_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueServer]:
    if request.param == "sqlite":
        with QueueServer(f"sqlite:///{tmp_path_factory.mktemp('queue') / 'hostler.db'}") as running:
            yield running
    else:
        cluster: PostgresCluster = request.getfixturevalue("cluster")
        with fresh(cluster, "queue") as url, QueueServer(url) as running:
            yield running


@pytest.fixture
def yard(queue_server: QueueServer) -> Yard:
    workspace, key = queue_server.new_workspace()
    return Yard(queue_server, Access(queue_server.base_url, workspace, key))
