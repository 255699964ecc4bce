"""Which calls are held, which is shown next, and what history does the model see?

The harness is shown one tool call of a response at a time (why: `docs/explanation/parallel-calls.md`). A *group* is the
calls of one such response. This module is the pure part: a state that is a value, and functions from a state and a
request's history to a decision. The same state and history give the same result, byte for byte, so that the upstream's
prompt cache keeps working.

Words: a call is *shown* when the harness's history has it, *closed* when it got a result without being shown, and
*held* when neither is true.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hostler.engine.ports import HeldCall

CONTINUE = "Continue from where you left off."
"""Text that the harness adds after the result of a call that it executed on resume. The model didn't need it."""
INTERRUPTED = "Tool execution was interrupted before completion. Please retry."
"""Result (an error) of a held call that was never executed because the conversation went on without it."""
MAX_GROUPS = 512
"""Groups kept for one session; the oldest goes first. Only the history of its calls is then seen one by one."""

_REMINDER = "<system-reminder>"

Block = dict[str, Any]
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call as the model made it. `extra`: other fields of its block, given back as they came."""

    id: str
    name: str
    input: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def block(self) -> Block:
        return {"type": "tool_use", "id": self.id, "name": self.name, "input": dict(self.input), **self.extra}


@dataclass(frozen=True, slots=True)
class Closed:
    """A result that was given to a held call from outside the harness. `content` as in a `tool_result` block."""

    content: Any
    is_error: bool

    def block(self, call_id: str) -> Block:
        block: Block = {"type": "tool_result", "tool_use_id": call_id, "content": self.content}
        return {**block, "is_error": True} if self.is_error else block


@dataclass(frozen=True, slots=True)
class Group:
    """The calls of one response, in the model's order. `after`: first call of the group before it in that history."""

    calls: tuple[Call, ...]
    closed: Mapping[str, Closed] = field(default_factory=dict)
    after: str | None = None

    @property
    def key(self) -> str:
        return self.calls[0].id


@dataclass(frozen=True, slots=True)
class State:
    """All groups of a session, oldest first. `served`: synthetic responses so far, for their ids."""

    groups: tuple[Group, ...] = ()
    served: int = 0


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer the request with this held call; the upstream isn't asked."""

    call: Call


@dataclass(frozen=True, slots=True)
class Forward:
    """Ask the upstream. `messages`: the history to send; None when it is right as it came."""

    messages: list[Any] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a request."""

    action: Serve | Forward
    state: State
    must_save: bool
    """Whether `state` has to be durable before the action; otherwise it may wait for the next time that it has to."""
    newest: str | None
    """First call of the newest group in this history: the `after` of the group that the answer may bring."""


# ---------------------------------------------------------------------------------------------------------- the state


def load(text: str | None) -> State:
    """The state that `dump` wrote; None and the empty text are a session without groups."""
    if not text:
        return State()
    value = json.loads(text)
    groups = tuple(
        Group(
            calls=tuple(Call(c["id"], c["name"], c["input"], c.get("extra", {})) for c in group["calls"]),
            closed={key: Closed(c["content"], c["is_error"]) for key, c in group["closed"].items()},
            after=group["after"],
        )
        for group in value["groups"]
    )
    return State(groups, value["served"])


def dump(state: State) -> str:
    """The state as JSON."""
    groups = [
        {
            "calls": [
                {"id": c.id, "name": c.name, "input": c.input, **({"extra": c.extra} if c.extra else {})}
                for c in group.calls
            ],
            "closed": {key: {"content": c.content, "is_error": c.is_error} for key, c in group.closed.items()},
            "after": group.after,
        }
        for group in state.groups
    ]
    return json.dumps({"version": 1, "served": state.served, "groups": groups}, separators=(",", ":"))


def add_group(state: State, calls: Sequence[Call], after: str | None) -> State:
    """The state with a new group of two calls or more. `calls[0]` is the one that the harness is shown."""
    group = Group(tuple(calls), after=after)
    kept = tuple(known for known in state.groups if known.key != group.key)
    return replace(state, groups=(*kept, group)[-MAX_GROUPS:])


def close_held(state: State, results: Mapping[str, tuple[Any, bool]]) -> State:
    """Gives held calls their results, `{call id: (content, is_error)}`.

    Ids that are unknown or closed already are left alone. What the harness itself says about a call wins over this.
    """
    groups = []
    for group in state.groups:
        new = {
            call.id: Closed(*results[call.id])
            for call in group.calls
            if call.id in results and call.id not in group.closed
        }
        groups.append(replace(group, closed={**group.closed, **new}) if new else group)
    return replace(state, groups=tuple(groups))


def close_held_text(text: str | None, results: Mapping[str, tuple[Any, bool]]) -> str:
    """`close_held` on the stored form, for a session that has no open road."""
    return dump(close_held(load(text), results))


def without_unannounced(text: str | None, announced: Collection[str]) -> str | None:
    """The stored form without the calls of the newest response that nobody was told of. None: there are none.

    `announced`: the ids of all calls of the turn. The answer was cut off between its calls: the model isn't told of
    more of them than the user was.
    """
    state = load(text)
    if not state.groups or state.groups[-1].key not in announced:
        return None
    *before, last = state.groups
    calls = tuple(call for call in last.calls if call.id in announced or call.id in last.closed)
    if len(calls) == len(last.calls):
        return None
    kept = (*before, replace(last, calls=calls)) if len(calls) > 1 else tuple(before)
    return dump(replace(state, groups=kept))


def held_call(call: Call) -> HeldCall:
    return HeldCall(call.id, call.name, call.input)


# ----------------------------------------------------------------------------------------------------------- requests


def plan(state: State, messages: Sequence[Any]) -> Plan:
    """Decides about one request for a message, from its whole history."""
    shown = _ids_of(messages, "tool_use", "id")
    present = [group for group in state.groups if group.key in shown]
    by_call = {call.id: group for group in present for call in group.calls}
    newest = present[-1].key if present else None
    changed: dict[str, Group] = {}
    closing = False
    out: list[Any] = []
    at = 0
    while at < len(messages):
        group = _group_at(messages[at], by_call)
        if group is None:
            out.append(messages[at])
            at += 1
            continue
        span = _read_span(messages, at, group)
        waiting = [call for call in group.calls if call.id not in span.uses and call.id not in group.closed]
        if waiting and span.at_frontier:
            return Plan(Serve(waiting[0]), replace(state, served=state.served + 1), True, newest)
        if waiting and span.end > at + 1:
            closing = True
            group = replace(group, closed={**group.closed, **{c.id: Closed(INTERRUPTED, True) for c in waiting}})
            changed[group.key] = group
        elif span.end < len(messages) and any(call.input for call in group.calls if call.id in span.uses):
            # All is in the history, and it went on: only the order of the ids is still needed.
            calls = tuple(replace(c, input={}, extra={}) if c.id in span.uses else c for c in group.calls)
            changed[group.key] = replace(group, calls=calls)
        out += span.merged(group)
        at = span.end
        by_call = {key: other for key, other in by_call.items() if other.key != group.key}
    out = [_without_continue(_without_hook_name(message)) for message in out]
    groups = tuple(changed.get(group.key, group) for group in state.groups)
    after = replace(state, groups=_without_forgotten(groups, {group.key for group in present}))
    same = len(out) == len(messages) and all(new is old for new, old in zip(out, messages, strict=True))
    return Plan(Forward(None if same else out), after, closing, newest)


@dataclass(slots=True)
class _Span:
    """The messages of a history that belong to one group, taken apart."""

    first: Message
    first_user: Message | None = None
    uses: dict[str, Block] = field(default_factory=dict)
    results: dict[str, Block] = field(default_factory=dict)
    other_said: list[Block] = field(default_factory=list)
    extras: list[Block] = field(default_factory=list)
    between: list[Any] = field(default_factory=list)
    end: int = 0
    at_frontier: bool = False
    end_of_history: bool = False
    """Nothing follows the shown call, not even its result."""

    def merged(self, group: Group) -> list[Any]:
        """One assistant message with every call, one user message with every result, then what stood between."""
        if self.end_of_history:
            return [self.first]
        known = {call.id for call in group.calls}
        said = [block for block in _blocks(self.first) if not (_is(block, "tool_use") and block.get("id") in known)]
        before = _place_of_first_call(self.first, known)
        uses = [self.uses.get(call.id) or call.block() for call in group.calls]
        in_first = {block.get("id") for block in _blocks(self.first) if _is(block, "tool_use")}
        head = [use for use in uses if use["id"] in in_first]
        tail = [use for use in uses if use["id"] not in in_first]
        results = [self._result(call.id, group) for call in group.calls]
        extras = [block for block in self.extras if not _is_continue(block)]
        for block in self.extras:
            if _is_continue(block) and "cache_control" in block and "cache_control" not in results[-1]:
                results[-1] = {**results[-1], "cache_control": block["cache_control"]}
        return [
            {**self.first, "content": [*said[:before], *head, *said[before:], *self.other_said, *tail]},
            {**(self.first_user or {"role": "user"}), "content": [*results, *extras]},
            *self.between,
        ]

    def _result(self, call_id: str, group: Group) -> Block:
        found = self.results.get(call_id)
        if found is not None:
            return found
        return group.closed.get(call_id, Closed(INTERRUPTED, True)).block(call_id)


def _read_span(messages: Sequence[Any], start: int, group: Group) -> _Span:
    known = {call.id for call in group.calls}
    span = _Span(first=messages[start])
    at = start
    while True:
        if at > start:
            span.other_said += [b for b in _blocks(messages[at]) if not (_is(b, "tool_use") and b.get("id") in known)]
        last_shown = [b for b in _blocks(messages[at]) if _is(b, "tool_use") and b.get("id") in known]
        span.uses.update({block["id"]: block for block in last_shown})
        stop = at + 1
        while stop < len(messages) and _role(messages[stop]) != "assistant":
            stop += 1
        goes_on = stop < len(messages) and any(
            _is(b, "tool_use") and b.get("id") in known and b.get("id") not in span.uses
            for b in _blocks(messages[stop])
        )
        moved_on = _take_interlude(span, messages[at + 1 : stop], known, all_of_it=goes_on)
        if not goes_on:
            span.end = stop
            span.end_of_history = stop == start + 1
            answered = bool(last_shown) and all(block["id"] in span.results for block in last_shown)
            span.at_frontier = stop == len(messages) and answered and not moved_on
            return span
        at = stop


def _take_interlude(span: _Span, interlude: Sequence[Any], known: set[str], *, all_of_it: bool) -> bool:
    """Takes in what stands after one assistant message; says whether the user has moved on in it."""
    moved_on = False
    for message in interlude:
        blocks = _blocks(message)
        found = {b["tool_use_id"]: b for b in blocks if _is(b, "tool_result") and b.get("tool_use_id") in known}
        rest = [b for b in blocks if not (_is(b, "tool_result") and b.get("tool_use_id") in known)]
        is_user = _role(message) == "user"
        if is_user and any(not _is_attachment(block) for block in rest):
            moved_on = True
        if not is_user or not (found or all_of_it):
            span.between.append(message)
            continue
        span.first_user = span.first_user or message
        for key, block in found.items():
            span.results.setdefault(key, block)
        span.extras += rest
    return moved_on


def _without_hook_name(message: Any) -> Any:
    """Takes the harness's words away from a refusal, so that the model reads what the person wrote."""
    if _role(message) != "user" or not isinstance(message.get("content"), list):
        return message
    blocks = [_plain_refusal(block) for block in message["content"]]
    return message if blocks == message["content"] else {**message, "content": blocks}


def _plain_refusal(block: Any) -> Any:
    if not _is(block, "tool_result") or not block.get("is_error") or not isinstance(block.get("content"), str):
        return block
    start, mark, words = block["content"].partition(" hook error: ")
    known = mark and start.startswith("PreToolUse:") and " " not in start
    return {**block, "content": words} if known else block


def _without_continue(message: Any) -> Any:
    """Takes the harness's own "continue" away from results that it follows; its cache marker stays."""
    if _role(message) != "user" or not isinstance(message.get("content"), list):
        return message
    *results, last = message["content"] or [None]
    if not results or not _is_continue(last) or not all(_is(block, "tool_result") for block in results):
        return message
    if "cache_control" in last and "cache_control" not in results[-1]:
        results[-1] = {**results[-1], "cache_control": last["cache_control"]}
    return {**message, "content": results}


def _without_forgotten(groups: tuple[Group, ...], present: set[str]) -> tuple[Group, ...]:
    """Drops groups that compaction took out of a history: those before a group that the history still has.

    Other conversations of the session (sub-agents, a title) never have the newer group, so they drop nothing.
    """
    before = {group.key: group.after for group in groups}
    gone: set[str] = set()
    for key in present:
        earlier = before.get(key)
        while earlier is not None and earlier not in present and earlier not in gone:
            gone.add(earlier)
            earlier = before.get(earlier)
    if not gone:
        return groups
    return tuple(
        replace(group, after=None) if group.after in gone else group for group in groups if group.key not in gone
    )


# ------------------------------------------------------------------------------------------------------------- blocks


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _blocks(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else []


def _is(block: Any, kind: str) -> bool:
    return isinstance(block, dict) and block.get("type") == kind


def _is_continue(block: Any) -> bool:
    return _is(block, "text") and block.get("text") == CONTINUE


def _is_attachment(block: Any) -> bool:
    """Whether a block after a result comes from the harness or the tool, and not from a person who has moved on."""
    if not _is(block, "text"):
        return True
    text = block.get("text")
    return text == CONTINUE or (isinstance(text, str) and text.lstrip().startswith(_REMINDER))


def _ids_of(messages: Sequence[Any], kind: str, key: str) -> set[str]:
    return {
        block[key]
        for message in messages
        for block in _blocks(message)
        if _is(block, kind) and isinstance(block.get(key), str)
    }


def _group_at(message: Any, by_call: Mapping[str, Group]) -> Group | None:
    """The group whose first shown call is in this message."""
    if _role(message) != "assistant":
        return None
    for block in _blocks(message):
        if _is(block, "tool_use") and block.get("id") in by_call:
            return by_call[block["id"]]
    return None


def _place_of_first_call(message: Message, known: set[str]) -> int:
    """How many blocks stand before the first call of the group."""
    for place, block in enumerate(_blocks(message)):
        if _is(block, "tool_use") and block.get("id") in known:
            return place
    return 0
