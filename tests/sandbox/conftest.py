"""Fixtures of the sandbox tests."""

from __future__ import annotations

import os

import pytest
from sandbox_farm import farm, runner

__all__ = ["farm", "runner"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("needs_root"):
                item.add_marker(pytest.mark.skip(reason="one host uid per sandbox needs a root worker"))
