"""What happens to a turn that has to wait for a place? It says so once, and it ends when it has waited for too long.

Pure, like `engine.state` and `engine.turns`. While it waits the session is `rescheduling`: its time does not count as
running time, and clients know the word. `Errand` is what a worker can do for a session without a place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from hostler.domain import events as ev
from hostler.engine import turns
from hostler.engine.state import Moment, SessionState, Step, Totals, active_seconds, is_paused
from hostler.engine.turns import Plan, RunEnd

Reason = Literal["environment_limit", "server_limit", "memory"]
KIND = "waiting_for_place"
"""`error.hostler.type` of the event that says it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a session waits, and behind how many."""

    reason: Reason
    place: int
    """1: it is the next one. With `environment_limit` among those of its environment, otherwise among all."""
    limit: int | None = None
    """With `environment_limit`: how many may be live."""

    def message(self) -> str:
        """For a person: what it waits for, and what to do."""
        why, what = {
            "environment_limit": (
                f"its environment has {self.limit} live sessions, and may have no more "
                "(config.hosting.max_live_sessions), none of which is idle",
                "Raise max_live_sessions of the environment, or wait",
            ),
            "server_limit": (
                "the server runs as many sessions as it may (worker.slots), none of which is idle",
                "Wait, or ask the operator for more slots or another server",
            ),
            "memory": (
                "the server has no memory for another process, and none that is idle",
                "Wait, or ask the operator for more memory or another server",
            ),
        }[self.reason]
        return f"This session waits for a place: {why}. It is number {self.place}. {what}; it goes on by itself."

    def details(self, since: str) -> dict[str, Any]:
        """For programs. `since`: the wire's moment."""
        found: dict[str, Any] = {"reason": self.reason, "place": self.place, "since": since}
        return found if self.limit is None else {**found, "limit": self.limit}


def needs_place(state: SessionState) -> bool:
    """Whether what is to be done next takes a process."""
    turn = state.turn
    if turn is None or state.interrupt is not None or is_paused(state):
        return False
    return turn.phase != "blocked" and state.status in ("running", "rescheduling")


def told_to_wait(state: SessionState, at: Moment, wait: Wait, since: str) -> Step:
    """The session says that it waits, unless it has said so already, or need not wait."""
    if not needs_place(state) or state.turn is None or state.turn.waits:
        return Step(state)
    events = [ev.notice(at.text, KIND, wait.message(), wait.details(since))]
    if state.status == "running":
        events += [
            ev.status_rescheduled(at.text),
            ev.thread_status(at.text, "rescheduled", state.thread_id, state.agent_name),
        ]
    waits = state.model_copy(
        update={
            "status": "rescheduling",
            "turn": state.turn.model_copy(update={"waits": True}),
            "active_seconds": active_seconds(state, at.unix),
            "running_since": None,
        }
    )
    return Step(waits, tuple(events))


def waited_too_long(seconds: float, wait: Wait | None) -> RunEnd:
    """How a turn ends that has waited for `seconds` and did not get a place."""
    reason = "" if wait is None else f" ({wait.reason})"
    text = (
        f"This turn waited for a place for {seconds:g} seconds and did not get one{reason}, so it was ended before "
        "anything of it was run. Send a message to try again: what was sent before is taken along."
    )
    limit = ev.Limit("longest_wait_reached", "admission.longest_wait_seconds", seconds)
    return RunEnd("failed", "unknown_error", text, limit=limit)


@dataclass(frozen=True, slots=True)
class Errand:
    """What a worker does for a session that it has no place for: whatever takes no process."""

    end: RunEnd | None = None
    """How the turn that waits is to end; None: it goes on waiting."""

    def is_done_by(self, state: SessionState) -> bool:
        """False: there is nothing to do here but to wait for a place."""
        return not needs_place(state) or self.end is not None

    def take_up(self, state: SessionState, at: Moment, totals: Totals) -> tuple[Step, Plan]:
        """As `turns.take_up`; a turn that takes a process is left as it is, for whoever has a place for it."""
        step = Step(state)
        if state.interrupt is not None:
            step = turns.run_ended(state, at, totals, RunEnd("interrupted"))
        elif self.end is not None and needs_place(state):
            step = turns.lost_for_good(state, at, totals, self.end)
        if needs_place(step.state):
            return replace(step, wanted=True), Plan("nothing")
        following, plan = turns.take_up(step.state, at, totals)
        return Step(following.state, (*step.events, *following.events), following.wanted), plan
