"""A real server on loopback for the official client, on both databases. Each test gets a workspace of its own."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest
from apikit_server import Access, RunningServer

from hostler.testing.postgres import PostgresCluster

DIALECTS = ("sqlite", "postgresql")


@pytest.fixture(scope="session", params=DIALECTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    if request.param == "sqlite":
        with RunningServer(f"sqlite:///{tmp_path_factory.mktemp('api') / 'hostler.db'}") as running:
            yield running
    else:
        with PostgresCluster() as cluster, RunningServer(cluster.create_database("api")) as running:
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
