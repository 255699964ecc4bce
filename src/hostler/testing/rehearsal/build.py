"""How does a test write a script in Python?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from hostler.testing.rehearsal.steps import (
    DEFAULT_CHUNK,
    FENCE,
    Block,
    Gate,
    Rule,
    Script,
    ScriptError,
    Stamps,
    Step,
    Text,
    Thinking,
    ToolUse,
    explain,
)


def text(value: str, *, chunk: int = DEFAULT_CHUNK, rate: float | None = None, delay_ms: float | None = None) -> Text:
    """Text, in deltas of `chunk` characters; `rate` deltas a second or `delay_ms` before each."""
    return Text(text=value, chunk=chunk, rate=rate, delay_ms=delay_ms)


def stamps(deltas: int, *, rate: float | None = None) -> Stamps:
    """`deltas` text deltas that each carry the time they were sent, `rate` a second."""
    return Stamps(deltas=deltas, rate=rate)


def thinking(
    value: str, *, signature: str | None = None, chunk: int = DEFAULT_CHUNK, rate: float | None = None
) -> Thinking:
    """A thinking block."""
    return Thinking(thinking=value, signature=signature, chunk=chunk, rate=rate)


def tool(
    name: str, /, input: Mapping[str, Any] | None = None, *, call_id: str | None = None, **arguments: Any
) -> ToolUse:
    """A tool call: `tool("bash", command="ls")`, or `tool("odd", {"call_id": 1})` for keys that clash."""
    return ToolUse(name=name, input={**(input or {}), **arguments}, id=call_id)


def gate(name: str) -> Gate:
    """A place where the answer waits for `RehearsalModel.open_gate(name)`."""
    return Gate(name=name)


def step(*content: Block | str, **options: Any) -> Step:
    """One answer: `step(text("hi"), tool("bash", command="ls"), delay_ms=20)`. Raises ScriptError.

    `options` are the other fields of `Step`.
    """
    try:
        return Step.model_validate({"content": content, **options})
    except ValidationError as error:
        raise ScriptError(explain(error)) from None


def rule(when: str, *steps: Step | str, regex: bool = False) -> Rule:
    """Steps for turns whose user text contains `when`."""
    return Rule(when=when, regex=regex, steps=tuple(step(item) if isinstance(item, str) else item for item in steps))


def script(*items: Step | Rule | str) -> Script:
    """A script of these steps and rules, in order. A string is a step with that text."""
    steps = tuple(step(item) if isinstance(item, str) else item for item in items if not isinstance(item, Rule))
    return Script(steps=steps, rules=tuple(item for item in items if isinstance(item, Rule)))


def prompt(steps: Script | Iterable[Step | str], before: str = "", *, start: int = 0) -> str:
    """The user message that makes the rehearsal model follow `steps`: `before`, then the fenced block.

    One line for each step. Raises ScriptError for a script with rules: those live in a file.
    """
    if isinstance(steps, Script):
        if steps.rules:
            raise ScriptError("a script in the conversation has no rules")
        start = start or steps.start
        listed: tuple[Step, ...] = steps.steps
    else:
        listed = script(*steps).steps
    lines = [json.dumps(item.to_value(), ensure_ascii=False) for item in listed]
    body = "[\n" + ",\n".join(lines) + "\n]"
    if start:
        body = '{"start": ' + str(start) + ', "steps": ' + body + "}"
    return (before + "\n" if before else "") + f"```{FENCE}\n{body}\n```"
