"""What does a machine boot? A kernel of Debian's, and an initial file system that is made here.

The initial file system holds busybox, the modules that the kernel lacks, and a script. The script mounts the root file
system and the session's folders from the host (9p), everything else from memory, and becomes the guest's process 1
(`machine_agent`).
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.engine.sandbox_port import SandboxUnavailable

_MODULES: Final = ("virtio_mmio", "virtio_console", "9pnet_virtio", "9p")
"""With what they depend on. All that a machine needs: it has no disk, no network card and no bus."""

HINT: Final = (
    "a machine boots Debian's kernel (the package of linux-image-amd64, not a cloud kernel): install it, or unpack it "
    "anywhere and set sandbox.microvm.kernel to that folder; see docs/how-to/isolate-with-a-microvm.md"
)

_INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /host /root
/bin/busybox --install -s /bin
export PATH=/bin
fail() { echo "$1"; reboot -f; }
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module || echo "no $module"; done
options=trans=virtio,version=9p2000.L,msize=524288
mount -t 9p -o $options,cache=loose,ro,nosuid,nodev root /root || fail "no root file system"
mount -t 9p -o $options,cache=mmap,nosuid,nodev host /host || fail "no folders"
mount -t tmpfs -o mode=755,nosuid,nodev,noexec run /root/run
mkdir /root/run/hostler
mkdir -m 700 /root/run/machine /root/run/machine/given /root/run/machine/cgroup
mount --bind /host/given /root/run/machine/given
mount -t cgroup2 none /root/run/machine/cgroup
mount -t proc -o nosuid,nodev,noexec,hidepid=2 proc /root/proc
mount -t tmpfs -o mode=755,nosuid,noexec dev /root/dev
mknod -m 666 /root/dev/null c 1 3
mknod -m 666 /root/dev/zero c 1 5
mknod -m 666 /root/dev/full c 1 7
mknod -m 666 /root/dev/random c 1 8
mknod -m 666 /root/dev/urandom c 1 9
mknod -m 666 /root/dev/tty c 5 0
mkdir /root/dev/shm /root/dev/pts
mount -t devpts -o newinstance,ptmxmode=666,mode=620,nosuid,noexec pts /root/dev/pts
ln -s pts/ptmx /root/dev/ptmx
ln -s /proc/self/fd /root/dev/fd
ln -s /proc/self/fd/0 /root/dev/stdin
ln -s /proc/self/fd/1 /root/dev/stdout
ln -s /proc/self/fd/2 /root/dev/stderr
. /host/given/mounts
hostname sandbox
ip link set lo up
tries=0
until [ -c /dev/vport[0-9]*p1 ]; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || fail "no line to the host"
    sleep 0.05
done
cp -a /dev/vport[0-9]*p1 /root/dev/line
umount /dev
exec switch_root /root /usr/bin/python3 -I -S -c 'import sys; sys.path.insert(0, "/run/machine/given/src")
from hostler.sandbox.machine_agent import main; main()'
"""


@dataclass(frozen=True, slots=True)
class Guest:
    """What QEMU is given."""

    kernel: Path
    initial: Path
    version: str


def prepare(kernel_folder: Path, busybox: str, keep: Path) -> Guest:
    """The guest made of the newest kernel below `kernel_folder` (`boot/`, `lib/modules/`). Blocks.

    It is kept below `keep`, and made anew when something of it has changed. Raises SandboxUnavailable.
    """
    found = sorted((kernel_folder / "boot").glob("vmlinuz-*"), key=_age)
    for kernel in reversed(found):
        version = kernel.name.removeprefix("vmlinuz-")
        modules = next(
            (d for part in ("lib", "usr/lib") if (d := kernel_folder / part / "modules" / version).is_dir()), None
        )
        if modules is not None and next(modules.rglob("9pnet_virtio.ko*"), None) is not None:
            break
    else:
        raise SandboxUnavailable(f"there is no kernel below {kernel_folder} that a machine can boot; {HINT}")
    state = [version, _INIT, *(f"{p}:{p.stat().st_mtime_ns}:{p.stat().st_size}" for p in (kernel, Path(busybox)))]
    initial = keep / f"initial-{hashlib.sha256(chr(10).join(state).encode()).hexdigest()[:16]}.gz"
    if not initial.exists():
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = keep / f".{initial.name}.{os.getpid()}"
        new.write_bytes(gzip.compress(_archive(modules, Path(busybox)), compresslevel=1, mtime=0))
        new.replace(initial)
    return Guest(kernel, initial, version)


def _age(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _archive(modules: Path, busybox: Path) -> bytes:
    files = {"init": (0o100755, _INIT.encode()), "bin/busybox": (0o100755, busybox.read_bytes())}
    order = []
    for name, data in _with_dependencies(modules):
        files[f"modules/{name}.ko"] = (0o100644, data)
        order.append(f"{name}.ko")
    files["modules/order"] = (0o100644, "\n".join(order).encode())
    out = bytearray()
    for folder in ("bin", "modules"):
        out += _entry(folder, 0o040755, b"")
    for path, (mode, data) in files.items():
        out += _entry(path, mode, data)
    return bytes(out + _entry("TRAILER!!!", 0, b""))


def _entry(path: str, mode: int, data: bytes) -> bytes:
    """One member of an archive in the form `newc` of cpio."""
    name = path.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def _with_dependencies(modules: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each module, after those that it needs. What is built into the kernel is left out."""
    files = {path.name.split(".ko")[0].replace("-", "_"): path for path in modules.rglob("*.ko*")}
    done: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in files:
            return
        done.add(name)
        data = _content(files[name])
        for needed in re.findall(rb"\0depends=([^\0]*)\0", data)[:1]:
            for other in needed.decode().split(","):
                yield from visit(other.replace("-", "_"))
        yield name, data

    for name in _MODULES:
        yield from visit(name)


def _content(file: Path) -> bytes:
    data = file.read_bytes()
    if file.suffix == ".xz":
        return lzma.decompress(data)
    if file.suffix == ".gz":
        return gzip.decompress(data)
    if file.suffix != ".ko":
        raise SandboxUnavailable(f"{file} is compressed in a way that isn't known here; {HINT}")
    return data
