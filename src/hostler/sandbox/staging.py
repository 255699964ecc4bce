"""How do a session's things, and the root file system, get to one place that a sandbox's host user can reach?

A folder of the sandbox, the stage, gets an entry for each of them. They are mounted there, and the stage over a
directory of the system, in a mount namespace that ends with the sandbox.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostler.engine.mountpoints import make_mount_point
from hostler.engine.sandbox_port import Mount, SandboxSpec, SandboxUnavailable
from hostler.sandbox import programs

PROGRAM = "/opt/hostler/claude"

_STAGE_CANDIDATES = ("/mnt", "/media", "/srv", "/opt")
"""Directories over which the script may mount, in its own mount namespace, what the sandbox is to reach."""

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS = ("proc", "dev/shm", "sys", "tmp", "home/agent", "workspace", "mnt/session/outputs", "run/hostler")


@dataclass(frozen=True, slots=True)
class Base:
    """What the root file system is made of."""

    lowers: tuple[Path, ...]
    """Folders of an overlay, the upper one first. Empty: the programs of the host."""
    etc: Path
    """The `/etc` that goes with the programs of the host (`launch.prepare_etc`)."""
    etc_from_host: tuple[str, ...]


def table(
    stage: Path, over: str, spec: SandboxSpec, base: Base, *, reopen: bool, kept: Path, program_in_root: bool = False
) -> str:
    """Fills the stage, and gives what `mount -aT` takes to make it complete.

    over             the directory that `place` gave.
    reopen           the sockets are put there by name, so that others can take their place (`can_reopen`).
    kept             folder of the stage for what isn't the root file system or a socket.
    program_in_root  the program is part of the root file system already.

    Raises ValueError, SandboxUnavailable, OSError.
    """
    folder(stage)
    lines, afterwards = _root(stage, over, base)
    sources = {"workspace": (spec.workspace, True), "outputs": (spec.outputs, True)}
    sources |= {"harness": (spec.harness_state, True)}
    sources |= {f"mount-{number}": (mount.source, mount.writable) for number, mount in enumerate(spec.mounts)}
    if program_in_root:
        at = f"{over}/root{PROGRAM}"
        afterwards.append(f"{_escaped(os.path.abspath(spec.program))} {at} none bind 0 0\n")
        afterwards.append(f"{_escaped(os.path.abspath(spec.program))} {at} none remount,bind,ro,nosuid,nodev 0 0\n")
    else:
        sources["claude"] = (spec.program, False)
    for name, (source, writable) in sources.items():
        point = _point(kept / name, source)
        lines.append(_bind(os.path.abspath(source), point))
        if not writable:
            options = "remount,bind,ro,nosuid,nodev"
            lines.append(f"{_escaped(os.path.abspath(source))} {_escaped(str(point))} none {options} 0 0\n")
    folder(stage / "roads")
    lines += _roads(stage / "roads", spec, hard=reopen)
    for mount in spec.mounts:
        _make_way(stage, spec, mount)
    # Last: the sources may themselves be below the place that this hides.
    lines.append(f"{_escaped(str(stage))} {over} none rbind 0 0\n")
    return "".join([*lines, *afterwards])


def open_roads(home: Path, spec: SandboxSpec) -> None:
    """Puts the sockets of the spec where those were that the sandbox was made with."""
    for name, source in _sockets(spec).items():
        new = home / "stage" / f".{name}"
        new.unlink(missing_ok=True)
        os.link(source, new)
        new.replace(home / "stage" / "roads" / name)


def can_reopen(home: Path, spec: SandboxSpec) -> bool:
    """Whether sockets that are made later could be put in the place of those of the spec: a name of theirs is put into
    a folder of the sandbox, and names don't go from one file system to another."""
    return all(os.stat(path).st_dev == os.stat(home.parent).st_dev for path in _sockets(spec).values())


def _sockets(spec: SandboxSpec) -> dict[str, Path]:
    return {"model.sock": spec.model_socket, "egress.sock": spec.egress_socket}


def _root(stage: Path, over: str, base: Base) -> tuple[list[str], list[str]]:
    """Lines of the table that make `root` of the stage the read-only root: before it is in its place, and after.

    Its empty folders are made here.
    """
    if base.lowers:
        # The uppermost folder has the mount points. All are named by the stage: their own may have colons.
        _skeleton(stage / "skeleton", system=False)
        folder(stage / "root")
        names = ["skeleton"]
        lines = []
        for number, lower in enumerate(base.lowers):
            names.append(f"lower-{number}")
            lines.append(_bind(str(lower), _point(stage / names[-1], lower)))
        lower_dirs = ":".join(f"{over}/{name}" for name in names)
        return lines, [f"overlay {over}/root overlay lowerdir={lower_dirs},ro,nosuid,nodev 0 0\n"]
    root = stage / "root"
    _skeleton(root, system=True)
    lines = [_bind("/usr", root / "usr")]
    for name in _SYSTEM[1:]:
        if (root / name).is_dir() and not (root / name).is_symlink():
            lines.append(_bind(f"/{name}", root / name))
    lines.append(_bind(str(base.etc), root / "etc"))
    lines += [_bind(f"/etc/{name}", root / "etc" / name) for name in base.etc_from_host]
    return lines, []


def _skeleton(top: Path, *, system: bool) -> None:
    folder(top)
    for name in _FOLDERS:
        folder(top / name)
    folder(top / "home/agent/.claude")
    _point(top / PROGRAM[1:], Path(__file__))
    if system:
        folder(top / "etc")
        for name in _SYSTEM:
            there = Path("/", name)
            if there.is_symlink():  # merged /usr
                (top / name).symlink_to(os.readlink(there))
            elif there.is_dir():
                folder(top / name)


def _roads(roads: Path, spec: SandboxSpec, *, hard: bool) -> list[str]:
    lines = []
    for name, source in _sockets(spec).items():
        if hard:
            os.link(source, roads / name)
        else:
            (roads / name).touch()
            lines.append(_bind(os.path.abspath(source), roads / name))
    return lines


def _make_way(stage: Path, spec: SandboxSpec, mount: Mount) -> None:
    """Makes what the mount is put on, without following a link that an agent may have left."""
    skeleton = stage / ("skeleton" if (stage / "skeleton").exists() else "root")
    writable = {"/workspace": spec.workspace, "/mnt/session/outputs": spec.outputs}
    writable |= {"/home/agent/.claude": spec.harness_state}
    for earlier in spec.mounts[: spec.mounts.index(mount)]:
        writable[earlier.inside] = earlier.source
    over = max((place for place in writable if mount.inside.startswith(f"{place}/")), key=len, default=None)
    if over is not None:
        make_mount_point(writable[over], mount.inside[len(over) + 1 :], mount.source.is_dir())
        return
    point = skeleton / mount.inside[1:]
    first = mount.inside.split("/")[1]
    if skeleton.name == "root" and (first == "etc" or first in _SYSTEM):
        raise ValueError(f"{mount.inside} is below the system's own directories, which can't be changed")
    _point(point, mount.source)


def write_script(path: Path, lines: Sequence[str]) -> Path:
    programs.write(path, "\n".join(lines) + "\n")
    return path


def folder(path: Path) -> None:
    """Makes it, and what is missing on the way, for everybody to enter, whatever the umask."""
    if not path.is_dir():
        folder(path.parent)
        path.mkdir()
        path.chmod(0o755)


def _point(path: Path, source: Path) -> Path:
    """What `source` can be mounted on."""
    if source.is_dir():
        folder(path)
    else:
        folder(path.parent)
        path.touch()
    return path


def _bind(source: str, target: Path) -> str:
    return f"{_escaped(source)} {_escaped(str(target))} none bind 0 0\n"


def _escaped(path: str) -> str:
    for character, code in (("\\", "\\134"), (" ", "\\040"), ("\t", "\\011"), ("\n", "\\012"), ("#", "\\043")):
        path = path.replace(character, code)
    return path


def place(needed: Sequence[Path | str]) -> str:
    """The directory that the stage is mounted over. What is `needed` then is not below it."""
    for candidate in _STAGE_CANDIDATES:
        free = not any(os.path.realpath(path).startswith(f"{candidate}/") for path in needed)
        if free and os.path.isdir(candidate) and not os.path.islink(candidate):
            return candidate
    raise SandboxUnavailable(f"none of {', '.join(_STAGE_CANDIDATES)} is a directory that is free; create /mnt")


SAID = "said"
"""File beside a script with what it says on its standard error."""


class Begun:
    """A script that was started. Whoever starts one waits for its end, once."""

    def __init__(self, script: Path, *, held: Sequence[int] = ()) -> None:
        """`held`: descriptors that the script inherits; their numbers are its arguments."""
        self._said = script.with_name(SAID).open("w+b")
        try:
            self._process = subprocess.Popen(
                [script, *map(str, held)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=held,
            )
        except BaseException:
            self._said.close()
            raise

    def end(self, seconds: float) -> tuple[int | None, str]:
        """Exit status of the script, and what it said. None: it did not end in time, and was killed.

        Blocks. What the script leaves running may keep its standard error.
        """
        with self._said:
            ended = os.pidfd_open(self._process.pid)  # waiting with a time-out would look every 50 ms only
            try:
                look = select.poll()
                look.register(ended, select.POLLIN)
                in_time = bool(look.poll(seconds * 1000))
            finally:
                os.close(ended)
            if not in_time:
                self._process.kill()
            code = self._process.wait()
            # Not through the file's own position: it is the script's, too.
            said = os.pread(self._said.fileno(), _MOST_SAID, 0)
        return code if in_time else None, said.decode(errors="replace").strip()


_MOST_SAID = 1 << 16


def run_script(script: Path, seconds: float) -> tuple[int | None, str]:
    """Starts it and waits for its end (`Begun.end`)."""
    return Begun(script).end(seconds)


def program(module: str) -> str:
    """Shell words that run `main` of a module of `hostler.sandbox` which needs the standard library only. Imported, not
    run as a file: then it need not be compiled each time."""
    code = f"import sys; sys.path.insert(0, {str(programs.SOURCES)!r}); from hostler.sandbox.{module} import main"
    return shlex.join([sys.executable, "-I", "-S", "-E", "-c", f"{code}; sys.exit(main())"])
