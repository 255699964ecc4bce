"""What is installed for an environment's sessions? The `packages` of its configuration."""

from __future__ import annotations

from typing import Final

from hostler.domain.values import problem

PACKAGE_MANAGERS: Final = ("apt", "cargo", "gem", "go", "npm", "pip")


def no_packages(value: object) -> object:
    if isinstance(value, dict):
        unknown = sorted(set(value) - {*PACKAGE_MANAGERS, "type"})
        if unknown:
            raise problem(f"has the unknown key {unknown[0]}; remove it")
        wanted = [manager for manager in PACKAGE_MANAGERS if value.get(manager)]
        if wanted:
            raise problem(
                f"lists {wanted[0]} packages, which this server can't install yet; leave `packages` out and install "
                "them in a session instead"
            )
        return None
    return value
