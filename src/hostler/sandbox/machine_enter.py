"""How does a command get into a machine? The launcher and the entrance of a `MicrovmSandbox` become this program.

`machine_enter.py launch|enter FOLDER COMMAND…`: its streams become a stream of the machine's relay, whose socket is in
FOLDER. When it is killed, its connection ends, and so does the command.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable

from hostler.sandbox import machine_frames as frames
from hostler.sandbox.machine_frames import Frame, Inlet, Line, Loop, Outlet

NOT_ENTERED = 125
KILLED = 137
SAFE = 4096
"""Bytes that a pipe which can be written to takes without blocking."""


def connect(folder: str) -> socket.socket:
    """Raises OSError when the machine doesn't run."""
    end = socket.socket(socket.AF_UNIX)
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY)  # the name of a socket is at most 107 bytes long
    try:
        end.connect(f"/proc/self/fd/{place}/relay.sock")
    finally:
        os.close(place)
    return end


class Entering:
    def __init__(self, end: socket.socket, how: str, command: list[str]) -> None:
        self.loop = Loop()
        self.code: int | None = None
        self._over = False
        self.line = Line(self.loop, end.detach(), self._take, self._broken)
        self.line.send(0, frames.RUN, json.dumps({"how": how, "argv": command}).encode())
        self._stdin = Inlet(self.loop, 0, 0, frames.DATA, self.line.send)
        self._outlets = {
            kind: Outlet(self.loop, fd, self._giving_back(kind), most=SAFE)
            for fd, kind in ((1, frames.DATA), (2, frames.ERRORS))
        }

    def _giving_back(self, kind: int) -> Callable[[int], None]:
        def give_back(count: int) -> None:
            self.line.send(0, frames.CREDIT, count.to_bytes(4, "big") + bytes([kind]))

        return give_back

    def _take(self, frame: Frame) -> None:
        _, kind, payload = frame
        if kind in self._outlets:
            self._outlets[kind].put(payload)
        elif kind == frames.CREDIT:
            self._stdin.credit(int.from_bytes(payload, "big"))
        elif kind == frames.EOF and payload[0] in self._outlets:
            # Whoever reads the command's output must see its end when the command closes it.
            fd = 1 if payload[0] == frames.DATA else 2
            self._outlets[payload[0]].end(lambda: self._let_go(fd))
        elif kind == frames.EXIT:
            self.code = payload[0]
            self._stdin.close()
            self._finish()

    def _let_go(self, fd: int) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, fd)
        os.close(null)

    def _finish(self) -> None:
        left = [outlet for outlet in self._outlets.values() if outlet.open]
        if left:
            left[0].end(self._finish)
        else:
            self._over = True

    def _broken(self) -> None:
        """The machine has ended."""
        self.line.close()
        self.code = KILLED
        self._stdin.close()
        self._finish()

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, frame: self.line.send(0, frames.SIGNAL, bytes([number])))
        while not self._over:
            self.loop.once()
        return NOT_ENTERED if self.code is None else self.code


def main() -> int:
    how, folder, *command = sys.argv[1:]
    os.closerange(3, 1 << 16)
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    try:
        end = connect(folder)
    except OSError as error:
        sys.stderr.write(f"enter: the machine doesn't run: {error}\n")
        return NOT_ENTERED
    return Entering(end, how, command).run()
