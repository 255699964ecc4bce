"""What happens to one session and its forks, in which order? Generated from a seed, written as JSON, made smaller.

A sequence is a list of operations. Each works on a *line*: the session that the sequence begins with (`root`), or one
that a fork has made (it has the fork's name). Messages, points and forks have names, so that a sequence of which
operations were left out still says the same about the others.

A *hit* belongs to an operation: somebody is killed while it is under way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random  # noqa: TID251 - a seed must give the same plan again
from typing import Any, Final, Literal

Do = Literal["message", "answer", "hibernate", "move", "compact", "checkpoint", "rewind", "fork", "wrong"]
Who = Literal["agent", "server", "servers", "stop", "database"]
"""`agent`: the session's `claude`, or what encloses it. `server`: one of the two; `servers`: both. `stop`: one is told
to stop at once. `database`: PostgreSQL ends as in a crash, and comes back a moment later (in a replay only)."""
Kind = Literal["text", "call", "two", "ask", "custom"]
"""What the model does with a message. `two`: two calls in one answer. `ask`: a call that a person must allow; a
sequence has either such calls or free ones, because it is the agent that says so of a tool."""

ROOT: Final = "root"
WAITS: Final = ("ask", "custom")
HITTABLE: Final = ("message", "answer", "compact", "checkpoint", "rewind", "fork")


@dataclass(frozen=True, slots=True)
class Hit:
    """Who is killed, and when."""

    who: Who
    events: int = 0
    """After so many events of the operation's session."""
    delay: float = 0.0
    """And so many seconds more."""
    victim: int = 0
    """Which server."""
    late: float = 0.0
    """How many seconds later it is started again."""
    meeting: int | None = None
    """In a batch: the kill with this number, which all sequences of the batch share. Its moment is the batch's."""


@dataclass(frozen=True, slots=True)
class Op:
    do: Do
    line: str = ROOT
    name: str = ""
    """Of the message, the point, or the fork and the line that it makes."""
    how: str = ""
    """Of a message: a `Kind`. Of an answer: `allow` or `deny`."""
    to: str = ""
    """The point to go back to, or to begin a fork at; a fork without one begins at the present."""
    hit: Hit | None = None

    def __str__(self) -> str:
        words = [self.do, self.how, self.name, f"at {self.to}" if self.to else ""]
        words += [f"on {self.line}" if self.line != ROOT else "", f"({self.hit.who} killed)" if self.hit else ""]
        return " ".join(word for word in words if word)


Ops = tuple[Op, ...]


def to_json(ops: Ops) -> str:
    """One line; defaults are left out."""
    return json.dumps([_slim(op) for op in ops], separators=(",", ":"))


def from_json(text: str) -> Ops:
    found = []
    for row in json.loads(text):
        hit = row.pop("hit", None)
        found.append(Op(**row, hit=Hit(**hit) if hit else None))
    return tuple(found)


def _slim(op: Op) -> dict[str, Any]:
    row = {key: value for key, value in asdict(op).items() if value and key != "hit" and (key, value) != ("line", ROOT)}
    if op.hit is not None:
        hit = {key: value for key, value in asdict(op.hit).items() if value not in (None, 0)}
        row["hit"] = hit
    return row


# ----------------------------------------------------------------------------------------------- what is possible when


@dataclass
class _Line:
    """As far as it decides which operations are possible."""

    waits: Kind | None = None
    said: bool = False
    points: dict[str, tuple[Kind | None, bool]] = field(default_factory=dict)


class Possible:
    """Follows a sequence, and says which operation may come next."""

    def __init__(self) -> None:
        self.lines = {ROOT: _Line()}

    def allows(self, op: Op) -> bool:
        line = self.lines.get(op.line)
        if line is None:
            return False
        match op.do:
            case "message":
                return line.waits is None
            case "answer":
                return line.waits is not None and (op.how == "allow" or line.waits == "ask")
            case "compact":
                return line.waits is None and line.said
            case "rewind":
                return op.to in line.points
            case "fork":
                return not op.to or op.to in line.points
            case _:
                return True

    def follow(self, op: Op) -> None:
        line = self.lines[op.line]
        match op.do:
            case "message":
                line.said = True
                line.waits = op.how if op.how in WAITS else None  # type: ignore[assignment]
            case "answer":
                line.waits = None
            case "checkpoint":
                line.points[op.name] = line.waits, line.said
            case "rewind":
                line.waits, line.said = line.points[op.to]
            case "fork":
                waits, said = line.points[op.to] if op.to else (line.waits, line.said)
                self.lines[op.name] = _Line(waits, said)
            case _:
                pass


def possible(ops: Iterable[Op]) -> Ops:
    """The operations that are possible, in order: what others of them relied on may have been left out."""
    state, kept = Possible(), []
    for op in ops:
        if state.allows(op):
            state.follow(op)
            kept.append(op)
    return tuple(kept)


# ---------------------------------------------------------------------------------------------------------- generating

_IDLE: Final[dict[Do, float]] = {
    "message": 8,
    "compact": 1.5,
    "checkpoint": 3,
    "rewind": 2.5,
    "fork": 0.8,
    "hibernate": 1.5,
    "move": 2.5,
    "wrong": 0.3,
}
_WAITING: Final[dict[Do, float]] = {
    "answer": 5,
    "checkpoint": 1.5,
    "rewind": 1,
    "fork": 0.5,
    "hibernate": 1,
    "move": 1.5,
    "wrong": 0.5,
}
_FREE: Final[dict[Kind, float]] = {"text": 2, "call": 4, "two": 1.5, "custom": 1.5}
_ASKING: Final[dict[Kind, float]] = {"text": 2, "ask": 4, "custom": 1}
"""Of an agent whose every call of the shell must be allowed."""


def sequence(random: Random, meetings: int, *, length: int = 8) -> Ops:
    """About `length` operations. The hits of `meetings` are the batch's: where they are is random.

    Some sequences don't hibernate, except by a kill: what happens there happens to processes that live.
    """
    state, ops = Possible(), []
    kinds = _ASKING if random.random() < 0.28 else _FREE
    stays = random.random() < 0.4
    for number in range(max(3, round(random.gauss(length, length / 5)))):
        op = _next(random, state, number, kinds, stays)
        state.follow(op)
        ops.append(op)
    places = [at for at, op in enumerate(ops) if op.do in HITTABLE]
    shared = sorted(random.sample(places, min(meetings, len(places))))
    for number in range(meetings):
        if number < len(shared):
            ops[shared[number]] = replace(ops[shared[number]], hit=Hit("servers", meeting=number))
    for at in places:
        if ops[at].hit is None and ops[at].do in ("message", "answer", "compact") and random.random() < 0.1:
            delay = random.choice((0.0, random.uniform(0, 0.05), random.uniform(0, 0.5)))
            ops[at] = replace(ops[at], hit=Hit("agent", random.randrange(1, 12), round(delay, 3)))
    return tuple(ops)


def _next(random: Random, state: Possible, number: int, kinds: Mapping[Kind, float], stays: bool) -> Op:
    name, line = random.choices(list(state.lines.items()), [3 if at else 2 for at in range(len(state.lines))])[0]
    weights = dict(_IDLE if line.waits is None else _WAITING)
    if not line.points:
        weights["rewind"] = 0
    if len(state.lines) > 2:
        weights["fork"] = 0
    if not line.said:
        weights |= {"compact": 0, "rewind": weights["rewind"] / 2, "hibernate": 0}
    if stays:
        weights |= {"hibernate": 0, "move": 0}
    while True:
        do: Do = random.choices(list(weights), list(weights.values()))[0]
        op = Op(do, name)
        match do:
            case "message":
                op = replace(op, name=f"m{number}", how=random.choices(list(kinds), list(kinds.values()))[0])
            case "answer":
                denies = line.waits == "ask" and random.random() < 0.25
                op = replace(op, how="deny" if denies else "allow")
            case "checkpoint":
                op = replace(op, name=f"p{number}")
            case "rewind":
                op = replace(op, to=random.choice(list(line.points)))
            case "fork":
                op = replace(op, name=f"f{number}", to=random.choice(["", *line.points]))
            case _:
                pass
        if state.allows(op):
            return op


# ------------------------------------------------------------------------------------------------------ making smaller


def smaller(ops: Ops) -> Iterable[Ops]:
    """Sequences that say less than this one, those that leave out most first."""
    seen: set[Ops] = {ops}
    size = len(ops) // 2
    while size >= 1:
        for start in range(0, len(ops), size):
            fewer = possible((*ops[:start], *ops[start + size :]))
            if fewer and fewer not in seen:
                seen.add(fewer)
                yield fewer
        size //= 2
    for at, op in enumerate(ops):
        simpler: list[Op] = []
        if op.hit is not None:
            simpler.append(replace(op, hit=None))
        if op.do == "message" and op.how == "two":
            simpler.append(replace(op, how="call"))
        for one in simpler:
            yield (*ops[:at], one, *ops[at + 1 :])


def count_of(ops: Sequence[Op]) -> dict[str, int]:
    found: dict[str, int] = {}
    for op in ops:
        word = f"{op.do} {op.how}" if op.do in ("message", "answer") else op.do
        found[word] = found.get(word, 0) + 1
    return found
