"""Killed at any moment, the server comes back and has lost and repeated nothing."""

from __future__ import annotations

import os
import secrets
from time import monotonic

import pytest
from chaos_run import Store, chaos

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "100"))
WITHIN = float(os.environ.get("CHAOS_WITHIN", "inf"))
LEAST = 10
"""However slow the machine is."""
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
STORE: Store = "postgresql" if os.environ.get("CHAOS_STORE") == "postgresql" else "sqlite"


# The database is killed under connections, which the driver then finds unclosed.
@pytest.mark.chaos
@pytest.mark.needs_root
async def test_a_killed_server_loses_and_repeats_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    until, done = monotonic() + WITHIN, 0
    async with chaos(SEED, STORE) as run:
        for number in range(ROUNDS):
            if monotonic() > until:
                break
            try:
                await run.round(number)
            except BaseException as error:
                error.add_note(f"seed {SEED}, {STORE}, round {number}; so far {run.tally}")
                raise
            done += 1
            if number % 10 == 9:
                with capsys.disabled():
                    print(f"\n{run.tally}", end="", flush=True)
    with capsys.disabled():
        print(f"\nseed {SEED}, {STORE}: {run.tally}")
        if done < ROUNDS:
            print(f"{done} of {ROUNDS} rounds in the {WITHIN:.0f} seconds that there were")
    assert done >= min(LEAST, ROUNDS), "this machine is too slow to say anything"
