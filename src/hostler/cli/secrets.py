"""`hostler secrets`: which master keys seal the stored secrets, and how they are changed.

All three commands work while a server runs, and while none does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from hostler.cli import terminal
from hostler.cli.problem import WRONG, Problem, spelled
from hostler.domain.errors import HostlerError, InvalidRequest, SecretUnreadable
from hostler.sealing import rotation
from hostler.sealing.masterkeys import MasterKeys
from hostler.store.database import Database
from hostler.store.sealed import count_by_key

if TYPE_CHECKING:
    from hostler.config import Settings

T = TypeVar("T")


def status(settings: Settings, *, as_json: bool) -> None:
    """JSON: `{"keys": [{"id", "current", "here", "secrets"}, …]}`. `here`: whether this server has the key."""

    async def look(database: Database, keys: MasterKeys) -> list[dict[str, object]]:
        counts, here = await database.read(count_by_key), list(keys.ids())
        return [
            {"id": key, "current": here[:1] == [key], "here": key in here, "secrets": counts.get(key, 0)}
            for key in [*here, *sorted(set(counts) - set(here))]
        ]

    found = _in(settings, look)
    if as_json:
        print(json.dumps({"keys": found}))
        return
    if not found:
        terminal.out().print("No master key yet: it is made when the first secret is stored.")
    for key in found:
        state = "current" if key["current"] else "older" if key["here"] else "MISSING: these secrets can't be opened"
        terminal.out().print(f"{key['id']}  {key['secrets']} secrets  {state}", highlight=False)


def rotate(settings: Settings, *, as_json: bool) -> None:
    """JSON: `{"key", "rewrapped", "kept": [id, …]}`."""
    done = _in(settings, rotation.rotate)
    if as_json:
        print(json.dumps({"key": done.key_id, "rewrapped": done.rewrapped, "kept": list(done.kept)}))
        return
    terminal.out().print(f"Everything is sealed with {done.key_id}; {done.rewrapped} secrets were re-wrapped.")
    if done.kept:
        terminal.err().print(
            f"Older keys are still there: {', '.join(done.kept)}. "
            f"In ten minutes, remove what is unused with: {spelled('hostler secrets prune')}",
            style="dim",
        )


def prune(settings: Settings, *, as_json: bool) -> None:
    """JSON: `{"removed": [id, …]}`."""
    gone = _in(settings, rotation.prune)
    if as_json:
        print(json.dumps({"removed": gone}))
        return
    terminal.out().print(f"Removed: {', '.join(gone)}." if gone else "Nothing to remove yet.")


def _in(settings: Settings, work: Callable[[Database, MasterKeys], Awaitable[T]]) -> T:
    from hostler.compose import master_keys, open_database

    async def run() -> T:
        keys = master_keys(settings)
        database = await open_database(settings)
        try:
            return await work(database, keys)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except InvalidRequest as error:
        raise Problem(error.message, next_command="hostler secrets --help", code=WRONG) from error
    except SecretUnreadable as error:
        raise Problem(error.message, next_command="hostler secrets status") from error
    except HostlerError as error:
        raise Problem(error.message, next_command="hostler doctor") from error
    except OSError as error:
        raise Problem(f"can't open the database: {error}", next_command="hostler doctor") from error
