"""What does the rehearsal model say when nobody wrote it a script?

Something useful and finite: with a shell it does a small piece of real work and reports what really came out; without,
it echoes. Summaries and titles that a harness asks for are short texts. It always says that it is the rehearsal model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hostler.testing.rehearsal.answer import offered_name
from hostler.testing.rehearsal.build import prompt, step, text, tool
from hostler.testing.rehearsal.conversation import Conversation, Position
from hostler.testing.rehearsal.steps import Raw, Step

_SUMMARY = re.compile(
    r"\b(summary of (the|this|our|your) (conversation|session)|summari[sz]e (the|this|our) (conversation|session))",
    re.I,
)
_TITLE = re.compile(r"\b(generate|create|write|come up with)\b[^.\n]{0,60}\btitle\b", re.I)
_WORKING_DIRECTORY = re.compile(r"working directory: *`?(/[^\s`]*)", re.I)
_QUOTED = 600
"""Characters of tool output that are quoted."""

_PROGRAM = '''"""Written by the rehearsal model, to show that tools really run."""

import platform


def main() -> None:
    print(f"Hello from Python {platform.python_version()} on {platform.system()}!")


if __name__ == "__main__":
    main()
'''


def housekeeping(conversation: Conversation, position: Position | None) -> Step | None:
    """The answer to what a harness asks for itself (summary, title, search); None when it's a request of a person."""
    if any(kind.startswith("web_search_") for kind in conversation.tool_types):
        return _web_search(conversation)
    if _SUMMARY.search(conversation.last_text):
        return _summary(conversation, position)
    if not conversation.tools and _TITLE.search(conversation.system + "\n" + conversation.last_text):
        return _title(conversation)
    return None


def script_is_over(position: Position) -> Step:
    """The polite end: a script has no more steps."""
    count = len(position.steps)
    steps = "1 step" if count == 1 else f"{count} steps"
    return step(text(f"This is the rehearsal model. The script is over: it had {steps}, and all of them were given."))


def improvise(conversation: Conversation) -> Step:
    """The answer to a prompt without a script. At most three tool calls a turn, then a last text."""
    at, _ = conversation.last_prompt
    taken = conversation.answers_since(at)
    shell, writer = offered_name("bash", conversation.tools), offered_name("write", conversation.tools)
    if conversation.body.get("tool_choice") == {"type": "none"} or shell not in conversation.tools:
        return _echo(conversation)
    found = _WORKING_DIRECTORY.findall(f"{conversation.system}\n{conversation.asides}")
    place = found[-1].rstrip(".,") if found else "/workspace"
    results = conversation.tool_results
    failed = taken > 0 and bool(results) and results[-1][1]
    if conversation.turn > 1:
        if taken == 0:
            said = "This is the rehearsal model again. I'll look at what is in the workspace now."
            return step(text(said), tool("bash", command=f"date -u; ls -la {place}", description="Look around"))
        return _report(conversation, 1, failed)
    if failed or taken >= 3 or (taken >= 1 and writer not in conversation.tools):
        return _report(conversation, min(taken, 3), failed)
    if taken == 0:
        said = (
            "Hello! This is the rehearsal model: no model thinks here, but every tool call is real. "
            "I'll look around, write a small program, and run it."
        )
        look = f"uname -a; id; ls -la {place}"
        return step(text(said), tool("bash", command=look, description="Look at the machine and the workspace"))
    if taken == 1:
        return step(
            text("Now I'll write a small program."), tool("write", file_path=f"{place}/hello.py", content=_PROGRAM)
        )
    run = f"python3 {place}/hello.py || cat {place}/hello.py"
    return step(text("And run it."), tool("bash", command=run, description="Run the program"))


def _report(conversation: Conversation, calls: int, failed: bool) -> Step:
    results = conversation.tool_results[-calls:] if calls else ()
    lines = ["Done." if not failed else "A tool call did not succeed, so I stop here."]
    for number, (result, is_error) in enumerate(results, 1):
        shown = result.strip()
        shown = shown if len(shown) <= _QUOTED else shown[:_QUOTED] + " …"
        lines.append(f"Tool call {number} {'failed' if is_error else 'returned'}:\n\n```\n{shown}\n```")
    lines.append(
        "This was the rehearsal model. Give Hostler a model API key for real answers, or put a script into your "
        "message to say what I should do."
    )
    return step(text("\n\n".join(lines)))


def _echo(conversation: Conversation) -> Step:
    said = conversation.last_prompt[1]
    shown = said if len(said) <= _QUOTED else said[:_QUOTED] + " …"
    schema = _wanted_schema(conversation.body)
    if schema is not None:
        return step(text(json.dumps(_example(schema, shown), ensure_ascii=False)))
    return step(text(f"This is the rehearsal model. You said: {shown}" if shown else "This is the rehearsal model."))


def _summary(conversation: Conversation, position: Position | None) -> Step:
    # The script goes along: without it, a compacted conversation would forget what it was to do.
    lines = [
        f"Summary by the rehearsal model: {conversation.turn} user message(s), "
        f"{len(conversation.tool_results)} tool result(s) so far."
    ]
    if position is not None and position.origin == "conversation":
        lines.append("The conversation follows this script:\n" + prompt(position.steps, start=position.index))
    return step(text("<summary>\n" + "\n\n".join(lines) + "\n</summary>"))


def _title(conversation: Conversation) -> Step:
    title = "Rehearsal session"
    return step(
        text(
            json.dumps({"title": title})
            if "json" in conversation.system.lower() or _wanted_schema(conversation.body)
            else title
        )
    )


def _web_search(conversation: Conversation) -> Step:
    call = f"srvtoolu_01{conversation.prefix_id[:22]}"
    found = {
        "type": "web_search_result",
        "url": "https://example.com/rehearsal",
        "title": "A result of the rehearsal model",
        "encrypted_content": "cmVoZWFyc2Fs",
        "page_age": None,
    }
    query = conversation.last_prompt[1].rpartition("query: ")[2][:200]
    return Step(
        content=(
            Raw(block={"type": "server_tool_use", "id": call, "name": "web_search", "input": {"query": query}}),
            Raw(block={"type": "web_search_tool_result", "tool_use_id": call, "content": [found]}),
            text("The rehearsal model searched nothing; this is a made-up result: https://example.com/rehearsal"),
        )
    )


def _wanted_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    config = body.get("output_config")
    form = config.get("format") if isinstance(config, Mapping) else body.get("output_format")
    schema = form.get("schema") if isinstance(form, Mapping) else None
    return schema if isinstance(schema, Mapping) else None


def _example(schema: object, said: str, depth: int = 0) -> Any:
    """A small value that the schema allows, for the common part of JSON Schema."""
    if not isinstance(schema, Mapping) or depth > 8:
        return None
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(union), list) and schema[union]:
            return _example(schema[union][0], said, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return {}
        return {name: _example(part, name, depth + 1) for name, part in properties.items()}
    if kind == "array":
        return [_example(schema.get("items"), said, depth + 1)] if schema.get("minItems") else []
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    if kind == "boolean":
        return False
    return None if kind == "null" else said
