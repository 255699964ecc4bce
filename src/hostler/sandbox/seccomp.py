"""Which system calls does a sandbox lose?

A deny-list: everything works except what opens kernel surface that an agent's tools don't need, or what takes a way out
of the namespaces. The first line of defence is that the sandbox has no capability and no user namespace to gain one in;
this filter is the second, for the day on which the kernel has a hole behind one of these calls.

Making the program takes about 50 ms, so it is kept on disk, named by everything that it depends on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from hostler.engine.sandbox_port import SandboxUnavailable

# fmt: off
DENIED = (
    # mounts and roots
    "mount", "umount", "umount2", "pivot_root", "chroot", "move_mount", "mount_setattr", "open_tree",
    "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick", "statmount", "listmount",
    # namespaces
    "unshare", "setns",
    # looking into and steering other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
    # kernel programs and fault handlers, the usual material of exploits
    "bpf", "userfaultfd", "perf_event_open", "io_uring_setup", "io_uring_enter", "io_uring_register",
    # key rings are not namespaced
    "keyctl", "add_key", "request_key",
    # kernel images and modules
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "create_module",
    "query_module", "get_kernel_syms",
    # files by handle pass by the mount namespace
    "open_by_handle_at", "name_to_handle_at",
    # the machine
    "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "sethostname", "setdomainname",
    "settimeofday", "clock_settime", "clock_settime64", "clock_adjtime", "clock_adjtime64", "adjtimex", "stime",
    "syslog", "vhangup", "iopl", "ioperm", "nfsservctl", "lookup_dcookie", "uselib", "ustat", "sysfs", "_sysctl",
    "fanotify_init", "modify_ldt", "vm86", "vm86old",
    # memory of other nodes and tasks
    "move_pages", "migrate_pages",
)
# fmt: on
"""Refused with EPERM, whatever the arguments. A name that this architecture doesn't have is skipped."""

CLONE_NEW = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}
"""`clone` with any of these is EPERM. `clone3` hides its flags from a filter: ENOSYS makes libc fall back to clone."""

SOCKET_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
"""Other families are refused: AF_VSOCK isn't namespaced on every kernel, AF_ALG and AF_PACKET are surface.
AF_NETLINK stays because libc lists addresses over it."""

HIGHEST_FAMILY = 63
"""Families up to here are refused one by one, all above it by one comparison."""

TERMINAL_REQUESTS = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C}
"""`ioctl` requests that type into a terminal."""

PR_SET_PDEATHSIG = 1
SIGKILL = 9
"""Process 1 of a sandbox dies with the worker because it asked for SIGKILL at its parent's death. An agent that writes
to the memory of process 1 could make it take that back, so `prctl` pretends to set any other signal of death, and does
nothing. What this costs: a child that asked for SIGTERM at its parent's death lives until its sandbox ends."""

_INT = 0xFFFFFFFF
"""The kernel looks at the low 32 bits of these arguments only; so must the filter."""


def program(directory: Path) -> Path:
    """File with the BPF program for this host, made on first use below `directory`; atomic, safe to call concurrently.

    Raises SandboxUnavailable when libseccomp is missing.
    """
    path = directory / f"deny-{_fingerprint()}.bpf"
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".new-", delete=False) as file:
        try:
            _export(file)
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return path


def _library() -> Any:
    try:
        import pyseccomp  # loads libseccomp when it is imported, and raises when there is none
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxUnavailable(
            f"libseccomp can't be loaded ({error}); install it: apt-get install libseccomp2"
        ) from error
    return pyseccomp


def _fingerprint() -> str:
    """Everything that the program depends on: our tables, the architecture, the library's own build."""
    library = _library()
    rules = [DENIED, CLONE_NEW, SOCKET_FAMILIES, HIGHEST_FAMILY, TERMINAL_REQUESTS, "rules-2"]
    versions = [platform.machine(), library.__version__, _libseccomp_identity()]
    return hashlib.sha256(json.dumps([rules, versions]).encode()).hexdigest()[:24]


def _libseccomp_identity() -> str:
    """Real name of the mapped library, which carries its version (`libseccomp.so.2.5.4`)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libseccomp" in line:
            return line.split(maxsplit=5)[-1]
    return "unknown"


def _export(file: Any) -> None:
    lib = _library()
    rules = lib.SyscallFilter(lib.ALLOW)
    refuse = lib.ERRNO(errno.EPERM)
    for name in DENIED:
        number = _number(lib, name)
        if number is not None:
            rules.add_rule(refuse, number)
    for flag in CLONE_NEW.values():
        rules.add_rule(refuse, "clone", lib.Arg(0, lib.MASKED_EQ, flag, flag))
    rules.add_rule(lib.ERRNO(errno.ENOSYS), "clone3")
    for call in ("socket", "socketpair"):
        for family in range(HIGHEST_FAMILY + 1):
            if family not in SOCKET_FAMILIES.values():
                rules.add_rule(refuse, call, lib.Arg(0, lib.MASKED_EQ, _INT, family))
        rules.add_rule(refuse, call, lib.Arg(0, lib.GT, HIGHEST_FAMILY))
    for request in TERMINAL_REQUESTS.values():
        rules.add_rule(refuse, "ioctl", lib.Arg(1, lib.MASKED_EQ, _INT, request))
    pretend = lib.ERRNO(0)
    rules.add_rule(pretend, "prctl", lib.Arg(0, lib.MASKED_EQ, _INT, PR_SET_PDEATHSIG), lib.Arg(1, lib.NE, SIGKILL))
    rules.export_bpf(file)


def _number(lib: Any, name: str) -> int | None:
    """Number of a call on this architecture. Negative ones are stand-ins for calls that it doesn't have."""
    try:
        number = int(lib.resolve_syscall(lib.Arch.NATIVE, name))
    except (OSError, ValueError):
        return None
    return number if number >= 0 else None
