"""How does every stored secret come under a new master key, while the server runs, and after any interruption?

First the new key is on the disk, then secrets are re-wrapped in small transactions, and nothing is taken away: a
secret opens at every moment, because both keys are there. Run it again after an interruption. The old key is removed
by `prune`, later: a server may have read it just before and be about to commit a secret under it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from hostler.domain.errors import InvalidRequest
from hostler.sealing.envelope import EnvelopeSealer
from hostler.sealing.masterkeys import KeyFile, MasterKeys
from hostler.store.database import Database
from hostler.store.sealed import count_by_key, rewrap_some, sealed_columns

BATCH: Final = 100
PRUNE_AFTER_SECONDS: Final = 600.0
"""Longer than any transaction lives."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did."""

    key_id: str
    """The master key that everything is sealed with now."""
    rewrapped: int
    kept: tuple[str, ...]
    """Older keys that are still in the key file."""


async def rotate(database: Database, keys: MasterKeys, progress: Callable[[int], None] = lambda done: None) -> Rotated:
    """A new master key where this program makes them (`KeyFile`), and every secret under the current one.

    Raises SecretUnreadable when a secret can't be opened with any key there is: what was re-wrapped stays so.
    """
    if isinstance(keys, KeyFile):
        keys.add()
    current = keys.current().id
    sealer = EnvelopeSealer(keys)
    done = 0
    for column in sealed_columns():
        while step := await database.write(
            partial(rewrap_some, column=column, key_id=current, rewrapped=sealer.rewrapped, limit=BATCH)
        ):
            done += step
            progress(done)
    return Rotated(current, done, tuple(key for key in keys.ids() if key != current))


async def prune(database: Database, keys: MasterKeys, *, retired_for_seconds: float = PRUNE_AFTER_SECONDS) -> list[str]:
    """Forget the keys that nothing is sealed with any more. Answers their ids."""
    if not isinstance(keys, KeyFile):
        raise InvalidRequest(
            "these keys come from the configuration; take the unused ones out of secrets.previous_keys"
        )
    used = await database.read(count_by_key)
    return keys.drop(lambda key_id: key_id not in used, retired_for_seconds=retired_for_seconds)
