"""How does a further command get into a bubblewrap sandbox that runs?

A program of its own, started as `python -I -S enter.py SETTINGS COMMAND…` by `BubblewrapSandbox.entrance`; it imports
nothing but the standard library. nsenter(1) would do the first half only: the command would have its capabilities and
would not have the sandbox's system-call filter. In this order: find a process inside, join the control groups, close
what is open, become the sandbox's user, join the namespaces, fork (a process id namespace holds for children), drop
every capability, load the filter, execute. What a process inside could do to the child meanwhile is nothing: it is not
dumpable, so nobody can read its memory, descriptors or program (the way into runc of CVE-2019-5736).
"""

import ctypes
import json
import os
import resource
import signal
import sys
from types import FrameType

NOT_ENTERED = 125
_UID_INSIDE = 1000

_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = (
    _CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNET
)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 4, 22, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_HIGHEST_CAPABILITY = 63
_FILTER_RECORD_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)


class NotEntered(Exception):
    """The sandbox doesn't run, or its kernel objects can't be joined."""


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise NotEntered(f"{what}: {os.strerror(number)}")


def _prctl(what: str, *arguments: int) -> None:
    _checked(_libc.prctl(*(ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:5])), what)


def children(pid: int) -> list[int]:
    """Of all its threads that are there. What has ended has none."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
        except OSError:
            continue
    return found


def find_inside(mark: bytes) -> int:
    """A process of the sandbox, by the host's number: the launcher's program, or what it has become."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark not in file.read().split(b"\0"):
                    continue
        except OSError:
            continue
        waiting = [int(name)]
        while waiting:
            pid = waiting.pop()
            if _number_inside(pid) == 2:  # 1 is bwrap's own, whose user namespace is the outer one
                return pid
            waiting += children(pid)
    raise NotEntered("the sandbox doesn't run")


def _number_inside(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"NSpid:"):
                    numbers = line.split()[1:]
                    return int(numbers[-1]) if len(numbers) > 1 else None
    except OSError:
        pass
    return None


def enter(settings: dict[str, object], command: list[str]) -> int:
    """Runs the command inside and gives its exit status. Raises NotEntered, and then nothing has run."""
    environment = settings["environment"]
    entrances, root, files = settings["entrances"], settings["root"], settings["open_files"]
    assert isinstance(environment, dict)
    assert isinstance(entrances, list)
    assert isinstance(files, int)
    with open(str(settings["filter"]), "rb") as file:
        program = file.read()
    pid = find_inside(str(settings["mark"]).encode())
    target = os.pidfd_open(pid)
    if _number_inside(pid) != 2:  # between the look and the descriptor the number could get a new owner
        raise NotEntered("the sandbox has just ended")
    for entrance in entrances:
        with open(entrance, "w") as door:
            door.write("0")
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != target:
            try:
                os.close(int(name))
            except OSError:
                continue
    _prctl("dumpable", _PR_SET_DUMPABLE, 0)
    sys.meta_path.clear()  # from here on a module would come from the sandbox's file system
    if root:
        os.setgroups([])
    # In one call: the right to join them comes from bwrap's outer user namespace, and is lost inside the inner one.
    _checked(_libc.setns(target, _NAMESPACES), "namespaces")
    os.setresgid(_UID_INSIDE, _UID_INSIDE, _UID_INSIDE)
    os.setresuid(_UID_INSIDE, _UID_INSIDE, _UID_INSIDE)
    os.close(target)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _become(environment, command, program, parent)
        except BaseException as error:
            os.write(2, f"enter: {error}\n".encode())
        os._exit(NOT_ENTERED)

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    while True:
        try:
            _, status = os.waitpid(child, 0)
            break
        except InterruptedError:
            continue
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _become(environment: dict[str, str], command: list[str], program: bytes, parent: int) -> None:
    _prctl("dumpable", _PR_SET_DUMPABLE, 0)
    _prctl("death signal", _PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir("/workspace")
    for capability in range(_HIGHEST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)  # those beyond the kernel's last: EINVAL
    _prctl("ambient capabilities", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capabilities")
    _prctl("new privileges", _PR_SET_NO_NEW_PRIVS, 1)
    buffer = ctypes.create_string_buffer(program, len(program))
    loaded = _Program(len(program) // _FILTER_RECORD_BYTES, ctypes.addressof(buffer))
    _prctl("filter", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(loaded))
    places = (
        [""] if "/" in command[0] else [f"{place}/" for place in environment.get("PATH", "/usr/bin:/bin").split(":")]
    )
    for place in places:
        try:
            os.execve(place + command[0], command, environment)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
    raise NotEntered(f"there is no program {command[0]!r} inside")


def main() -> int:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    try:
        return enter(settings, sys.argv[2:])
    except (NotEntered, OSError) as error:
        print(f"enter: {error}", file=sys.stderr)
        return NOT_ENTERED


if __name__ == "__main__":
    sys.exit(main())
