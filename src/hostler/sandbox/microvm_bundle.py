"""What exactly does QEMU start, and what does the guest find when it has booted?

A machine is started by a script: `env` → `unshare` (a mount namespace of its own) → `bash` (joins the control groups,
mounts everything in one place) → `setpriv` (becomes the machine's host user) → `machine_relay` → QEMU. The root file
system and the session's folders are shared with the guest by 9p, by QEMU with the rights of that user.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostler.engine.sandbox_port import SandboxLimits, SandboxSpec
from hostler.sandbox import programs, staging
from hostler.sandbox.estate import Holding
from hostler.sandbox.launch import EGRESS_PORT, MARK
from hostler.sandbox.machine_guest import Guest
from hostler.sandbox.staging import Base

GUEST_BYTES = 192 << 20
"""Memory of the guest's kernel and of what runs its commands, beside the sandbox's own."""
QEMU_BYTES = 768 << 20
"""Memory of QEMU itself, beside the machine's: buffers, and translated code without KVM."""
QEMU_PIDS = 128
DEFAULT_BYTES = 2 << 30
DEFAULT_CPUS = 2.0
CPU_PERIOD_US = 100_000

_INSIDE = ("enter", "machine_agent", "machine_frames")
"""Modules of this package that the guest runs."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Absolute paths of host programs."""

    env: str
    unshare: str
    bash: str
    mount: str
    setpriv: str
    qemu: str
    busybox: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything of one machine that is ready to be started. The files are the worker's alone."""

    start: Path
    """Starts the machine and returns when it takes commands."""
    launcher: Path
    entrance: Path


def relay_folder(home: Path) -> Path:
    """Where the relay's socket is."""
    return home / "stage" / "relay"


def write(
    home: Path,
    spec: SandboxSpec,
    holding: Holding,
    tools: Tools,
    base: Base,
    guest: Guest,
    acceleration: str,
    filter_: Path,
    entrances: Sequence[Path],
    *,
    seconds: float,
) -> Bundle:
    """Raises ValueError, SandboxUnavailable, OSError."""
    over = staging.place([home, tools.qemu, tools.mount, tools.setpriv, guest.kernel, sys.executable, programs.SOURCES])
    stage = home / "stage"
    kept = stage / "kept"
    reopen = holding.adoptable
    table = staging.table(stage, over, spec, base, reopen=reopen, kept=kept, program_in_root=True)
    (home / "fstab").write_text(table)
    _give(kept / "given", spec, holding, filter_)
    for name, source in (("kernel", guest.kernel), ("initial", guest.initial)):
        shutil.copy(source, stage / name)
        (stage / name).chmod(0o644)
    relay = relay_folder(home)
    staging.folder(relay)
    uid = holding.process_uid
    assert uid is not None, "machines are made by a worker that is root"
    os.chown(relay, uid, uid)
    relay.chmod(0o700)
    settings = stage / "relay.json"
    settings.write_text(
        json.dumps(
            {
                "qemu": _qemu(tools.qemu, over, spec.limits, acceleration),
                "folder": f"{over}/relay",
                "roads": {name: f"{over}/roads/{name}.sock" for name in ("model", "egress")},
                "seconds": seconds,
            }
        )
    )
    settings.chmod(0o644)
    mark = f"{MARK}={holding.sandbox_id}"
    groups = f"--groups {os.stat('/dev/kvm').st_gid}" if acceleration == "kvm" else "--clear-groups"
    script = [
        f"#!{tools.env} -S -i {mark} {tools.unshare} --mount --propagation private {tools.bash} -p",
        "set -eu",
        "cd /",
        *(f"echo 0 > {shlex.quote(str(entrance))}" for entrance in entrances),
        "ulimit -c 0",
        "ulimit -n $(ulimit -Hn)",  # QEMU holds a descriptor of the host for every open file inside
        f"{tools.mount} -aT {shlex.quote(str(home / 'fstab'))}",
        f"exec {tools.setpriv} --reuid {uid} --regid {uid} {groups} --inh-caps=-all --no-new-privs"
        f" {staging.program('machine_relay')} {over}/relay.json",
    ]
    start = staging.write_script(home / "start", script)
    entrance = programs.write_python(home / "entrance", tools.env, mark, "machine_enter", ["enter", str(relay)])
    launch = ["launch", str(relay), staging.PROGRAM]
    launcher = programs.write_python(home / "launcher", tools.env, mark, "machine_enter", launch)
    return Bundle(start, launcher, entrance)


def _qemu(qemu: str, over: str, limits: SandboxLimits, acceleration: str) -> list[str]:
    memory = (limits.memory_bytes or DEFAULT_BYTES) + GUEST_BYTES
    fast = acceleration == "kvm"
    share = "security_model=none,multidevs=remap"
    return [
        *(qemu, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        # Without KVM the guest's clock is found with the old timers, which this kind of machine leaves out.
        *("-M", "microvm" if fast else "microvm,pit=on,pic=on,rtc=on"),
        *("-accel", "kvm" if fast else "tcg,thread=multi", "-cpu", "host" if fast else "max"),
        *("-m", f"{math.ceil(memory / (1 << 20))}M", "-smp", str(max(1, math.ceil(limits.cpus or DEFAULT_CPUS)))),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-kernel", f"{over}/kernel", "-initrd", f"{over}/initial"),
        *("-append", _COMMAND_LINE if fast else f"{_COMMAND_LINE} {_without_calibration()}"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-chardev", "socket,id=control,fd=CONTROL_FD", "-mon", "chardev=control,mode=control"),
        *("-fsdev", f"local,id=root,path={over}/root,readonly=on,{share}"),
        *("-device", "virtio-9p-device,fsdev=root,mount_tag=root"),
        *("-fsdev", f"local,id=host,path={over}/kept,{share}"),
        *("-device", "virtio-9p-device,fsdev=host,mount_tag=host"),
        *("-device", "virtio-serial-device", "-chardev", "socket,id=line,fd=LINE_FD"),
        *("-device", "virtserialport,chardev=line,nr=1,name=hostler"),
    ]


_COMMAND_LINE = "console=ttyS0 loglevel=4 panic=-1 reboot=t rdinit=/init random.trust_cpu=on"


def _without_calibration() -> str:
    """Tells the guest what its time stamp counter counts, which without KVM is the host's own: measuring it against
    emulated timers fails on a busy host, and the guest would wait for ever."""
    try:
        found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    khz = round(float(found[1]) * 1000) if found else 2_000_000
    return f"tsc_early_khz={khz} lpj={khz * 4} no_timer_check"


def _give(folder: Path, spec: SandboxSpec, holding: Holding, filter_: Path) -> None:
    """What the guest reads when it boots. Only its process 1 can reach it there."""
    source = folder / "src" / "hostler" / "sandbox"
    staging.folder(source)
    for package in (source, source.parent):
        (package / "__init__.py").touch()
    for module in _INSIDE:
        shutil.copy(Path(__file__).with_name(f"{module}.py"), source)
    shutil.copy(filter_, folder / "filter.bpf")
    limits = spec.limits
    groups = {}
    if limits.memory_bytes is not None:
        groups["memory.max"] = str(limits.memory_bytes)
    if limits.pids is not None:
        groups["pids.max"] = str(limits.pids)
    if limits.cpus is not None:
        groups["cpu.max"] = f"{max(1000, round(limits.cpus * CPU_PERIOD_US))} {CPU_PERIOD_US}"
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "uid": holding.file_uid,
                "open_files": limits.open_files,
                "environment": dict(spec.environment),
                "limits": groups,
                "port": EGRESS_PORT,
            }
        )
    )
    (folder / "mounts").write_text("\n".join(_mounts(spec, holding)) + "\n")
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)


def _mounts(spec: SandboxSpec, holding: Holding) -> list[str]:
    """Part of the guest's first script."""
    size, uid = spec.limits.tmp_bytes, holding.file_uid
    tmpfs = f"mount -t tmpfs -o nosuid,nodev,noexec,size={size}"
    lines = [
        f"{tmpfs},mode=1777 tmp /root/tmp",
        f"{tmpfs},mode=1777 shm /root/dev/shm",
        f"{tmpfs},mode=700,uid={uid},gid={uid} home /root/home/agent",
        f"mkdir /root/home/agent/.claude; chown {uid}:{uid} /root/home/agent/.claude",
        "mount --bind /host/workspace /root/workspace",
        "mount --bind /host/outputs /root/mnt/session/outputs",
        "mount --bind /host/harness /root/home/agent/.claude",
    ]
    for number, mount in enumerate(spec.mounts):
        source, inside = f"/host/mount-{number}", shlex.quote(f"/root{mount.inside}")
        if mount.inside.startswith(("/home/agent/", "/tmp/", "/dev/shm/")):
            lines.append(f"[ -d {source} ] && mkdir -p {inside} || {{ mkdir -p $(dirname {inside}); touch {inside}; }}")
        lines.append(f"mount --bind {source} {inside}")
        if not mount.writable:
            lines.append(f"mount -o remount,bind,ro,nosuid,nodev {inside}")
    return lines
