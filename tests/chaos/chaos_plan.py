"""What does one session do in a round? Random, but the same for the same seed.

Everything that a plan says or does carries a mark that occurs nowhere else, so that a repetition shows:
`ask-…` in a prompt, `say-…` in an answer of the model, `tok-…` in a tool call that appends it to `/workspace/log`,
`ans-…` in a client's result of a custom call.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random  # noqa: TID251 - a seed must give the same plan again
from typing import Literal

from hostler.testing.rehearsal import Step, prompt, step, text, tool

Tools = Literal["free", "ask", "custom"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt and what the model does with it."""

    mark: str
    prompt: str
    tokens: tuple[str, ...]
    """Of built-in calls, in the order in which the model makes them."""
    sayings: tuple[str, ...]
    """Of the model's texts, in order."""
    steps: tuple[frozenset[str], ...]
    """The marks of each answer of the model."""
    heard: tuple[tuple[str, str], ...] = ()
    """(saying, token): this text repeats the result of that custom call."""


@dataclass(frozen=True, slots=True)
class SessionPlan:
    name: str
    tools: Tools
    turns: tuple[Turn, ...]
    second_waits: bool
    """True: the second prompt is sent while the first is being worked on. False: when the session is idle again."""
    denied: frozenset[str]
    """Tokens of calls that the person says no to."""
    one_by_one: bool
    """True: several questions are answered in requests of their own. False: in one."""
    interrupt_after: int | None
    """How many events the client sees before it sends an interrupt; None: it sends none."""


def session_plan(random: Random, name: str) -> SessionPlan:
    tools: Tools = random.choices(("free", "ask", "custom"), (5, 3, 3))[0]
    count = random.choices((1, 2), (3, 2))[0]
    turns = tuple(_turn(random, f"{name}t{number}", tools) for number in range(count))
    tokens = [token for turn in turns for token in turn.tokens]
    denied = [token for token in tokens if tools == "ask" and random.random() < 0.25]
    return SessionPlan(
        name=name,
        tools=tools,
        turns=turns,
        second_waits=random.random() < 0.6,
        denied=frozenset(denied),
        one_by_one=random.random() < 0.5,
        interrupt_after=random.randrange(2, 14) if random.random() < 0.15 else None,
    )


def more_turns(random: Random, name: str, tools: Tools) -> tuple[Turn, ...]:
    """For a session that has done its plan."""
    return (_turn(random, f"{name}t0", tools),)


def _turn(random: Random, name: str, tools: Tools) -> Turn:
    shapes: dict[Tools, tuple[tuple[int, ...], ...]] = {
        "free": ((), (1,), (1, 1, 1), (3,), (2, 1)),
        "ask": ((1,), (1, 1), (2,), (3, 1)),
        "custom": ((1,), (2,), (1, 1), (3,)),
    }
    steps: list[Step] = []
    marks: list[frozenset[str]] = []
    tokens: list[str] = []
    sayings: list[str] = []
    heard: list[tuple[str, str]] = []
    calls: list[str] = []

    def said() -> str:
        saying = f"say-{name}x{len(sayings)}"
        if calls and calls[-1].startswith("cus-"):
            heard.append((saying, calls[-1]))
            saying_text = f"{saying} heard {{{{last_tool_result}}}}"
        else:
            saying_text = f"{saying} and some more words that take their time"
        sayings.append(saying)
        return saying_text

    for size in random.choice(shapes[tools]):
        blocks = []
        before = {*sayings, *calls}
        if random.random() < 0.5:
            blocks.append(text(said(), chunk=6, rate=random.choice((40.0, 200.0, 2000.0))))
        for _ in range(size):
            custom = tools == "custom" and random.random() < 0.7
            token = f"{'cus' if custom else 'tok'}-{name}c{len(calls)}"
            calls.append(token)
            if custom:
                blocks.append(tool("lookup", key=token))
            else:
                tokens.append(token)
                blocks.append(tool("bash", command=_command(random, token)))
        steps.append(step(*blocks, delay_ms=random.choice((0, 0, 30, 150))))
        marks.append(frozenset({*sayings, *calls} - before))
    steps.append(step(text(said(), chunk=6, rate=random.choice((40.0, 200.0, 2000.0)))))
    marks.append(frozenset({sayings[-1]}))
    mark = f"ask-{name}"
    said_to_it = prompt(steps, f"Please do {mark}.")
    return Turn(mark, said_to_it, tuple(tokens), tuple(sayings), tuple(marks), tuple(heard))


def _command(random: Random, token: str) -> str:
    append = f"echo {token} >> /workspace/log"
    return random.choice((append, f"{append}; sleep 0.2", f"sleep 0.15; {append}", f"sleep 0.05; {append}; sleep 0.05"))
