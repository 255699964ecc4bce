"""How are all probes of one sandbox made at once, with everything planted around it that they look for?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from hostler.attacks.cases import Case, CouldNotRun, Outcome
from hostler.attacks.rooms import Answer, Room, SandboxGround, planted

CONTROL = "road_control"
"""No attack: while it fails, denials on the road prove nothing."""
_ON_ROAD = frozenset({"road_denials", "road_by_socket", "road_to_host"})

HOSTILE_ENVIRONMENT = {
    "LD_LIBRARY_PATH": "/workspace",
    "NODE_OPTIONS": "--require=/workspace/x.js",
    "PYTHONSTARTUP": "/workspace/x.py",
    "PYTHONPATH": "/workspace",
    "GIT_DIR": "/workspace/.git",
    "GIT_SSH_COMMAND": "/workspace/x",
    "SSH_AUTH_SOCK": "/tmp/agent.sock",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/tmp/bus",
    "DOCKER_HOST": "unix:///tmp/docker.sock",
}
"""What a worker's environment may hold, and no sandbox may get. Set for the launcher and the entrance only."""


async def run(ground: SandboxGround, cases: Sequence[Case]) -> list[Outcome]:
    """Outcomes of cases that have `inside`, in their order. What keeps all of them from being made is `not_run`."""
    try:
        answers, control = await _answers(ground, cases)
    except CouldNotRun as problem:
        return [Outcome(case, "not_run", (str(problem),)) for case in cases]
    return [_judged(case, answers.get(_key(case)), control) for case in cases]


def _key(case: Case) -> tuple[str, str]:
    assert case.inside is not None
    return case.inside.through, case.inside.probe


def _judged(case: Case, answer: Answer | None, control: str) -> Outcome:
    assert case.inside is not None
    if answer is None:
        return Outcome(case, "not_run", ("the program in the sandbox ended before it came to this",))
    if answer.error:
        return Outcome(case, "not_run", (answer.error,))
    if answer.found:
        return Outcome(case, "broken", answer.found)
    if control and case.inside.probe in _ON_ROAD:
        return Outcome(case, "not_run", (control,))
    return Outcome(case, "held")


async def _answers(ground: SandboxGround, cases: Sequence[Case]) -> tuple[dict[tuple[str, str], Answer], str]:
    found: dict[tuple[str, str], Answer] = {}
    ways = [case.inside for case in cases if case.inside is not None]
    early = [way.probe for way in ways if way.through == "launcher"]
    late = [way.probe for way in ways if way.through == "entrance"]
    environment = {**os.environ, **HOSTILE_ENVIRONMENT, "CANARY": ground.mark}
    async with planted(ground) as given, ground.room() as room:
        with _inheritable(ground) as descriptors:
            options = {"given": given, "env": environment, "pass_fds": descriptors}
            first = await room.visit([CONTROL, *early], stay=True, **options)  # type: ignore[arg-type]
            control = first.answers.pop(CONTROL, Answer(error="there was no answer"))
            found |= {("launcher", name): answer for name, answer in first.answers.items()}
            if not first.answers and early:
                raise CouldNotRun(_why(room, first.said))
            if late and first.finished:
                second = await room.visit(late, by="entrance", **options)  # type: ignore[arg-type]
                found |= {("entrance", name): answer for name, answer in second.answers.items()}
                if not second.answers:
                    raise CouldNotRun(f"no command gets in by the entrance: {second.said}")
            if first.process.returncode is None:
                await first.end(ground.seconds)
    return found, control.error


def _why(room: Room, said: str) -> str:
    return f"no probe ran in a {room.spec.technology} sandbox: {said or 'it said nothing'} (it needs /usr/bin/python3)"


@contextlib.contextmanager
def _inheritable(ground: SandboxGround) -> Iterator[tuple[int, ...]]:
    """Descriptors of the planted file, as a worker might leave them open: a low one and high ones."""
    first = os.open(ground.secret_file, os.O_RDONLY)
    kept = [first]
    try:
        for wanted in (63, 200):
            try:
                os.fstat(wanted)
            except OSError:
                kept.append(os.dup2(first, wanted))
        yield tuple(kept)
    finally:
        for fd in kept:
            os.close(fd)
