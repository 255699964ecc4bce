"""On which event loop does the server run, and how are programs started on it?

uvloop's, but for starting programs: it forks, and to copy the page tables of a server with 200 MB takes 8 to 12 ms, in
which nothing else happens on the loop; what was copied is then paid for again, page by page, by whoever writes to it.
`subprocess` starts them by `vfork`, in 0.4 ms (`/bin/true`; 8 before) or 1 ms (a launcher in a server; 12 before).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from asyncio.base_subprocess import BaseSubprocessTransport
from collections.abc import Callable
from typing import IO, Any

import uvloop


class EventLoop(uvloop.Loop):
    """Starts programs by `vfork`; as uvloop does, where the kernel has no descriptors of processes (before 5.3)."""

    async def subprocess_exec(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.SubprocessProtocol],
        program: str | bytes,
        *args: str | bytes,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, asyncio.SubprocessProtocol]:
        if not _can_watch():
            streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
            forked: Any = await super().subprocess_exec(protocol_factory, program, *args, **streams, **kwargs)
            return forked[0], forked[1]
        protocol: Any = protocol_factory()
        connected = self.create_future()
        started: Any = _Started(
            self, protocol, (program, *args), False, stdin, stdout, stderr, 0, waiter=connected, **kwargs
        )
        try:
            await connected
        except BaseException:
            started.close()
            await started._wait()
            raise
        return started, protocol


class _Started(BaseSubprocessTransport):
    """A program and its pipes. asyncio's own transport, whose end is told by a descriptor of the process."""

    _loop: EventLoop
    _proc: subprocess.Popen[bytes]
    _exit_waiters: list[asyncio.Future[int]]

    def _start(self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any) -> None:
        self._proc = subprocess.Popen(
            args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=bufsize, **kwargs
        )
        for name in ("stdin", "stdout", "stderr"):
            if (pipe := getattr(self._proc, name)) is not None:
                setattr(self._proc, name, _Pipe(pipe))
        end = os.pidfd_open(self._proc.pid)
        self._loop.add_reader(end, self._ended, end)

    def _ended(self, end: int) -> None:
        self._loop.remove_reader(end)
        os.close(end)
        code = self._proc.wait()  # at once: it has ended
        self._process_exited(code)
        # Else they would be told when its pipes are closed as well: never, if nobody reads all of its output.
        waiting, self._exit_waiters = self._exit_waiters or [], []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(code)


class _Pipe:
    """Our end of a pipe, which whoever asks for its number has to close.

    uvloop closes the number, and then the file that it was given it as: by then the number can be that of something
    that a thread has opened meanwhile.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """`file` is closed."""
        self._number = os.dup(file.fileno())
        self._is_ours = True
        file.close()

    def fileno(self) -> int:
        self._is_ours = False
        return self._number

    def close(self) -> None:
        if self._is_ours:
            self._is_ours = False
            os.close(self._number)

    __del__ = close


def _can_watch() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def new_event_loop() -> EventLoop:
    return EventLoop()
