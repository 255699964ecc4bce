"""Upstreams that are left alone are looked at, when their channel has a way to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from gateway_fakes import DEADLINE

from hostler.engine.model_port import Asked, Caller, Choice, Ended
from hostler.gateway import BreakerTerms, Entry, Patience, Roster, probing
from hostler.gateway.channel import Channel


@dataclass
class Probed:
    """Stands for a channel; `answers` are what its probes say, the last one for ever."""

    answers: list[Any]
    looked: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def probe(self) -> Any:
        self.looked.append("looked")
        if len(self.looked) >= 3:
            self.enough.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Unable:
    """A channel without a way to look."""


def roster_with_an_open_breaker() -> Roster:
    terms = BreakerTerms(failures=1, open_seconds=3600, longest_open_seconds=3600)
    roster = Roster([Entry("u"), Entry("well", 1)], asyncio.get_running_loop().time, Patience(breaker=terms))
    course = roster.persist(Asked("r", Caller("s"), "m", {}, 1, True), Choice(("m",)))
    step = course.first()
    assert step is not None
    course.after(Ended(step.target, 1, 529, "status 529", None, False, 0.0))
    course.over()
    assert roster.ill == ("u",)
    return roster


def channels(u: object, well: object) -> Mapping[str, Channel]:
    return cast("Mapping[str, Channel]", {"u": u, "well": well})


@pytest.mark.parametrize("answer", [None, True])
async def test_a_probe_that_goes_well_lets_the_next_request_try(answer: object) -> None:
    roster = roster_with_an_open_breaker()
    ill, well = Probed([OSError("refused"), False, answer]), Probed([None])
    async with asyncio.timeout(DEADLINE), probing(roster, channels(ill, well), 0.001):
        await ill.enough.wait()
        while roster.ill:  # noqa: ASYNC110 - it follows what was waited for
            await asyncio.sleep(0)
    assert well.looked == [], "nothing is wrong with it"
    [trouble] = roster.health()[0].troubles
    assert trouble.state == "half_open", "that a server is there does not say that its model answers"


async def test_a_channel_without_a_probe_is_left_to_its_trials() -> None:
    roster = roster_with_an_open_breaker()
    async with probing(roster, channels(Unable(), Unable()), 0.001):
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "upstream-probes"] == []
    assert roster.ill == ("u",)


async def test_no_probe_outlives_the_block() -> None:
    roster = roster_with_an_open_breaker()
    ill = Probed([False])
    async with probing(roster, channels(ill, ill), 0.001):
        async with asyncio.timeout(DEADLINE):
            await ill.enough.wait()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "upstream-probes"] == []
