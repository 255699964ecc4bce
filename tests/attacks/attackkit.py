"""What several attacks need: reading outcomes of calls out of a list of events."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Any

from housekit import House

from hostler.engine.profile import transcript_id
from hostler.testing.rehearsal import step, tool


def outputs(events: Sequence[Any]) -> list[str]:
    """The text of every tool result, in order."""
    return [
        "".join(block.text for block in event.content or () if block.type == "text")
        for event in events
        if event.type == "agent.tool_result"
    ]


def of_type(events: Sequence[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == kind]


async def shell(house: House, session: str, command: str) -> str:
    """What `command` prints in the session's sandbox. The agent's bash must be free to run."""
    events = await house.turn(session, [step(tool("bash", command=command)), step("Done.")])
    assert events[-1].stop_reason.type == "end_turn", events
    return "\n".join(outputs(events))


def call(name: str, given: dict[str, Any], id_: str | None = None) -> dict[str, Any]:
    """A block of the model's answer that calls `name`, under an id of the attacker's choice."""
    return {"type": "tool_use", "name": name, "input": given, **({"id": id_} if id_ else {})}


def harness_pid(session: str) -> int:
    """The host's pid of the session's `claude`."""
    name = transcript_id(session).encode()
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            if words and words[0].endswith(b"claude") and any(name in word for word in words):
                return int(folder.name)
    raise AssertionError(f"session {session} has no process")


def forge(session: str, data: bytes) -> None:
    """Says `data` in the name of the harness, until that is gone: what somebody could do who has taken it over."""
    process = Path(f"/proc/{harness_pid(session)}")
    pipe = os.open(process / "fd" / "1", os.O_WRONLY | os.O_NONBLOCK)
    rest = memoryview(data)
    try:
        while rest and (process / "fd" / "1").is_symlink():
            if select([], [pipe], [], 0.1)[1]:
                with suppress(BlockingIOError):
                    rest = rest[os.write(pipe, rest[:65536]) :]
    except BrokenPipeError:
        pass  # the worker has heard enough
    finally:
        os.close(pipe)
