"""Which hosting pattern suits a kind of work? Three questions with yes or no, and what follows from the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from hostler.domain.isolation import Pattern

BREAK_EVEN_SECONDS: Final = 70
"""An idle `claude` takes 0.6 to 0.8 % of a processor, a cold start 0.5 processor-seconds: after about this long of
waiting, starting anew is the cheaper of the two (measured with version 2.1.329 on two cores)."""


@dataclass(frozen=True, slots=True)
class Question:
    name: Literal["together", "return", "always"]
    text: str
    yes: str
    """An example of work for which the answer is yes."""


QUESTIONS: Final = (
    Question(
        "together",
        "Do several agents have to work in the same files at the same time?",
        "characters of a game in one world; a writer and a reviewer with one draft",
    ),
    Question(
        "return",
        "When a task is done, does anybody come back to the same session?",
        "a chat; research that goes on for days; a reply to a review",
    ),
    Question(
        "always",
        "Must it be at work, or answer within half a second, although nobody has written to it for minutes?",
        "an agent that watches a mailbox; a site builder with a preview that stays open",
    ),
)
"""Asked in this order; the first answer that decides ends it."""


@dataclass(frozen=True, slots=True)
class Advice:
    pattern: Pattern
    why: str
    hosting: dict[str, Any]
    """For `config.hosting` of an environment."""

    def environment(self, name: str) -> dict[str, Any]:
        """The body of a request that makes the environment."""
        return {"name": name, "config": {"type": "cloud", "hosting": self.hosting}}


def next_question(answers: dict[str, bool]) -> Question | None:
    """What to ask after `answers`, by name of question; None: they decide."""
    if answers.get("together") or answers.get("return") is False:
        return None
    return next((question for question in QUESTIONS if question.name not in answers), None)


def advise(answers: dict[str, bool], reply_seconds: int | None = None) -> Advice:
    """`reply_seconds`: how soon people usually answer the agent. Only when `next_question` has none left."""
    if answers.get("together"):
        return Advice(
            "shared",
            "Sessions of the environment live in one room: one sandbox, one file system, a common folder in "
            "/room/common and a folder of its own for each. It needs a server that runs as root and gives bubblewrap.",
            {"pattern": "shared"},
        )
    assert next_question(answers) is None, "a question is open"
    if not answers["return"]:
        return Advice(
            "ephemeral",
            "A fresh sandbox for each task; afterwards nothing is left but events, outputs and the bill.",
            {"pattern": "ephemeral"},
        )
    if answers["always"]:
        return Advice(
            "long_running",
            "The process stays between turns and is watched; you pay for its memory all the time.",
            {"pattern": "long_running"},
        )
    idle = idle_timeout(reply_seconds)
    return Advice(
        "hybrid",
        f"The process ends after {idle} seconds without a message; the next one brings transcript and files back.",
        {"pattern": "hybrid", "idle_timeout_seconds": idle},
    )


def idle_timeout(reply_seconds: int | None) -> int:
    """Seconds that an idle process should be kept, when people usually answer after `reply_seconds`.

    Whoever answers before the break-even finds the process; waiting longer for the others costs more than a start.
    """
    if reply_seconds is None:
        return 60
    return 10 if reply_seconds > BREAK_EVEN_SECONDS else min(2 * BREAK_EVEN_SECONDS, max(20, 2 * reply_seconds))
