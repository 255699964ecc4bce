"""Whatever happens to a session on the way, it ends up with the conversation that the operations call for."""

from __future__ import annotations

import os
import secrets
from random import Random  # noqa: TID251 - a seed must give the same run again
from time import monotonic

import pytest
from sequence_hosts import two_hosts
from sequence_plan import from_json
from sequence_run import BATCH, Broken, Runner, failed_alone

COUNT = int(os.environ.get("SEQUENCES", "500"))
SEED = int(os.environ.get("SEQUENCES_SEED") or secrets.randbelow(1_000_000))
WITHIN = float(os.environ.get("SEQUENCES_WITHIN", "inf"))
SPARES = int(os.environ.get("SEQUENCES_SPARES", "0"))
LEAST = 60
"""However slow the machine is."""
REPLAY = os.environ.get("SEQUENCES_REPLAY", "")


# The database is killed under connections, which the driver then finds unclosed.
@pytest.mark.sequences
@pytest.mark.needs_root
@pytest.mark.timeout(0)
async def test_any_sequence_gives_the_conversation_that_it_gives_without_faults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def say(words: str) -> None:
        with capsys.disabled():
            print(f"\n{words}", flush=True)

    until = monotonic() + WITHIN
    async with two_hosts() as hosts:
        runner = Runner(hosts, say, SPARES)
        await runner.begin()
        if REPLAY:
            (story,) = await runner.run([from_json(REPLAY)])
            if story.problems:
                raise failed_alone(story, hosts.folder)
            say(str(runner.tally))
            return
        random = Random(SEED)
        while runner.tally.sequences < COUNT and monotonic() < until:
            try:
                await runner.batch(random, min(BATCH, COUNT - runner.tally.sequences))
            except Broken as error:
                error.add_note(f"seed {SEED}; so far {runner.tally}")
                raise
            say(f"seed {SEED}: {runner.tally}")
        spares = runner.tally.seen["spare that became a session's"]
        assert bool(spares) == bool(SPARES), f"{spares} sessions were in a spare, with {SPARES} of each kind"
        if runner.tally.sequences < COUNT:
            say(f"{runner.tally.sequences} of {COUNT} sequences in the {WITHIN:.0f} seconds that there were")
            assert runner.tally.sequences >= LEAST, "this machine is too slow to say anything"
