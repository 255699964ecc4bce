"""C6: which doors of the kernel are open?

Arguments are bad pointers and bad descriptors: a kernel that looks at them says EFAULT, EINVAL or EBADF, and that is
already more than a sandbox is promised. Nothing is changed where a call is let through, even for root.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import socket
import stat
from collections.abc import Callable
from typing import Any

from hostler.attacks.inside.battery import probe

BAD = -1 & 0xFFFFFFFFFFFFFFFF
"""As a pointer: no address of a process. As a descriptor: none."""

REFUSED = {errno.EPERM, errno.ENOSYS, errno.EACCES}

# Name: number on x86_64, number on aarch64. None: not there.
NUMBERS: dict[str, tuple[Any, Any]] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "acct": (163, 89),
    "fanotify_init": (300, 262),
    "sethostname": (170, 161),
    "clock_settime": (227, 112),
    "iopl": (172, None),
    "modify_ldt": (154, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "prctl": (157, 167),
    "ioctl": (16, 29),
    "getpid": (39, 172),
}

_libc = ctypes.CDLL(None, use_errno=True)


def number(name: str) -> Any:
    return NUMBERS[name][{"x86_64": 0, "aarch64": 1}[platform.machine()]]


def call(nr: int, *arguments: int) -> int:
    """0, or the error."""
    ctypes.set_errno(0)
    words = [ctypes.c_ulong(argument & (2**64 - 1)) for argument in arguments]
    return 0 if _libc.syscall(ctypes.c_long(nr), *words) >= 0 else ctypes.get_errno()


def _answered(*names: str) -> list[str]:
    found = []
    for name in names:
        result = _result(name)
        if result not in REFUSED:
            found.append(f"{name} was answered {errno.errorcode.get(result, 'yes')}")
    return found


def _result(name: str) -> int:
    nr = number(name)
    return errno.EPERM if nr is None else call(nr, BAD, BAD, BAD, BAD, BAD, BAD)


@probe
def mounts(given: dict[str, Any]) -> list[str]:
    return _answered("mount", "umount2", "pivot_root", "chroot")


@probe
def new_mounts(given: dict[str, Any]) -> list[str]:
    return _answered("move_mount", "open_tree", "fsopen", "fsmount", "fspick", "mount_setattr")


@probe
def namespaces(given: dict[str, Any]) -> list[str]:
    return _answered("unshare", "setns")


@probe
def tracing(given: dict[str, Any]) -> list[str]:
    return _answered("ptrace", "kcmp")


@probe
def foreign_memory(given: dict[str, Any]) -> list[str]:
    return _answered("process_vm_readv", "process_vm_writev", "pidfd_getfd")


@probe
def kernel_programs(given: dict[str, Any]) -> list[str]:
    return _answered("bpf", "perf_event_open")


@probe
def fault_handlers(given: dict[str, Any]) -> list[str]:
    return _answered("userfaultfd")


@probe
def rings(given: dict[str, Any]) -> list[str]:
    return _answered("io_uring_setup", "io_uring_enter", "io_uring_register")


@probe
def keys(given: dict[str, Any]) -> list[str]:
    return _answered("keyctl", "add_key", "request_key")


@probe
def modules(given: dict[str, Any]) -> list[str]:
    names = ("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load")
    # Every filter knows these: "not there" is the answer of a kernel that was asked.
    missing = [f"{name} reached the kernel, which lacks it" for name in names if _result(name) == errno.ENOSYS]
    return _answered(*names) + missing


@probe
def handles(given: dict[str, Any]) -> list[str]:
    return _answered("open_by_handle_at", "name_to_handle_at")


@probe
def machine(given: dict[str, Any]) -> list[str]:
    return _answered("reboot", "swapon", "swapoff", "quotactl", "syslog", "acct", "clock_settime", "fanotify_init")


@probe
def old_doors(given: dict[str, Any]) -> list[str]:
    return _answered("iopl", "modify_ldt", "sethostname")


NEW = {
    "mount": 0x00020000,
    "control group": 0x02000000,
    "host name": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}


@probe
def clone_flags(given: dict[str, Any]) -> list[str]:
    """`clone` with each flag, together with one that doesn't go with it: no process is made in any case."""
    share_settings_but_not_memory = 0x00000800  # CLONE_SIGHAND without CLONE_VM is EINVAL for the kernel itself
    found = []
    for name, flag in NEW.items():
        result = call(number("clone"), flag | share_settings_but_not_memory, 0, 0, 0, 0)
        if result not in REFUSED:
            found.append(f"clone into a new {name} namespace was answered {errno.errorcode.get(result, 'yes')}")
    return found


@probe
def clone3(given: dict[str, Any]) -> list[str]:
    """Its flags are in memory, where a filter can't look: it must not be there at all."""
    return _answered("clone3")


@probe
def user_namespace(given: dict[str, Any]) -> list[str]:
    """By any way at all: libc's `unshare`, and the command."""
    found = []
    child = os.fork()
    if child == 0:
        os._exit(0 if _libc.unshare(0x10000000) == 0 else 1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        found.append("a user namespace was made, in which one is root")
    return found


@probe
def socket_families(given: dict[str, Any]) -> list[str]:
    """Everything but unix, internet and netlink; also numbers that only look like those in the low 32 bits."""
    allowed = {int(socket.AF_UNIX), int(socket.AF_INET), int(socket.AF_INET6), int(socket.AF_NETLINK)}
    socket_number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
    found = []
    for family in [*range(64), 64, 1000, (1 << 32) + 40, (1 << 64) - 1]:
        if family in allowed:
            continue
        for kind in (1, 2, 3, 5):
            result = call(socket_number, family, kind, 0)
            if result not in {errno.EPERM, errno.EACCES, errno.ENOSYS}:
                # A kernel that was asked and doesn't have it is no door, but the filter let the question through.
                found.append(f"a socket of family {family}: {errno.errorcode.get(result, 'yes')}")
                break
    return found


@probe
def open_families(given: dict[str, Any]) -> list[str]:
    """The ones that lead past a network namespace, or into much code of the kernel, are not to be had."""
    found = []
    for name, family in (("packet", 17), ("vsock", 40), ("crypto", 38), ("bluetooth", 31), ("can", 29), ("xdp", 44)):
        for kind in (1, 2, 3, 5):
            try:
                socket.socket(family, kind, 0).close()
            except OSError:
                continue
            found.append(f"a {name} socket was made")
            break
    return found


@probe
def raw_sockets(given: dict[str, Any]) -> list[str]:
    found = []
    for name, family, protocol in (
        ("IPv4", socket.AF_INET, socket.IPPROTO_ICMP),
        ("IPv4 with its own header", socket.AF_INET, socket.IPPROTO_RAW),
        ("IPv6", socket.AF_INET6, socket.IPPROTO_ICMPV6),
    ):
        try:
            socket.socket(family, socket.SOCK_RAW, protocol).close()
            found.append(f"a raw {name} socket was made")
        except OSError:
            pass
    return found


@probe
def typing(given: dict[str, Any]) -> list[str]:
    """Pushing letters into a terminal: one's own here, into another's one can't anyway. Also with a high bit set."""
    mine, its = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        _, sub = os.openpty()
        with contextlib.suppress(OSError):
            fcntl.ioctl(sub, 0x540E, 0)  # it becomes the terminal of this session
        letter = ctypes.c_char(b"x")
        for request in (0x5412, 0x541C, (1 << 32) | 0x5412):
            ctypes.set_errno(0)
            words = (ctypes.c_long(number("ioctl")), ctypes.c_long(sub), ctypes.c_ulong(request), ctypes.byref(letter))
            result = 0 if _libc.syscall(*words) >= 0 else ctypes.get_errno()
            if result not in REFUSED:
                os.write(its, f"request {request:#x} was answered {errno.errorcode.get(result, 'yes')}\n".encode())
        os._exit(0)
    os.close(its)
    with os.fdopen(mine) as answers:
        found = answers.read().splitlines()
    os.waitpid(child, 0)
    return found


@probe
def other_abi(given: dict[str, Any]) -> list[str]:
    """The same calls by the numbers of x32: a filter that compares numbers only doesn't know them."""
    if platform.machine() != "x86_64":
        return []
    found = []
    for name in ("unshare", "mount", "keyctl"):
        result = call(0x40000000 | int(number(name)), BAD, BAD, BAD, BAD, BAD)
        if result not in {errno.EPERM, errno.EACCES}:  # ENOSYS is the kernel's own answer: the filter didn't see it
            found.append(f"{name} by its x32 number was answered {errno.errorcode.get(result, 'yes')}")
    return found


@probe
def old_gate(given: dict[str, Any]) -> list[str]:
    """`int 0x80`: the calls of 32-bit programs, with numbers of their own, from 64-bit code."""
    if platform.machine() != "x86_64":
        return []
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # push rbx; mov eax, edi; mov ebx, esi; int 0x80; pop rbx; ret
    page.write(bytes.fromhex("53 89 f8 89 f3 cd 80 5b c3".replace(" ", "")))
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(
        ctypes.addressof(ctypes.c_char.from_buffer(page))
    )
    result = int(function(310, 0x7FFFFFFF))  # unshare, with flags that no kernel takes
    refused = {-errno.EPERM, -errno.ENOSYS, -errno.EACCES}
    return [] if result in refused else [f"unshare by int 0x80 was answered {errno.errorcode.get(-result, 'yes')}"]


@probe
def settings(given: dict[str, Any]) -> list[str]:
    """Opened for writing, and not written to."""
    found = []
    for path in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
    ):
        if _opens(path, os.O_WRONLY):
            found.append(f"{path} can be written")
    return found


@probe
def system_tree(given: dict[str, Any]) -> list[str]:
    found = []
    for top in ("/sys/kernel", "/sys/fs/cgroup", "/sys/module", "/sys/power", "/sys/firmware", "/sys/block"):
        for folder, folders, names in os.walk(top):
            del folders[12:]
            for name in names[:40]:
                path = os.path.join(folder, name)
                if os.access(path, os.W_OK) and _opens(path, os.O_WRONLY):
                    found.append(f"{path} can be written")
            if len(found) > 5:
                return found
    return found


def _opens(path: str, flags: int) -> bool:
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@probe
def kernel_memory(given: dict[str, Any]) -> list[str]:
    found = []
    for path in ("/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore", "/dev/kmsg", "/proc/kmsg", "/proc/vmcore"):
        if _opens(path, os.O_RDONLY):
            found.append(f"{path} can be read")
    try:
        with open("/proc/kallsyms") as symbols:
            address = symbols.readline().split(" ")[0]
            if address.strip("0"):
                found.append("/proc/kallsyms shows addresses of the kernel")
    except OSError:
        pass
    return found


HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
"""null, zero, full, random, urandom, tty, ptmx."""


OF_OTHER_KERNELS = {(10, 200), (10, 229)}
"""tun and fuse: harmless where it isn't the host's kernel that answers, and has no network."""

KEPT = ("/workspace", "/mnt/session/outputs", "/home/agent/.claude")
"""On the host's disk: a node that is made there is one for whoever looks there on the host."""


def _shared_places() -> list[str]:
    """Where another kernel than the host's shows files of the host."""
    with open("/proc/mounts") as file:
        mounts = [line.split() for line in file]
    return [words[1].rstrip("/") for words in mounts if words[2] in ("9p", "virtiofs")]


def _is_shared(path: str, places: list[str]) -> bool:
    """Whether that mount of the path which counts is one of `places`."""
    while path != "/":
        if path in places:
            return True
        if os.path.ismount(path):
            return False
        path = os.path.dirname(path)
    return "" in places


@probe
def devices(given: dict[str, Any]) -> list[str]:
    """Also devices that may not be opened, where they can only be the host's."""
    found = []
    shared = _shared_places() if given["own_kernel"] else []
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            numbers = (os.major(status.st_rdev), os.minor(status.st_rdev))
            is_node = stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)
            if is_node and numbers not in HARMLESS and _is_shared(path, shared):
                found.append(f"the host's device {path}")
            is_terminal = numbers[0] in range(136, 144) or folder == "/dev/pts" or name == "console"
            # Asked about only: to open a watchdog would start it.
            if stat.S_ISBLK(status.st_mode) and os.access(path, os.R_OK):
                found.append(f"the block device {path} can be read")
            unknown = numbers not in HARMLESS and not (given["own_kernel"] and numbers in OF_OTHER_KERNELS)
            if stat.S_ISCHR(status.st_mode) and unknown and not is_terminal and os.access(path, os.R_OK):
                found.append(f"the device {path} can be opened")
    return found


@probe
def new_devices(given: dict[str, Any]) -> list[str]:
    """Nodes of disks, of memory and of machines; of nothing, too, where it would be the host's kernel that made it.

    Another kernel may make nodes that lead nowhere. In what is kept of the session there may be none whatever."""
    found = []
    kinds = [(stat.S_IFBLK, major, 0) for major in (7, 8, 202, 253, 254, 259)]
    kinds += [(stat.S_IFCHR, *numbers) for numbers in ((1, 1), (1, 4), (1, 11), (4, 64), (10, 232), (10, 237))]
    kinds += [] if given["own_kernel"] else [(stat.S_IFCHR, 1, 3)]
    for folder in ("/tmp", "/dev/shm", "/home/agent", *KEPT):
        for kind, major, minor in kinds:
            path = os.path.join(folder, f".node-{os.getpid()}")
            try:
                os.mknod(path, kind | 0o600, os.makedev(major, minor))
            except OSError:
                continue
            if folder in KEPT:
                found.append(f"the device {major}:{minor} was made in {folder}")
            elif _opens(path, os.O_RDONLY):
                found.append(f"the device {major}:{minor}, made in {folder}, can be opened")
            os.unlink(path)
    return found


def _status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


@probe
def capabilities(given: dict[str, Any]) -> list[str]:
    status = _status()
    names = ("CapInh", "CapPrm", "CapEff", "CapAmb")
    return [f"{name} is {status[name]}" for name in names if int(status.get(name, "0"), 16)]


@probe
def bounding_set(given: dict[str, Any]) -> list[str]:
    """What a set-uid program could still gain."""
    value = _status().get("CapBnd", "0")
    return [f"CapBnd is {value}"] if int(value, 16) else []


@probe
def new_privileges(given: dict[str, Any]) -> list[str]:
    pr_get_no_new_privs = 39
    return [] if _libc.prctl(pr_get_no_new_privs, 0, 0, 0, 0) == 1 else ["a set-uid program would gain rights"]


@probe
def no_filter(given: dict[str, Any]) -> list[str]:
    return [] if _status().get("Seccomp", "2").strip() == "2" else ["no filter of system calls is in force"]


@probe
def becomes_root(given: dict[str, Any]) -> list[str]:
    found = [] if os.getuid() else ["the program runs as root"]
    attempts: dict[str, Callable[[], None]] = {"setuid": lambda: os.setuid(0), "setgroups": lambda: os.setgroups([0])}
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        found.append(f"{name} to root succeeded")
    return found


@probe
def same_kernel(given: dict[str, Any]) -> list[str]:
    """Whose kernel answers?"""
    here = platform.release() + " " + platform.version()
    return [f"it is the host's: {platform.release()}"] if here == given["kernel"] else []
