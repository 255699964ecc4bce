"""What the examples share: a client for your server, and messages that also work without a model.

HOSTLER_URL and HOSTLER_API_KEY say where the server is. Its rehearsal model follows the script behind a message; with
HOSTLER_MODEL=real the words are sent alone, and a real model decides what to do.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import anthropic

MODEL = "claude-opus-5-5"
TOOLSET: Any = {"type": "agent_toolset_20260401"}


def connect() -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=os.environ["HOSTLER_URL"], api_key=os.environ["HOSTLER_API_KEY"])


def message(words: str, *script: Any) -> Any:
    """A `user.message`. Each step of `script` is one answer of the rehearsal model."""
    if script and os.environ.get("HOSTLER_MODEL") != "real":
        words += f"\n```rehearse\n{json.dumps(script)}\n```"
    return {"type": "user.message", "content": [{"type": "text", "text": words}]}


def use(tool: str, **given: Any) -> Any:
    """A step of a script: one tool call."""
    return {"content": [{"type": "tool_use", "name": tool, "input": given}]}


def text_of(event: Any) -> str:
    return "".join(block.text for block in event.content or () if block.type == "text")


def run(client: anthropic.Anthropic, session_id: str, *events: Any) -> list[Any]:
    """Send events, and return all that follows until the session is idle."""
    seen = []
    with client.beta.sessions.events.stream(session_id) as stream:
        client.beta.sessions.events.send(session_id, events=list(events))
        for event in stream:
            seen.append(event)
            if event.type == "session.status_idle":
                return seen
    raise SystemExit("the stream ended before the session was idle")


def output(client: anthropic.Anthropic, session_id: str, name: str, seconds: float = 30) -> bytes:
    """What a session has put into /mnt/session/outputs. It is collected within seconds of the end of the turn."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for file in client.beta.files.list(scope_id=session_id):
            if file.filename == name and file.downloadable:
                return client.beta.files.download(file.id).read()
        time.sleep(0.1)
    raise SystemExit(f"the session has put out no {name}")
