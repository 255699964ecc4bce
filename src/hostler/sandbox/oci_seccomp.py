"""Which system calls does a container keep?

A container engine's own profile is a list of what is allowed. So is this one, and it is shorter: the engine's without
what `hostler.sandbox.seccomp` takes from every sandbox, for this machine's own architecture only (the 32-bit entrances
of a kernel would pass by the rules about arguments), and with the same four socket families. A call that isn't named,
which includes every call of a kernel newer than this list, doesn't exist (ENOSYS).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from typing import Any

from hostler.sandbox.seccomp import CLONE_NEW, DENIED, SOCKET_FAMILIES, TERMINAL_REQUESTS

# fmt: off
ALLOWED = (
    "accept", "accept4", "access", "alarm", "arch_prctl", "bind", "brk", "capget", "capset", "chdir", "chmod",
    "chown", "clock_getres", "clock_gettime", "clock_nanosleep", "close", "close_range", "connect", "copy_file_range",
    "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait",
    "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group",
    "faccessat", "faccessat2", "fadvise64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchown",
    "fchownat", "fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr",
    "fstat", "fstatfs", "fsync", "ftruncate", "futex", "futimesat", "get_mempolicy", "get_robust_list",
    "get_thread_area", "getcpu", "getcwd", "getdents", "getdents64", "getegid", "geteuid", "getgid", "getgroups",
    "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid",
    "getresuid", "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid",
    "getxattr", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy",
    "io_getevents", "io_setup", "io_submit", "ioprio_get", "ioprio_set", "kill", "landlock_add_rule",
    "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lgetxattr", "link", "linkat", "listen",
    "listxattr", "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "madvise", "mbind", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall",
    "mmap", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink",
    "mremap", "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "nanosleep",
    "newfstatat", "open", "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2",
    "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll", "prctl", "pread64", "preadv", "preadv2", "prlimit64",
    "process_mrelease", "pselect6", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat",
    "readv", "recvfrom", "recvmmsg", "recvmsg", "remap_file_pages", "removexattr", "rename", "renameat", "renameat2",
    "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
    "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
    "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    "sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop", "sendfile", "sendmmsg", "sendmsg",
    "sendto", "set_mempolicy", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsuid",
    "setgid", "setgroups", "setitimer", "setpgid", "setpriority", "setregid", "setresgid", "setresuid", "setreuid",
    "setrlimit", "setsid", "setsockopt", "setuid", "setxattr", "shmat", "shmctl", "shmdt", "shmget", "shutdown",
    "sigaltstack", "signalfd", "signalfd4", "splice", "stat", "statfs", "statx", "symlink", "symlinkat", "sync",
    "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime",
    "times", "tkill", "truncate", "umask", "uname", "unlink", "unlinkat", "utime", "utimensat", "utimes", "vfork",
    "wait4", "waitid", "write", "writev",
)
# fmt: on
"""Without condition. A name that this architecture doesn't have is skipped by the engine."""

NEWER = (
    *("clone3", "fchmodat2", "cachestat", "futex_waitv", "futex_wait", "futex_wake", "futex_requeue", "mseal"),
    *("map_shadow_stack", "set_mempolicy_home_node", "setxattrat", "getxattrat", "listxattrat", "removexattrat"),
)
"""Calls without which libraries go on only if they don't exist. That is what the default says of all others, too; but
Docker 20.10 doesn't read it, and refuses them (EPERM). `clone3` hides its flags from a filter."""

PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Plain Linux and 32-bit answers of uname(2). Others switch off protections such as random addresses."""

_LOW = 0xFFFFFFFF
_BITS = 32


def profile() -> dict[str, Any]:
    """In the form that the Engine API, Podman and the OCI specification share."""
    rules: list[dict[str, Any]] = [
        {"names": sorted(ALLOWED), "action": "SCMP_ACT_ALLOW"},
        # Said aloud, because programs treat "not permitted" better than "no such call" here.
        {"names": sorted(DENIED), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
        {"names": list(NEWER), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
        _allow("clone", _masked(0, sum(CLONE_NEW.values()), 0)),
    ]
    rules += [_allow(call, _masked(0, _LOW, family)) for call in ("socket", "socketpair") for family in _families()]
    rules += [_allow("personality", _masked(0, _LOW, value)) for value in PERSONALITIES]
    rules += [_allow("ioctl", _masked(1, mask, value)) for mask, value in _all_but(TERMINAL_REQUESTS.values())]
    return {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno.ENOSYS, "syscalls": rules}


def text() -> str:
    return json.dumps(profile(), separators=(",", ":"))


def _families() -> list[int]:
    return sorted(SOCKET_FAMILIES.values())


def _allow(call: str, argument: dict[str, Any]) -> dict[str, Any]:
    return {"names": [call], "action": "SCMP_ACT_ALLOW", "args": [argument]}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    """The argument's bits under the mask are these. Nothing is said of the high half, which the kernel drops."""
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _all_but(values: Iterable[int]) -> list[tuple[int, int]]:
    """Masks and values that together match every 32-bit number except these.

    "Not equal" compares all 64 bits and can be passed by with a high half; two of them for one argument don't combine.
    So the numbers are cut in two, bit by bit from the highest: a half without one of `values` is matched as a whole.
    """
    found: list[tuple[int, int]] = []

    def cut(bit: int, mask: int, prefix: int, inside: frozenset[int]) -> None:
        if not inside:
            found.append((mask, prefix))
        elif bit >= 0:
            for half in (0, 1 << bit):
                cut(bit - 1, mask | 1 << bit, prefix | half, frozenset(v for v in inside if v & 1 << bit == half))

    cut(_BITS - 1, 0, 0, frozenset(values))
    return found
