"""How does a command get into a gVisor sandbox that runs, and how does it end when its caller is killed?

A program of its own, started with `launch|enter RUNSC ROOT SANDBOX HOME COMMAND…` as its arguments by the
launcher and the entrance of a `GvisorSandbox`; it imports nothing but the standard library. `runsc exec` hands its
streams to gVisor's kernel and gives the exit status. But it passes no signal on, and the kernel keeps the streams: a
client that is killed leaves its command running. Therefore two processes. One is known to the caller. The other, the
keeper, is signalled by nobody else, sees by a pipe that the first one died, and then kills the command by its number
inside. With the launcher's program everything ends that the agent has started, as with process 1 of a namespace.

The sandbox may still be starting. Then the client gets itself ready meanwhile, which takes `runsc` as long as a quarter
of that start, and is held back until the sandbox is up.
"""

import fcntl
import os
import select
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    # The same, without the names of signals as an enumeration: that is a third of this program's start.
    import _signal as signal

UP = "up"
"""File that says that the sandbox was started."""
STARTING = "starting"
"""File that is locked for as long as somebody starts it."""
RUNS = "runs"
"""Folder with a file for each command that runs: its name is the number of the process that brought it."""

NOT_ENTERED = 125
CLIENT_FAILED = 128
"""Exit status of `runsc exec` when it could not start the command; of a command, too, that chooses it."""
USER = "1000:1000"
_END_ALL = ("-cap", "CAP_SYS_RESOURCE", "-user", USER)
"""Who ends the agent's processes: its own user, so that it can't hit the holder's, past the limit of processes."""

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PIECE = 1 << 16


def main() -> int:
    how, runsc, root, sandbox, home, *command = sys.argv[1:]
    os.closerange(3, 1 << 16)
    os.chdir("/")
    pid_file = f"{home}/{RUNS}/{os.getpid()}"
    gate = "" if os.path.exists(f"{home}/{UP}") else f"{pid_file}.gate"
    pumps = [_through_a_pipe(number) for number in (0, 1, 2)]
    watched, held = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        code = NOT_ENTERED
        try:
            os.close(held)
            run = [runsc, "--root", root]
            if gate:
                os.mkfifo(gate, 0o600)
            log = ["--log", gate] if gate else []  # opened before anything else is done
            client = [*run, *log, "exec", "-user", USER, "-internal-pid-file", pid_file, sandbox, *command]
            kill = [*run, "kill", "-pid", "{pid}", sandbox, "{signal}"]
            code = _keep(client, kill, pid_file, watched, home, gate)
            if how == "launch" and os.path.exists(f"{home}/{UP}"):
                _quietly([*run, "exec", *_END_ALL, sandbox, "/bin/sh", "-c", "kill -9 -1"])
        except BaseException as error:
            os.write(2, f"enter: {error}\n".encode())
        finally:
            # Last: who adopts the sandbox waits for it, and what it starts then must not be what is ended here.
            for file in (gate, pid_file):
                if os.path.exists(file):
                    os.unlink(file)
            os._exit(code)
    os.close(watched)
    _let_go_of_streams()

    def pass_on(number: int, frame: object) -> None:
        os.kill(keeper, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    code = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
    os.dup2(1, 2)  # nobody writes to the pumps any more
    for pump in pumps[1:]:  # the one of the input may wait for it for ever
        if pump:
            os.waitpid(pump, 0)
    return 128 - code if code < 0 else code


def _keep(client: list[str], kill: list[str], pid_file: str, watched: int, home: str, gate: str) -> int:
    """Runs the client; when the process at the other end of `watched` is gone, ends the command inside.

    `kill` has `{pid}` and `{signal}` in it: `runsc exec` passes no signal on by itself. `gate`: a pipe with a name, on
    which the client waits until it is opened here; empty: it need not wait.
    """
    os.setsid()  # what is sent to the caller's group is not meant for this one
    waiting: list[int] = []
    heard, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in _PASSED_ON:
        signal.signal(number, lambda number, frame: waiting.append(number))
    process = os.posix_spawn(client[0], client, dict(os.environ), setsigdef=_PASSED_ON)
    _let_go_of_streams()
    ended = os.pidfd_open(process)
    look = select.poll()
    if gate:
        look.register(watched, select.POLLIN)
        try:
            reason = _not_up(home, look)
        except OSError as error:
            reason = str(error)
        if reason:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.write(2, f"enter: {reason}\n".encode())
            return NOT_ENTERED
        os.open(gate, os.O_RDONLY | os.O_NONBLOCK)  # and kept open: what it logs has to go somewhere
    for descriptor in (ended, watched, heard):
        look.register(descriptor, select.POLLIN)
    while ended not in (ready := [descriptor for descriptor, _ in look.poll()]):
        if watched in ready:
            look.unregister(watched)
            waiting.append(signal.SIGKILL)
        else:
            os.read(heard, 64)
        while waiting:
            _send(waiting.pop(0), kill, pid_file, ended)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code == CLIENT_FAILED and not _number_inside(pid_file):
        return NOT_ENTERED
    return 128 - code if code < 0 else code


def _not_up(home: str, gone: select.poll) -> str:
    """Waits until nobody starts the sandbox any more. Why nothing is to be run in it; empty: it is up.

    `gone`: says that the caller is gone.
    """
    if not os.path.exists(f"{home}/{UP}"):
        starting = os.open(f"{home}/{STARTING}", os.O_RDONLY)
        while not _lock(starting):
            if gone.poll(1):
                return "nobody waits for it any more"
        os.close(starting)
    if os.path.exists(f"{home}/{UP}"):
        return "nobody waits for it any more" if gone.poll(0) else ""
    with open(f"{home}/said", errors="replace") as file:
        return f"gVisor did not start: {file.read().strip()[-600:] or 'it was ended'}"


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _send(number: int, kill: list[str], pid_file: str, ended: int) -> None:
    """Signals the command as soon as it has a number inside."""
    look = select.poll()
    look.register(ended, select.POLLIN)
    while not (pid := _number_inside(pid_file)):
        if look.poll(5):
            return
    _quietly([word.format(pid=pid, signal=number) for word in kill])


def _quietly(command: list[str]) -> None:
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    os.waitpid(os.posix_spawn(command[0], command, dict(os.environ), file_actions=quiet), 0)


def _number_inside(pid_file: str) -> str:
    """Empty until the command runs."""
    try:
        with open(pid_file) as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def _let_go_of_streams() -> None:
    """Whoever reads the command's output must see its end when the command closes it. Errors stay to be said."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _through_a_pipe(number: int) -> int:
    """gVisor reads and writes a regular file at offsets of its own: puts a pipe, and a process that copies, between.

    Gives the process; 0 when the stream is no regular file."""
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return 0
    except OSError:  # closed: nothing of the sandbox's may get its number
        os.open(os.devnull, os.O_RDWR)
        return 0
    reading, writing = os.pipe()
    source, target = (number, writing) if number == 0 else (reading, number)
    pump = os.fork()
    if pump == 0:
        os.closerange(3, min(reading, writing))
        os.close(reading if number == 0 else writing)
        try:
            while piece := os.read(source, _PIECE):
                while piece:
                    piece = piece[os.write(target, piece) :]
        except OSError:
            os._exit(1)
        os._exit(0)
    os.dup2(reading if number == 0 else writing, number)
    os.close(reading)
    os.close(writing)
    return pump
