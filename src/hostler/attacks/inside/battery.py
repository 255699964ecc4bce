"""How are probes run, one after the other, and their answers brought out?

A request is one line of JSON on the standard input: `{"probes": [names], "given": {…}, "seconds": 10, "stay": false}`.
Each answer is a line `{"probe": name, "found": [sentences]}`, or with `error`; the last one is `{"done": true}`. Then,
if it is to stay, the program waits for the end of its input.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

Probe = Callable[[dict[str, Any]], list[str]]
PROBES: dict[str, Probe] = {}


def probe(function: Probe) -> Probe:
    PROBES[function.__name__] = function
    return function


def main() -> None:
    request = json.loads(sys.argv[1] if len(sys.argv) > 1 else sys.stdin.readline())
    for name in request["probes"]:
        say({"probe": name, **_apart(name, request["given"], float(request["seconds"]))})
    say({"done": True})
    if request.get("stay"):
        while sys.stdin.readline():
            pass


def say(words: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _apart(name: str, given: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Runs one in a child of its own: what it does to itself, killing included, doesn't harm the others."""
    mine, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(mine)
        try:
            try:
                answer: dict[str, Any] = {"found": PROBES[name](given)}
            except BaseException as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            os.write(its, json.dumps(answer).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(its)
    until, said = time.monotonic() + seconds, b""
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([mine], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            break
        piece = os.read(mine, 65536)
        if not piece:
            break
        said += piece
    os.close(mine)
    _, status = os.waitpid(child, 0)
    if said:
        answered: dict[str, Any] = json.loads(said)
        return answered
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return {"found": [], "killed": True}  # the filter ended it in the middle of the attack
    return {"error": f"it ended without an answer (status {status})"}
