"""What must a conversation be, whatever happened on the way? Said without a server, from the operations alone.

A conversation is a list of *items*, each with a mark that occurs nowhere else: a prompt, an answer of the model, a
call, a decision about a call, a client's result. `Expected` computes it from a sequence's operations, `walk` finds it
in the log that clients read, and `view_of` in what the model was sent. All three must agree.

Files are seen through the eyes of the agent: each call appends its mark to `/workspace/log` and prints all of it. So
`walk` knows after each call what the file must have been before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from sequence_plan import WAITS, Kind

from hostler.domain.events import INTERRUPTED, NOT_RECORDED, OUTCOME_UNKNOWN
from hostler.testing.rehearsal import Step, prompt, step, text, tool

Body = dict[str, Any]
DENIAL: Final = "No."
ASKED: Final = re.compile(r"Please do (ask-[a-z0-9]+)\.")
SAID: Final = re.compile(r"\bsay-[a-z0-9]+")
CALLED: Final = re.compile(r"\b(?:tok|cus)-[a-z0-9]+")
Sort = Literal["prompt", "said", "call", "answer"]


class Item(NamedTuple):
    sort: Sort
    mark: str
    how: str = ""
    """Of an answer: allow, deny, or result."""


Items = tuple[Item, ...]
Files = tuple[str, ...]
"""Marks in the log file, in order."""


# ------------------------------------------------------------------------------------------------------------ expected


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a sequence: what is sent, and what must come of it."""

    kind: Kind
    mark: str
    calls: tuple[str, ...]
    saying: str
    script: str

    @staticmethod
    def of(kind: Kind, name: str) -> Message:
        """`name` occurs nowhere else."""
        prefix = "cus" if kind == "custom" else "tok"
        calls = tuple(f"{prefix}-{name}x{at}" for at in range({"text": 0, "two": 2}.get(kind, 1)))
        saying = f"say-{name}"
        steps: list[Step] = []
        if kind == "custom":
            steps.append(step(tool("lookup", key=calls[0])))
        elif calls:
            steps.append(step(*(tool("bash", command=f"echo {mark} >> log; cat log") for mark in calls)))
        steps.append(step(text(f"{saying} and some more words", chunk=6, rate=200.0)))
        return Message(kind, f"ask-{name}", calls, saying, prompt(steps, f"Please do ask-{name}."))

    @property
    def waits(self) -> bool:
        """Whether its call needs somebody."""
        return self.kind in WAITS

    @property
    def begin(self) -> Items:
        """Until the session waits, or to the end."""
        items = (Item("prompt", self.mark), *(Item("call", mark) for mark in self.calls))
        return items if self.waits else (*items, Item("said", self.saying))

    def end(self, how: str) -> Items:
        """After the answer."""
        return Item("answer", self.calls[0], "result" if self.kind == "custom" else how), Item("said", self.saying)


@dataclass
class Expected:
    """The conversation of one line, as the operations have it."""

    items: Items = ()
    waits: Message | None = None
    loose: set[str] = field(default_factory=set)
    """Marks of calls that may be missing: the second of an answer that was cut off after the first was announced."""
    points: dict[str, tuple[Items, Message | None]] = field(default_factory=dict)

    def said(self, message: Message) -> None:
        self.items += message.begin
        self.waits = message if message.waits else None

    def answered(self, how: str) -> None:
        assert self.waits is not None
        self.items += self.waits.end(how)
        self.waits = None

    def kept(self, point: str) -> None:
        self.points[point] = self.items, self.waits

    def returned(self, point: str) -> None:
        self.items, self.waits = self.points[point]

    def fork(self, point: str) -> Expected:
        items, waits = self.points[point] if point else (self.items, self.waits)
        return Expected(items, waits, set(self.loose))


# ------------------------------------------------------------------------------------------------------------- the log


@dataclass(frozen=True, slots=True)
class Place:
    """A session as it is at one event of its log."""

    items: Items = ()
    results: Mapping[str, str] = field(default_factory=dict)
    """What each call gave: `good`, or the words of its error."""
    files: frozenset[Files] = frozenset([()])
    """What the log file may be."""
    ever: frozenset[Files] = frozenset([()])
    """What it has been on the way here."""
    shown: tuple[int, int] = (0, 0)
    """What the model reads begins at one of these items: after a compaction it has a summary, and what came last of
    that which was summarised. How much of it, the harness decides."""


@dataclass
class Walked:
    end: Place
    at_prompt: dict[str, Place]
    """By the mark of a prompt: the session right after it."""
    problems: list[str]
    errors: list[str]
    """Of every `session.error`: its type."""


def walk(events: Sequence[tuple[int, Body]], copied: int) -> Walked:
    """What a log says. `copied`: how many of its events are those of the session that it was forked from."""
    place, problems, errors = Place(), list[str](), list[str]()
    places: dict[int, Place] = {0: place}
    at_prompt: dict[str, Place] = {}
    calls: dict[str, str] = {}
    for number, (seq, event) in enumerate(events):
        kind = event["type"]
        if kind == "user.message":
            marks = ASKED.findall(_words(event["content"]))
            place = _with(place, items=(*place.items, *(Item("prompt", mark) for mark in marks)))
            at_prompt |= dict.fromkeys(marks, place)
        elif kind == "agent.message":
            marks = SAID.findall(_words(event["content"]))
            place = _with(place, items=(*place.items, *(Item("said", mark) for mark in marks)))
        elif kind in ("agent.tool_use", "agent.custom_tool_use"):
            mark = calls[event["id"]] = mark_of(event["input"])
            place = _with(place, items=(*place.items, Item("call", mark)))
        elif kind == "user.tool_confirmation":
            place = _with(place, items=(*place.items, Item("answer", calls[event["tool_use_id"]], event["result"])))
        elif kind == "user.custom_tool_result":
            mark = calls[event["custom_tool_use_id"]]
            place = _with(
                place,
                items=(*place.items, Item("answer", mark, "result")),
                results={**place.results, mark: "good"},
            )
        elif kind == "agent.tool_result":
            mark = calls[event["tool_use_id"]]
            place = _after_call(place, mark, event, problems)
        elif kind == "agent.thread_context_compacted":
            place = _with(place, shown=(place.shown[0], len(place.items)))
        elif kind == "session.error":
            ours = event["error"].get("hostler") or {}
            if ours.get("type") == "session_rewound":
                if number >= copied:  # before, it speaks of the session that was forked
                    place = places[ours["to_seq"]]
            else:
                errors.append(ours.get("type") or event["error"]["type"])
                if ours.get("type") == "files_lost":
                    place = _with(place, files=place.ever)
        places[seq] = place
    return Walked(place, at_prompt, problems, errors)


def _with(place: Place, **changes: Any) -> Place:
    values = {name: getattr(place, name) for name in Place.__slots__} | changes
    return Place(**{**values, "ever": values["ever"] | values["files"]})


def _after_call(place: Place, mark: str, event: Body, problems: list[str]) -> Place:
    words = _words(event["content"])
    if event["is_error"]:
        results = {**place.results, mark: words}
        if words == OUTCOME_UNKNOWN:  # nobody knows: with it, or without
            return _with(place, results=results, files=place.files | {(*files, mark) for files in place.files})
        if words not in (INTERRUPTED, NOT_RECORDED, DENIAL):
            problems.append(f"the call {mark} failed: {words!r}")
        return _with(place, results=results)
    found = tuple(CALLED.findall(words))
    before = {files for files in place.files if (*files, mark) == found}
    if not before:
        wanted = " or ".join(sorted(" ".join(files) or "nothing" for files in place.files))
        problems.append(f"{mark} found {' '.join(found)!r} in the workspace, which had to be {wanted!r} and itself")
    return _with(place, results={**place.results, mark: "good"}, files=frozenset([found]))


# ----------------------------------------------------------------------------------------------------- what was asked


@dataclass(frozen=True, slots=True)
class View:
    """What one model request shows of the conversation."""

    items: Items
    results: Mapping[str, str]
    newest: str
    """The mark of its last prompt; empty when it shows none."""


def view_of(messages: Sequence[Mapping[str, Any]]) -> View:
    items: list[Item] = []
    results: dict[str, str] = {}
    calls: dict[str, str] = {}
    newest = ""
    for message in messages:
        for block in _blocks(message["content"]):
            match block.get("type"), message["role"]:
                case "text", "user":
                    for mark in ASKED.findall(block["text"]):
                        items.append(Item("prompt", mark))
                        newest = mark
                case "text", "assistant":
                    items += [Item("said", mark) for mark in SAID.findall(block["text"])]
                case "tool_use", _:
                    mark = calls[block["id"]] = mark_of(block["input"])
                    items.append(Item("call", mark))
                case "tool_result", _:
                    words = _words(_blocks(block.get("content") or ""))
                    results[calls.get(block["tool_use_id"], "?")] = words if block.get("is_error") else "good"
                case _:
                    pass
    return View(tuple(items), results, newest)


# ----------------------------------------------------------------------------------------------------------- comparing


def differences(wanted: Items, found: Items, loose: set[str]) -> Iterator[str]:
    """Decisions come before or after what else happens at their moment, so they are compared by themselves."""
    for sorts in (("prompt", "said", "call"), ("answer",)):
        one = [item for item in wanted if item.sort in sorts and not (item.mark in loose and item not in found)]
        two = [item for item in found if item.sort in sorts]
        if one != two:
            yield f"wanted {_names(one)}, found {_names(two)}"


def agree(place: Place, view: View) -> Iterator[str]:
    """The model doesn't see decisions, only what they led to."""
    first, last = place.shown
    if not any(_visible(place.items[at:]) == view.items for at in range(first, last + 1)):
        since = f", and may begin at any of the first {last + 1}" if last else ""
        yield f"the log has {_names(_visible(place.items))}{since}; the model was shown {_names(view.items)}"
    for item in view.items:
        words, told = place.results.get(item.mark, "nothing"), view.results.get(item.mark, "nothing")
        if item.sort == "call" and (words == "good") is not (told == "good"):
            yield f"the log says of {item.mark} {words[:40]!r}, the model was told {told[:40]!r}"


def _visible(items: Items) -> Items:
    return tuple(item for item in items if item.sort != "answer")


def mark_of(given: Mapping[str, Any]) -> str:
    found = CALLED.findall(json.dumps(given))
    return str(found[0]) if found else "?"


def _names(items: Sequence[Item]) -> str:
    return " ".join(f"{item.mark}{'=' + item.how if item.how else ''}" for item in items) or "nothing"


def _blocks(content: Any) -> Sequence[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _words(content: Sequence[Mapping[str, Any]]) -> str:
    return "".join(str(block.get("text", "")) for block in content)
