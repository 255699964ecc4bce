"""`hostler environment list`: which environments are there, and how do they host their sessions?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected
from hostler.cli.terminal import plain_line


def list_environments(address: Address, *, limit: int, archived: bool, as_json: bool) -> None:
    """Newest first. JSON: one object, `{"environments": [<environment of the API>, …]}`."""
    with connected(address) as client:
        rows: list[dict[str, Any]] = []
        for environment in client.beta.environments.list(limit=min(limit, 100), include_archived=archived):
            rows.append(json.loads(environment.to_json()))
            if len(rows) >= limit:
                break
    if as_json:
        print(json.dumps({"environments": rows}))
        return
    if not rows:
        terminal.out().print("No environments yet. docs/how-to/choose-a-hosting-pattern.md shows how to make one.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("environment", "name", "type", "hosting", "created"):
        table.add_column(name, no_wrap=name == "environment", overflow="ellipsis")
    for row in rows:
        config = row["config"]
        words = (row["name"], config["type"], hosting(config), row["created_at"][:19])
        table.add_row(row["id"], *(plain_line(word, 60) for word in words))
    terminal.out().print(table)


def hosting(config: Mapping[str, Any]) -> str:
    """How sessions of an environment are hosted, in a few words."""
    if config["type"] != "cloud":
        return "your own machines"
    said = config.get("hosting") or {}
    words = [str(said.get("pattern") or "hybrid")]
    if (seconds := said.get("idle_timeout_seconds")) is not None:
        words.append(f"idle after {seconds} s")
    if version := said.get("cli_version"):
        words.append(f"claude {version}")
    return ", ".join(words)
