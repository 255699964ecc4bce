"""`hostler environment key`: make, list and revoke keys of self-hosted environments, directly in the database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.keys import in_database, this_user
from hostler.cli.problem import WRONG, Problem, spelled
from hostler.cli.terminal import plain_line
from hostler.engine.environment_keys import key_wire, make_key, revoke_key
from hostler.store import environment_keys as keys

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hostler.config import Settings

MOST_SHOWN = 1000


def create(settings: Settings, environment: str, name: str, *, as_json: bool) -> None:
    """JSON: `{"id", "environment_id", "name", "created_at", …, "secret"}`. The secret is shown now and never again."""
    if not name.strip():
        raise Problem(
            "a key needs a name to recognise it by",
            next_command=f"hostler environment key create {environment} build-machine",
            code=WRONG,
        )

    def unit(now: float, conn: Connection) -> tuple[keys.EnvironmentKeyRow, str]:
        return make_key(conn, now, this_user(), keys.workspace_of(conn, environment), environment, name)

    help_ = "hostler environment key create --help"
    row, secret = in_database(settings, unit, missing=help_, wrong=help_)
    if as_json:
        print(json.dumps({**key_wire(row), "secret": secret}))
        return
    print(secret)
    terminal.err().print(
        f"{row.id} ({plain_line(name)}). Keep the secret now: it is not stored and can't be shown again.", style="dim"
    )


def list_all(settings: Settings, environment: str, *, as_json: bool) -> None:
    """JSON: `{"keys": [{"id", "environment_id", "name", "hint", "created_at", "last_used_at", "revoked_at"}, …]}`."""

    def unit(_: float, conn: Connection) -> Any:
        return keys.list_environment_keys(conn, keys.workspace_of(conn, environment), environment, limit=MOST_SHOWN)

    rows = in_database(settings, unit, missing="hostler environment key list --help").rows
    if as_json:
        print(json.dumps({"keys": [key_wire(row) for row in rows]}))
        return
    if not rows:
        create_one = spelled(f"hostler environment key create {environment} build-machine")
        terminal.out().print(f"No keys yet. Try: {create_one}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("key", "name", "ends with", "created", "last used", "state"):
        table.add_column(title, no_wrap=title == "key")
    for row in rows:
        used = (row.last_used_at or "never")[:16]
        state = f"revoked {row.revoked_at[:16]}" if row.revoked_at else "valid"
        table.add_row(row.id, plain_line(row.name, 40), row.hint, row.created_at[:16], used, state)
    terminal.out().print(table)


def revoke(settings: Settings, environment: str, key_id: str, *, as_json: bool) -> None:
    """JSON: the key, as in the list."""

    def unit(now: float, conn: Connection) -> keys.EnvironmentKeyRow:
        return revoke_key(conn, now, this_user(), keys.workspace_of(conn, environment), environment, key_id)

    row = in_database(settings, unit, missing=f"hostler environment key list {environment}")
    if as_json:
        print(json.dumps(key_wire(row)))
    else:
        terminal.out().print(f"{row.id} ({plain_line(row.name)}) is revoked.")
