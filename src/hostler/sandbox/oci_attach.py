"""How does a command run inside a container as if it were this process: its arguments, its streams, its end?

A program of its own, which the launcher and the entrance of a sandbox are (`oci_launchers` writes them). It imports
nothing but a few modules of the standard library, because every session waits for it: about 15 ms. It asks the engine
to start `oci_tether.pl` inside, which connects back over a unix socket, and then carries bytes both ways.
"""

from __future__ import annotations

import _thread
import os
import signal
import socket
import sys
import time

NOT_ENTERED = 125
QUIET_SECONDS = 1.0
"""How long the output is waited for that a process which stays behind holds open, after the command has ended."""
ANSWER_SECONDS = 60.0
GRACE_SECONDS = 5
"""How long the command has to end by itself after SIGTERM before it is killed."""

_FRAME_HEAD = 8


class NotEntered(Exception):
    """The command was not started."""


def main(
    engine: str, prefix: str, container: str, user: str, calls: str, inside: str, environment: str, program: str
) -> None:
    """Never comes back.

    engine       path of the engine's socket; `prefix` comes before its paths
    calls        host directory that is `inside` in the container
    environment  file with the variables, each ended by NUL
    program      what gets our arguments, and nothing inside outlives it; empty: they are a command of their own
    """
    code = NOT_ENTERED
    try:
        command = [*filter(None, [program]), *sys.argv[1:]]
        if not command:
            raise NotEntered("there is no command: give one as arguments")
        code = _Call(engine, prefix).run(
            container, user, calls, inside, "program" if program else "command", environment, command
        )
    except NotEntered as error:
        _say(str(error))
    except OSError as error:
        _say(f"the container engine at {engine} can't be spoken to: {error}")
    os._exit(code)  # the other thread may be waiting for input for ever


class _Call:
    """One command: two connections, and a thread for the input."""

    def __init__(self, engine: str, prefix: str) -> None:
        self._engine = engine
        self._prefix = prefix
        self._leash: socket.socket | None = None
        self._pending: list[int] = []

    def run(
        self, container: str, user: str, calls: str, inside: str, kind: str, environment: str, command: list[str]
    ) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, self._on_signal)
        name = f"{os.getpid():x}-{time.monotonic_ns():x}"
        listener = socket.socket(socket.AF_UNIX)
        os.chdir(calls)  # names of sockets are at most 107 bytes long
        try:
            listener.bind(name)
            os.chmod(name, 0o666)  # who may come here at all is said by the directories above
            listener.listen(1)
            started = self._start(container, user, [f"{inside}/tether", f"{inside}/{name}", kind, str(_prctl())])
            early = self._wait_for_tether(listener, started)
        finally:
            os.unlink(name)
            os.chdir("/")
        listener.close()
        assert self._leash is not None
        with open(environment, "rb") as file:
            variables = file.read().split(b"\0")[:-1]
        words = [b"%d" % len(variables), *variables, *map(os.fsencode, command)]
        message = b"\0".join(words)
        self._leash.sendall(len(message).to_bytes(4, "big") + message + bytes(self._pending))
        _thread.start_new_thread(_feed, (started,))
        return self._carry(started, early)

    # ------------------------------------------------------------------------------------------------- starting it

    def _ask(self, path: str, body: str, *headers: str) -> tuple[socket.socket, bytes, bytes]:
        """Gives the connection, the head of the answer, and what came behind it."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(self._engine)
        content = body.encode()
        lines = [f"POST {self._prefix}{path} HTTP/1.1", "Host: engine", "Content-Type: application/json", *headers]
        lines += [f"Content-Length: {len(content)}", "", ""]
        connection.sendall("\r\n".join(lines).encode() + content)
        got = b""
        while b"\r\n\r\n" not in got:
            piece = connection.recv(1 << 16)
            if not piece:
                raise NotEntered("the container engine hung up")
            got += piece
        head, _, rest = got.partition(b"\r\n\r\n")
        return connection, head, rest

    def _start(self, container: str, user: str, command: list[str]) -> socket.socket:
        words = ",".join(f'"{word}"' for word in command)  # all of them are ours, without anything to escape
        streams = '"AttachStdin":true,"AttachStdout":true,"AttachStderr":true,"Tty":false'
        made = f'{{{streams},"User":"{user}","Cmd":[{words}]}}'
        connection, head, rest = self._ask(f"/containers/{container}/exec", made, "Connection: close")
        while b'"Id":"' not in rest or b"}" not in rest:
            piece = connection.recv(1 << 16)
            if not piece:
                break
            rest += piece
        connection.close()
        if b" 201 " not in head.split(b"\r\n")[0] + b" ":
            raise NotEntered(f"the sandbox doesn't run: {rest.decode(errors='replace').strip()}")
        exec_id = rest.partition(b'"Id":"')[2].partition(b'"')[0].decode()
        connection, head, rest = self._ask(
            f"/exec/{exec_id}/start", '{"Detach":false,"Tty":false}', "Connection: Upgrade", "Upgrade: tcp"
        )
        if head.split(b" ")[1] not in (b"101", b"200"):
            raise NotEntered(f"the sandbox takes no command: {rest.decode(errors='replace').strip()}")
        self._early = rest
        return connection

    def _wait_for_tether(self, listener: socket.socket, started: socket.socket) -> bytes:
        """Until the tether has connected. What the engine says before, and its hanging up, is why it doesn't."""
        import select

        said = self._early
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            ready = select.select([listener, started], [], [], max(0.0, deadline - time.monotonic()))[0]
            if listener in ready:
                self._leash = listener.accept()[0]
                return said
            piece = started.recv(1 << 16) if started in ready else b""
            said += piece
            if not piece:
                words = said[_FRAME_HEAD:] if said[:1] in b"\0\1\2" else said
                raise NotEntered(words.decode(errors="replace").strip() or "the sandbox let no command in")

    # ------------------------------------------------------------------------------------------------- while it runs

    def _carry(self, started: socket.socket, got: bytes) -> int:
        """Output of the command to our own, until it has ended. Gives its exit status."""
        import select

        leash = self._leash
        assert leash is not None
        started.settimeout(None)
        buffer = bytearray(got)
        outputs, said, status = {1: 1, 2: 2}, b"", -1
        watched = [started, leash]
        quiet: float | None = None
        while True:
            if _pass_frames(buffer, outputs):
                self._send(signal.SIGPIPE)
            if status >= 0 and started not in watched:
                return status
            if leash not in watched and status < 0:
                # Killed with everything else: the sandbox was destroyed, or ran out of memory.
                status, quiet = 128 + signal.SIGKILL, QUIET_SECONDS
                continue
            ready = select.select(watched, [], [], quiet)[0]
            if not ready:
                return status
            if started in ready:
                piece = _receive(started)
                buffer += piece
                if not piece:
                    watched.remove(started)
            if leash in ready:
                piece = _receive(leash)
                said += piece
                if not piece:
                    watched.remove(leash)
                elif said.endswith(b"\n") and status < 0:
                    status, quiet = _status(said), QUIET_SECONDS

    def _on_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            signal.alarm(GRACE_SECONDS)
        self._send(signal.SIGKILL if number == signal.SIGALRM else number)

    def _send(self, number: int) -> None:
        if self._leash is None:
            self._pending.append(number)
            return
        try:
            self._leash.send(bytes([number]))
        except OSError:
            return


def _feed(to: socket.socket) -> None:
    """Our input to the command's, and its end."""
    try:
        while True:
            piece = os.read(0, 1 << 16)
            if not piece:
                break
            to.sendall(piece)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except ConnectionError:
        return b""


def _pass_frames(buffer: bytearray, outputs: dict[int, int]) -> bool:
    """Both outputs travel in one stream: 1 byte which, 3 nothing, 4 length, then that many bytes.

    True: one of our outputs was closed just now.
    """
    closed = False
    while len(buffer) >= _FRAME_HEAD:
        length = int.from_bytes(buffer[4:8], "big")
        if len(buffer) < _FRAME_HEAD + length:
            break
        target = outputs.get(buffer[0])
        view = memoryview(bytes(buffer[_FRAME_HEAD : _FRAME_HEAD + length]))
        del buffer[: _FRAME_HEAD + length]
        while view and target is not None:
            try:
                view = view[os.write(target, view) :]
            except BrokenPipeError:
                del outputs[target]  # nobody reads any more: the rest of this output goes nowhere
                closed = True
                break
    return closed


def _status(said: bytes) -> int:
    word, _, rest = said.strip().partition(b" ")
    if word == b"ended":
        code = os.waitstatus_to_exitcode(int(rest))
        return 128 - code if code < 0 else code
    _say(f"the command can't be executed inside: {rest.decode(errors='replace')}")
    return NOT_ENTERED


def _prctl() -> int:
    """Number of the system call on this architecture; 0: unknown."""
    return {"x86_64": 157, "aarch64": 167, "riscv64": 167}.get(os.uname().machine, 0)


def _say(words: str) -> None:
    os.write(2, f"hostler: {words}\n".encode(errors="replace"))
