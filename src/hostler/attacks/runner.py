"""How is the corpus run, within a limit of time, so that nothing of it is left?"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final, Literal

from hostler.attacks import batch, corpus
from hostler.attacks.canary import Canaries
from hostler.attacks.cases import PROMISES, Case, CouldNotRun, Outcome, Promise, promises_of
from hostler.attacks.grounds import ProxyGround, Tools
from hostler.attacks.rooms import SandboxGround
from hostler.engine.sandbox_port import IsolationLabel, SandboxProvider, SandboxUnavailable, Technology

ONE_CASE_SECONDS: Final = 60.0
ROADS: Final = "roads"
"""In place of a technology: attacks on the proxy and the gateway themselves, the same on every rung."""

Target = Literal["roads"] | Technology


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one run on one rung, or on the roads."""

    target: Target
    label: IsolationLabel | None
    """None: on the roads."""
    outcomes: tuple[Outcome, ...]
    seconds: float

    def broken(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.verdict == "broken"]

    def unproved(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.verdict == "not_run"]


class Silence(logging.Handler):
    """Keeps what the parts under attack log, in place of telling it to the operator, who would take it for real."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextlib.contextmanager
def silenced() -> Iterator[Silence]:
    log, kept = logging.getLogger("hostler"), Silence()
    before = log.propagate
    log.addHandler(kept)
    log.propagate = False
    try:
        yield kept
    finally:
        log.removeHandler(kept)
        log.propagate = before


@dataclass
class Clock:
    """How much of a run's time is left."""

    limit: float
    began: float = field(default_factory=monotonic)

    @property
    def spent(self) -> float:
        return monotonic() - self.began

    @property
    def left(self) -> float:
        return self.limit - self.spent


@asynccontextmanager
async def proxy_ground(place: Path, tools: Tools) -> AsyncIterator[ProxyGround]:
    """`place` is an existing folder with a short name. Everything that listens is closed at the end."""
    canaries = Canaries()
    await canaries.open(tools.tls)
    try:
        yield ProxyGround(place, canaries, tools)
    finally:
        await canaries.close()


async def attack_roads(
    place: Path,
    tools: Tools,
    cases: Sequence[Case] = corpus.ON_PROXY,
    *,
    seconds: float = 300.0,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Runs cases on the proxy and the gateway. `told` hears of each outcome as it comes."""
    clock, outcomes = Clock(seconds), []
    with silenced() as log:
        async with proxy_ground(place, tools) as ground:
            ground.log = log.lines
            problem = await _problem(ground)
            for case in cases:
                assert case.proxy is not None
                outcome = (
                    Outcome(case, "not_run", (problem,)) if problem else await _one(case, case.proxy(ground), clock)
                )
                outcomes.append(outcome)
                told(outcome)
    return Report("roads", None, tuple(outcomes), clock.spent)


async def _problem(ground: ProxyGround) -> str:
    try:
        await ground.control()
    except CouldNotRun as problem:
        return str(problem)
    return ""


async def attack_rung(
    place: Path,
    tools: Tools,
    provider: SandboxProvider,
    label: IsolationLabel,
    cases: Sequence[Case] = corpus.ON_SANDBOX,
    *,
    seconds: float = 600.0,
    patience: float = 30.0,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Runs cases in sandboxes of `label.technology`.

    `patience` is how long anything in a sandbox may take, in seconds: more for machines that are emulated. `place` is
    an existing folder with a short name that everybody may pass through. The provider is not closed.
    """
    clock, kept = Clock(seconds), promises_of(label)
    outcomes: list[Outcome] = []

    def add(outcome: Outcome) -> None:
        outcomes.append(outcome)
        told(outcome)

    for case in cases:
        if case.needs not in kept:
            add(Outcome(case, "not_promised", (_unkept(case.needs),)))
    cases = corpus.promised(cases, kept)
    (place / "p").mkdir(exist_ok=True)
    with silenced():
        async with proxy_ground(place / "p", tools) as proxies:
            ground = SandboxGround(place, provider, label.technology, label, proxies, patience, tools.volume)
            inside = [case for case in cases if case.inside is not None]
            if inside:
                for outcome in await _batch(ground, inside, clock):
                    add(outcome)
            for case in cases:
                if case.sandbox is not None:
                    add(await _one(case, case.sandbox(ground), clock, patience))
    outcomes.sort(key=lambda outcome: corpus.in_order(outcome.case))
    return Report(label.technology, label, tuple(outcomes), clock.spent)


def _unkept(promise: Promise) -> str:
    return f"not promised here: {PROMISES[promise]}"


async def _batch(ground: SandboxGround, cases: Sequence[Case], clock: Clock) -> list[Outcome]:
    try:
        async with asyncio.timeout(max(clock.left, 0.0)):
            return await batch.run(ground, cases)
    except TimeoutError:
        why = "the time of the run was over"
    except (SandboxUnavailable, OSError, ValueError) as problem:
        why = f"no sandbox could be made: {problem}"
    return [Outcome(case, "not_run", (why,)) for case in cases]


async def _one(case: Case, attack: object, clock: Clock, patience: float = 0.0) -> Outcome:
    """Makes one attack. Whatever goes wrong with it is said, and never taken for a defence that held."""
    assert asyncio.iscoroutine(attack)
    if clock.left <= 0:
        attack.close()
        return Outcome(case, "not_run", ("the time of the run was over",))
    seconds = min(ONE_CASE_SECONDS + 2 * patience, clock.left)
    try:
        async with asyncio.timeout(seconds):
            found = await attack
    except CouldNotRun as problem:
        return Outcome(case, "not_run", (str(problem),))
    except TimeoutError:
        return Outcome(case, "not_run", (f"it was not over within {seconds:.0f} s",))
    except (SandboxUnavailable, OSError, ValueError, EOFError) as problem:
        return Outcome(case, "not_run", (f"{type(problem).__name__}: {problem}",))
    return Outcome(case, "broken", tuple(found)) if found else Outcome(case, "held")
