"""Fixtures of the ladder tests: engines that belong to the test run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Engine, docker, podman


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    with docker() as engine:
        yield engine


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[Engine]:
    with podman() as engine:
        yield engine


TEST_SECONDS = 600
"""For one test with its fixtures: the first on a machine builds the base image, the last removes the engines' data."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))
    if os.geteuid() != 0:
        for item in items:
            if "docker_engine" in getattr(item, "fixturenames", ()) or "podman_engine" in getattr(
                item, "fixturenames", ()
            ):
                item.add_marker(pytest.mark.skip(reason="an engine of the tests' own needs root"))
