"""One server for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_processes import Server, start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("state"))
    try:
        yield running
    finally:
        running.stop()
