"""`hostler key`: make, list and revoke API keys, directly in the database.

This works while a server runs, and while none does. A running server feels a revocation within two seconds, and knows
a new key at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.problem import WRONG, Problem, spelled
from hostler.cli.terminal import plain_line
from hostler.domain.errors import HostlerError, InvalidRequest, NotFound
from hostler.store import keys
from hostler.store.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hostler.config import Settings

T = TypeVar("T")


def create(settings: Settings, name: str, *, as_json: bool) -> None:
    """JSON: `{"id", "name", "workspace_id", "created_at", "secret"}`. The secret is shown now and never again."""
    if not name.strip():
        raise Problem("a key needs a name to recognise it by", next_command="hostler key create my-app", code=WRONG)
    row, secret = _in(settings, lambda db, c: keys.create_key(c, db.now(c), keys.DEFAULT_WORKSPACE, name))
    if as_json:
        print(json.dumps({**_facts(row), "secret": secret}))
        return
    print(secret)
    terminal.err().print(
        f"{row.id} ({plain_line(name)}). Keep the secret now: it is not stored and can't be shown again.", style="dim"
    )


def list_all(settings: Settings, *, as_json: bool) -> None:
    """JSON: `{"keys": [{"id", "name", "workspace_id", "hint", "created_at", "last_used_at", "revoked_at"}, …]}`."""
    rows = _in(settings, lambda _, c: keys.list_keys(c))
    if as_json:
        print(json.dumps({"keys": [_facts(row) for row in rows]}))
        return
    if not rows:
        terminal.out().print(f"No keys yet. Try: {spelled('hostler key create my-app')}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("key", "name", "ends with", "created", "last used", "state"):
        table.add_column(title, no_wrap=title == "key")
    for row in rows:
        used = (row.last_used_at or "never")[:16]
        state = f"revoked {row.revoked_at[:16]}" if row.revoked_at else "valid"
        table.add_row(row.id, plain_line(row.name, 40), row.hint, row.created_at[:16], used, state)
    terminal.out().print(table)


def revoke(settings: Settings, key_id: str, *, as_json: bool) -> None:
    """JSON: the key, as in the list."""
    row = _in(settings, lambda db, c: keys.revoke_key(c, db.now(c), key_id))
    if as_json:
        print(json.dumps(_facts(row)))
    else:
        terminal.out().print(f"{row.id} ({plain_line(row.name)}) is revoked.")


def _facts(row: keys.KeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "workspace_id": row.workspace_id,
        "hint": row.hint,
        "created_at": row.created_at,
        "last_used_at": row.last_used_at,
        "revoked_at": row.revoked_at,
    }


def _in(settings: Settings, unit: Callable[[Database, Connection], T]) -> T:
    return in_database(settings, unit, next_command="hostler key list")


def in_database(settings: Settings, unit: Callable[[Database, Connection], T], *, next_command: str) -> T:
    """Run one unit of work in the database of these settings. What is wrong with it names `next_command`."""

    async def work() -> T:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        database = await Database.open(settings.store_url, durable=settings.store.durable, pool_size=1)
        try:
            return await database.write(lambda connection: unit(database, connection))
        finally:
            await database.close()

    try:
        return asyncio.run(work())
    except NotFound as error:
        raise Problem(error.message, next_command=next_command) from error
    except InvalidRequest as error:
        raise Problem(error.message, next_command=next_command, code=WRONG) from error
    except HostlerError as error:
        raise Problem(error.message, next_command="hostler doctor") from error
    except OSError as error:
        raise Problem(f"can't open the database: {error}", next_command="hostler doctor") from error
