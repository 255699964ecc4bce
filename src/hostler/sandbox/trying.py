"""What is tried when somebody asks what this host gives? A sandbox like a session's, with a program that says by its
exit status that it ran."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hostler.engine.sandbox_port import SandboxLimits, SandboxSpec, SandboxUnavailable

RAN = 42
"""Exit status of the program. No technology gives it by itself."""


@contextmanager
def spec(place: Path, limits: SandboxLimits) -> Iterator[SandboxSpec]:
    """What a trial sandbox is made from, in the folder `place`; good for as long as the context is open."""
    program = place / "program"
    program.write_text(f"#!/bin/sh\nexit {RAN}\n")
    program.chmod(0o755)
    sockets = [place / "model.sock", place / "egress.sock"]
    with ExitStack() as stack:
        for path in sockets:
            stack.enter_context(_bound(path))
        yield SandboxSpec(
            session_id="probe",
            workspace=place / "workspace",
            outputs=place / "outputs",
            harness_state=place / "harness",
            model_socket=sockets[0],
            egress_socket=sockets[1],
            program=program,
            limits=limits,
        )


def run(launcher: Path, seconds: float) -> tuple[int, str]:
    """Exit status of a trial's program, and the end of what was said. Blocks. Raises SandboxUnavailable."""
    try:
        done = subprocess.run([launcher], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise SandboxUnavailable(f"a program did not end in {seconds:g} s") from error
    except OSError as error:
        raise SandboxUnavailable(f"a trial sandbox did not run: {error}") from error
    return done.returncode, done.stderr.decode(errors="replace").strip()[-600:]


def _bound(path: Path) -> socket.socket:
    """A socket at a path of any length."""
    end = socket.socket(socket.AF_UNIX)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end.bind(f"/proc/self/fd/{folder}/{path.name}")
    except BaseException:
        end.close()
        raise
    finally:
        os.close(folder)
    return end
