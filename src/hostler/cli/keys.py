"""`hostler key` and `hostler workspace`: make, list and revoke API keys, directly in the database.

This works while a server runs, and while none does. A running server feels a revocation within two seconds, and knows
a new key at once. What is changed here is in the audit, under the name of the user of this host.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.problem import WRONG, Problem, spelled
from hostler.cli.terminal import plain_line
from hostler.domain.administration import CreateKey, NameWorkspace
from hostler.domain.errors import HostlerError, InvalidRequest, NotFound
from hostler.domain.principals import DEFAULT_WORKSPACE, SCOPES, Actor
from hostler.domain.values import parse
from hostler.engine import administration
from hostler.store import keys
from hostler.store.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hostler.config import Settings

T = TypeVar("T")

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def create(
    settings: Settings,
    name: str,
    *,
    scopes: Sequence[str] = (),
    expires_in: str | None = None,
    workspace: str | None = None,
    as_json: bool,
) -> None:
    """JSON: the key as the API shows it, with its `secret`. The secret is shown now and never again."""
    wanted: dict[str, Any] = {"name": name, "scopes": list(scopes) or list(SCOPES)}
    if expires_in is not None:
        wanted["expires_in_seconds"] = _seconds(expires_in)
    try:
        request = parse(CreateKey, wanted)
    except InvalidRequest as error:
        raise Problem(error.message, next_command="hostler key create my-app", code=WRONG) from error
    of = workspace or DEFAULT_WORKSPACE
    made = in_database(settings, lambda now, c: administration.create_key(c, now, this_user(), of, request))
    if as_json:
        print(json.dumps(made))
        return
    print(made["secret"])
    until = f" It expires at {made['expires_at'][:16]}." if made["expires_at"] else ""
    terminal.err().print(
        f"{made['id']} ({plain_line(name)}): {', '.join(made['scopes'])}.{until} "
        "Keep the secret now: it is not stored and can't be shown again.",
        style="dim",
    )


def list_all(settings: Settings, *, as_json: bool) -> None:
    """JSON: `{"keys": [<key of the API>, …]}`, oldest first."""
    now, rows = in_database(settings, lambda now, c: (now, keys.list_keys(c)))
    if as_json:
        print(json.dumps({"keys": [administration.key_wire(row) for row in rows]}))
        return
    if not rows:
        terminal.out().print(f"No keys yet. Try: {spelled('hostler key create my-app')}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("key", "name", "may", "workspace", "ends with", "created", "last used", "state"):
        table.add_column(title, no_wrap=title == "key")
    for row in rows:
        used = (row.last_used_at or "never")[:16]
        if row.revoked_at:
            state = f"revoked {row.revoked_at[:16]}"
        elif row.expires_at:
            state = f"{'valid until' if row.valid(now) else 'expired'} {row.expires_at[:16]}"
        else:
            state = "valid"
        may = next(scope for scope in SCOPES if scope in row.scopes)
        table.add_row(
            row.id, plain_line(row.name, 40), may, row.workspace_id, row.hint, row.created_at[:16], used, state
        )
    terminal.out().print(table)


def revoke(settings: Settings, key_id: str, *, as_json: bool) -> None:
    """JSON: the key, as in the list."""
    row = in_database(settings, lambda now, c: administration.revoke_key(c, now, this_user(), None, key_id))
    if as_json:
        print(json.dumps(row))
    else:
        terminal.out().print(f"{row['id']} ({plain_line(row['name'])}) is revoked.")


def create_workspace(settings: Settings, name: str, *, as_json: bool) -> None:
    """JSON: the workspace as the API shows it."""
    try:
        request = parse(NameWorkspace, {"name": name})
    except InvalidRequest as error:
        raise Problem(error.message, next_command="hostler workspace create my-team", code=WRONG) from error
    made = in_database(settings, lambda now, c: administration.create_workspace(c, now, this_user(), request.name))
    if as_json:
        print(json.dumps(made))
        return
    print(made["id"])
    command = spelled(f"hostler key create my-app --workspace {made['id']}")
    terminal.err().print(f"{plain_line(name)} has no keys yet. Try: {command}", style="dim")


def list_workspaces(settings: Settings, *, as_json: bool) -> None:
    """JSON: `{"workspaces": [<workspace of the API>, …]}`, oldest first."""
    rows = in_database(settings, lambda _, c: keys.list_workspaces(c))
    if as_json:
        print(json.dumps({"workspaces": [administration.workspace_wire(row) for row in rows]}))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("workspace", "name", "created", "state"):
        table.add_column(title, no_wrap=title == "workspace")
    for row in rows:
        state = f"archived {row.archived_at[:16]}" if row.archived_at else "open"
        table.add_row(row.id, plain_line(row.name, 60), row.created_at[:16], state)
    terminal.out().print(table)


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,10})([smhd])", text)
    if found is None:
        raise Problem(
            f"--expires-in {text!r} is not a length of time",
            next_command="hostler key create my-app --expires-in 30d   (or 12h, 90m, 300s)",
            code=WRONG,
        )
    return int(found[1]) * _SECONDS[found[2]]


def this_user() -> Actor:
    try:
        return Actor("command_line", getpass.getuser())
    except (KeyError, OSError):  # a uid without a name
        return Actor("command_line", "unknown")


def in_database(
    settings: Settings,
    unit: Callable[[float, Connection], T],
    *,
    missing: str | None = None,
    wrong: str = "hostler key --help",
) -> T:
    """Run one unit of work in the database of these settings, with the database's time.

    missing, wrong  the command to name when something does not exist, or was asked for in the wrong way.
    """

    async def work() -> T:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        database = await Database.open(settings.store_url, durable=settings.store.durable, pool_size=1)
        try:
            return await database.write(lambda connection: unit(database.now(connection), connection))
        finally:
            await database.close()

    try:
        return asyncio.run(work())
    except NotFound as error:
        listing = "hostler workspace list" if error.message.startswith("workspace") else "hostler key list"
        raise Problem(error.message, next_command=missing or listing) from error
    except InvalidRequest as error:
        raise Problem(error.message, next_command=wrong, code=WRONG) from error
    except HostlerError as error:
        raise Problem(error.message, next_command="hostler doctor") from error
    except OSError as error:
        raise Problem(f"can't open the database: {error}", next_command="hostler doctor") from error
