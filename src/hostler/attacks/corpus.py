"""Which attacks are there?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from hostler.attacks import (
    archives,
    exhaustion,
    lives,
    model_road,
    names,
    priority,
    requests,
    sandboxed,
    secrets_out,
    server_names,
)
from hostler.attacks.cases import CLASSES, Case, Promise

CASES: Final[tuple[Case, ...]] = (
    *names.CASES,
    *server_names.CASES,
    *requests.CASES,
    *exhaustion.CASES,
    *secrets_out.CASES,
    *model_road.CASES,
    *archives.CASES,
    *sandboxed.INSIDE,
    *lives.CASES,
    *priority.CASES,
)

ON_PROXY: Final = tuple(case for case in CASES if case.proxy is not None)
ON_SANDBOX: Final = tuple(case for case in CASES if case.of_rung)


def critical(cases: Iterable[Case]) -> Sequence[Case]:
    """The ones that decide whether a production session may start."""
    return [case for case in cases if case.severity == "critical"]


def promised(cases: Iterable[Case], kept: frozenset[Promise]) -> Sequence[Case]:
    return [case for case in cases if case.needs in kept]


def in_order(case: Case) -> tuple[int, int]:
    """Sorts by class and number."""
    return list(CLASSES).index(case.attack_class), int(case.id.partition(".")[2])
