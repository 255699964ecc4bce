"""Which step answers this request, and does it fail this time?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from hostler.testing.rehearsal.conversation import Conversation, Position
from hostler.testing.rehearsal.improvise import housekeeping, script_is_over
from hostler.testing.rehearsal.record import Origin
from hostler.testing.rehearsal.steps import Script, Step

_REMEMBERED_FAILURES = 100_000
_REMEMBERED_SCRIPTS = 10_000
_UNSCRIPTED = "0" * 16

Responder = Callable[[Conversation], Step]
"""Answers a conversation that no script governs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided for one request."""

    step: Step
    index: int
    script_id: str
    origin: Origin
    failure: str | None


class Chooser:
    """Decides for each request. Its state is only counters of failures and, as a fallback, scripts followed before."""

    def __init__(self, script: Script | None, default: Responder) -> None:
        self._script = script
        self._default = default
        self._failures: OrderedDict[tuple[str, str, int], int] = OrderedDict()
        self._followed: OrderedDict[str, Position] = OrderedDict()

    def plan(self, conversation: Conversation) -> Plan:
        """The step for this request. Counts a failure that it plays. Raises BadRequest."""
        position = conversation.position(self._script)
        # What the harness asks for itself comes before a script, unless the script is in that very text or is a rule.
        addressed = position is not None and (position.origin == "rule" or conversation.script_is_in_last_text)
        followed = self._remember(conversation.thread, position)
        own = None if addressed else housekeeping(conversation, followed)
        if own is not None:
            return Plan(own, 0, _UNSCRIPTED, "housekeeping", None)
        if position is None:
            return Plan(self._default(conversation), 0, _UNSCRIPTED, "default", None)
        step = position.step
        if step is None:
            return Plan(script_is_over(position), position.index, _UNSCRIPTED, position.origin, None)
        failure = None
        if step.for_models is None or conversation.model in step.for_models:
            failure = self._failure_now(step, (conversation.key, position.script_id, position.index))
        return Plan(step, position.index, position.script_id, position.origin, failure)

    def _remember(self, thread: str, position: Position | None) -> Position | None:
        # A harness that must shorten a conversation even to summarise it drops the message with the script. The summary
        # has to carry it on all the same, and this is the one thing that a request can't tell by itself.
        if position is None or position.origin != "conversation":
            return self._followed.get(thread, position)
        self._followed.pop(thread, None)
        self._followed[thread] = position
        while len(self._followed) > _REMEMBERED_SCRIPTS:
            self._followed.popitem(last=False)
        return position

    def _failure_now(self, step: Step, place: tuple[str, str, int]) -> str | None:
        limit = step.failure_limit
        if limit is None:
            return step.failure
        happened = self._failures.pop(place, 0)
        if happened >= limit:
            if limit:
                self._failures[place] = happened
            return None
        self._failures[place] = happened + 1
        while len(self._failures) > _REMEMBERED_FAILURES:
            self._failures.popitem(last=False)
        return step.failure
