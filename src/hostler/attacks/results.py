"""What did the corpus show on this host, and does that still count?

One file per target in `<state>/attacks`. A result counts for the same technology, runtime, kernel and version of
Hostler, and for a week.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from hostler.attacks.cases import Outcome
from hostler.attacks.runner import ROADS, Report, Target
from hostler.domain.clock import Clock, parse_rfc3339, rfc3339
from hostler.engine.sandbox_port import IsolationLabel, Technology

FRESH: Final = timedelta(days=7)
FORMAT: Final = 1


def conditions(label: IsolationLabel | None, version: str) -> dict[str, str]:
    """What a result is a result of. A change of any of it makes the result old."""
    return {
        "hostler": version,
        "kernel": f"{platform.release()} {platform.version()}",
        "runtime": label.runtime if label else "",
        "limits_by": label.limits_by if label else "",
        "host_user": label.host_user if label else "",
    }


def as_json(report: Report, version: str, at: str) -> dict[str, Any]:
    """The form in which a report is kept, and shown by `--json`."""
    counts = dict.fromkeys(("held", "broken", "not_promised", "not_run"), 0)
    for outcome in report.outcomes:
        counts[outcome.verdict] += 1
    return {
        "format": FORMAT,
        "target": report.target,
        "at": at,
        "seconds": round(report.seconds, 1),
        "conditions": conditions(report.label, version),
        "label": asdict(report.label) if report.label else None,
        "counts": counts,
        "cases": [_case(outcome) for outcome in report.outcomes],
    }


def _case(outcome: Outcome) -> dict[str, Any]:
    case = outcome.case
    return {
        "id": case.id,
        "class": case.attack_class,
        "title": case.title,
        "severity": case.severity,
        "verdict": outcome.verdict,
        "found": list(outcome.found),
    }


class Results:
    """The results that are kept in one folder."""

    def __init__(self, folder: Path, version: str, clock: Clock) -> None:
        self._folder = folder
        self._version = version
        self._clock = clock

    def keep(self, report: Report) -> dict[str, Any]:
        """Replaces an earlier result of the same target, at once and whole. Gives what was kept."""
        kept = as_json(report, self._version, rfc3339(self._clock.now()))
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / f".{report.target}.{os.getpid()}"
        new.write_text(json.dumps(kept, indent=1))
        new.replace(self._folder / f"{report.target}.json")
        return kept

    def latest(self, target: Target) -> dict[str, Any] | None:
        """What was kept last, however old. None: nothing, or nothing that can be read."""
        try:
            kept = json.loads((self._folder / f"{target}.json").read_text())
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept, dict) and kept.get("format") == FORMAT else None

    def fresh(self, target: Target, label: IsolationLabel | None) -> dict[str, Any] | None:
        """The same, if it still counts for a host that gives this label."""
        kept = self.latest(target)
        if kept is None or kept["conditions"] != conditions(label, self._version):
            return None
        if not timedelta() <= self._clock.now() - parse_rfc3339(kept["at"]) <= FRESH:
            return None
        return kept

    def critical_failures(self, technology: Technology, label: IsolationLabel) -> Sequence[str] | None:
        """The critical cases that did not hold on this rung and on the roads, each in a sentence.

        One that could not be made is among them: nothing is known of it. None: there is no fresh result.
        """
        found: list[str] = []
        for target, its in ((technology, label), (ROADS, None)):
            kept = self.fresh(target, its)  # type: ignore[arg-type]
            if kept is None:
                return None
            found += failures(kept)
        return found


def failures(kept: Mapping[str, Any]) -> list[str]:
    """The critical cases of one kept result that did not hold."""
    return [
        f"{case['id']}, {case['title']}: {'; '.join(case['found']) or 'it succeeded'}"
        for case in kept["cases"]
        if case["severity"] == "critical" and case["verdict"] in ("broken", "not_run")
    ]
