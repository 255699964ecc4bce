"""What is there of the server on this host: its process, its sandboxes, and what must not be left of them?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from chaos_client import Address

PROGRAM = Path(__file__).with_name("chaos_server.py")
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Trace:
    """One sandbox as it was when the server died."""

    sandbox_id: str
    session_id: str
    groups: tuple[Path, ...]
    processes: tuple[tuple[int, str], ...]
    """(pid, start time in ticks): together they name a process for as long as the host is up."""


class Server:
    """The server program, started and killed as often as wanted. `address` says where it is, when it is."""

    def __init__(self, state: Path, environment: Mapping[str, str], log: Path) -> None:
        self.address = Address()
        self.lives = 0
        self._state = state
        self._environment = dict(environment)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def spawn(self) -> None:
        with self._log.open("ab") as log:
            log.write(f"---- life {self.lives}\n".encode())
            log.flush()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, str(PROGRAM), stdout=asyncio.subprocess.PIPE, stderr=log, env=self._environment
            )
        self.lives += 1

    async def ready(self) -> None:
        """Wait until it listens."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            line = await self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the server did not start; see {self._log}")
        self.address.url = json.loads(line)["url"]
        self.address.up.set()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self._process is not None
        self.address.up.clear()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM: the exit status."""
        assert self._process is not None
        self.address.up.clear()
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_SECONDS):
            return await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def sandboxes(self) -> list[Trace]:
        """Every sandbox that has a record now."""
        found = []
        for path in sorted((self._state / "sandbox" / "sandboxes").glob("*/record.json")):
            with contextlib.suppress(OSError):
                record = json.loads(path.read_text())
                groups = tuple(Path(group) for group in record["groups"])
                pids = {pid for group in groups for pid in _members(group)} | set(_marked(record["sandbox_id"]))
                named = tuple((pid, start) for pid in sorted(pids) if (start := _start_time(pid)) is not None)
                found.append(Trace(record["sandbox_id"], record["session_id"], groups, named))
        return found

    def left_of(self, traces: list[Trace]) -> list[str]:
        """What is still there of these sandboxes."""
        said = []
        for trace in traces:
            said += [f"cgroup {group}" for group in trace.groups if group.exists()]
            said += [f"process {_describe(pid)}" for pid, start in trace.processes if _start_time(pid) == start]
            said += [f"process {_describe(pid)}" for pid in _marked(trace.sandbox_id)]
            said += [f"record of {trace.sandbox_id}"] * (self._folder(trace.sandbox_id).exists())
        # The homes of sessions and the volumes in them are the new life's as well; but none may be mounted twice.
        homes = str(self._state / "sessions")
        points = [line.split()[4] for line in self._mounts()]
        said += [f"mount {point}" for point in points if not (point == homes or point.startswith(f"{homes}/"))]
        return [*said, *(f"{count} mounts at {point}" for point, count in Counter(points).items() if count > 1)]

    def left_at_all(self, uids: range) -> list[str]:
        """After a stop: whatever there is of any sandbox of this server, by uid, by name, by mount."""
        said = [f"mount {line}" for line in self._mounts()]
        said += [f"sandbox folder {path}" for path in (self._state / "sandbox" / "sandboxes").glob("*")]
        state = os.fsencode(self._state)
        for pid in _pids():
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = Path(f"/proc/{pid}/status").read_text()
                uid = int(status.split("\nUid:", 1)[1].split()[0])
                dead = status.split("\nState:", 1)[1].split()[0] in "ZX"  # and waits for the host's init
                if (uid in uids and not dead) or (
                    pid != os.getpid() and state in Path(f"/proc/{pid}/cmdline").read_bytes()
                ):
                    said.append(f"process {_describe(pid)}")
        return said

    def _folder(self, sandbox_id: str) -> Path:
        return self._state / "sandbox" / "sandboxes" / sandbox_id

    def _mounts(self) -> Iterator[str]:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if str(self._state) in line:
                yield line


def _members(group: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    return []


def _pids() -> Iterator[int]:
    with os.scandir("/proc") as entries:
        yield from [int(entry.name) for entry in entries if entry.name.isdigit()]


def _marked(sandbox_id: str) -> Iterator[int]:
    mark = f"HOSTLER_SANDBOX={sandbox_id}".encode()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes():
                yield pid


def _start_time(pid: int) -> str | None:
    """None: no such process, or a dead one that nobody has waited for."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] in "ZX" else fields[19]
    return None


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes()[:120]!r}"
    return str(pid)
