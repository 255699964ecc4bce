"""How does a program that is root in a user namespace get a tree that belongs to root, without owning anything outside?

Three system calls that no tool of every supported release has: a private mount namespace, a user namespace whose ids
are a range of the host's unused ones, and a read-only mount of a tree in which the owners are seen through that range.
For processes of root with one thread. Everything is gone with the process that made it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Final

from hostler.engine.sandbox_port import SandboxUnavailable

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 0x2, 0x4, 0x1000, 0x4000, 0x80000
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same numbers on every architecture
_OPEN_TREE_CLONE, _AT_EMPTY_PATH, _MOVE_MOUNT_F_EMPTY_PATH, _AT_FDCWD = 0x1, 0x1000, 0x4, -100
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 0x1, 0x2, 0x4, 0x100000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4

IDS: Final = 65536
"""Users of the range: Debian's `nobody` is 65534."""


def _call(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when its parent, `parent`, is gone."""
    _call(_libc().prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")


def private_mounts() -> None:
    """From now on this process mounts for itself and its children only."""
    _call(_libc().unshare(_CLONE_NEWNS), "unshare")
    mount(None, "/", None, MS_REC | MS_SLAVE)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """`mount(2)`. Raises OSError."""
    words = (None if word is None else os.fsencode(word) for word in (source, target, kind))
    data = None if options is None else os.fsencode(options)
    _call(_libc().mount(*words, ctypes.c_ulong(flags), data), f"mount on {target}")


def user_namespace(first: int) -> int:
    """Descriptor of a user namespace of user `first`, in which 0 to IDS-1 are the host's ids from `first`."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become(first)
            _call(_libc().prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")  # else root's parent can't write its maps
            _call(_libc().unshare(_CLONE_NEWUSER), "unshare")
            os.write(ready[1], b"x")
            os.close(go[1])
            os.read(go[0], 1)
        finally:
            os._exit(0)
    try:
        os.close(ready[1])
        if not os.read(ready[0], 1):
            raise SandboxUnavailable(
                "this host has user namespaces switched off: sysctl -w user.max_user_namespaces=10000"
            )
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text(f"0 {first} {IDS}\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (ready[0], *go):
            os.close(descriptor)
        os.waitpid(child, 0)


def become(user: int) -> None:
    """This process is that user and group from now on, and no other."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def mount_seen_through(namespace: int, source: Path, target: Path) -> None:
    """Mounts the tree `source`, read-only, on the folder `target`: what belongs to 0 on disk belongs to the range's
    first id there. Raises SandboxUnavailable on a kernel or a file system that can't."""
    libc = _libc()
    try:
        tree = _call(
            libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC), "open_tree"
        )
        try:
            wanted = _ATTR_IDMAP | _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV
            attributes = struct.pack("=QQQQ", wanted, 0, 0, namespace)
            _call(libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes)), "mount_setattr")
            place = os.fsencode(target)
            _call(libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, place, _MOVE_MOUNT_F_EMPTY_PATH), "move_mount")
        finally:
            os.close(tree)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
            raise SandboxUnavailable(
                f"packages can't be installed on this host ({error.strerror}): it takes Linux 5.19 or newer and the "
                "state folder on ext4, xfs or btrfs"
            ) from error
        raise
