"""Sandboxes with one defence switched off: what each of them lets through is what that defence is for.

All are made by the real adapter; then its launcher, its entrance, the options of bubblewrap or what it does at the end
are changed. What has no wall at all (`bare`) runs the probes as this user on this host: they look, and change nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hostler.engine.sandbox_port import IsolationLabel, Mount, Sandbox, SandboxProvider, SandboxSpec, SandboxStats

Words = list[str]


@dataclass(frozen=True)
class Weakness:
    """What is changed. Everything else is as the adapter made it."""

    words: Callable[[Words, Place], Words] = lambda words, place: words
    """Options of bubblewrap."""
    launcher: Callable[[str, Place], str] = lambda text, place: text
    entrance: Callable[[str, Place], str] = lambda text, place: text
    spec: Callable[[SandboxSpec], SandboxSpec] = lambda spec: spec
    never_ends: bool = False
    """`destroy` does nothing."""
    snapshot: Callable[[Path, Path], None] | None = None
    label: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a sandbox is made, for those who change it."""

    directory: Path
    spec: SandboxSpec
    shared: Path
    """A folder that everybody may write to, the same for all sandboxes of the provider."""


class WeakSandbox:
    """Implements `Sandbox`."""

    def __init__(self, real: Sandbox, weakness: Weakness, spec: SandboxSpec) -> None:
        self.real = real
        self._weakness = weakness
        self._spec = spec
        self.sandbox_id = real.sandbox_id
        self.label = real.label
        self.launcher = real.launcher
        self.entrance = real.entrance

    async def suspend(self) -> None:
        if not self._weakness.never_ends:
            await self.real.suspend()

    async def resume(self) -> None:
        await self.real.resume()

    async def snapshot(self, target: Path) -> None:
        if self._weakness.snapshot is None:
            await self.real.snapshot(target)
        else:
            self._weakness.snapshot(self._spec.workspace, target)

    async def stats(self) -> SandboxStats:
        return await self.real.stats()

    async def destroy(self) -> None:
        if not self._weakness.never_ends:
            await self.real.destroy()


class WeakProvider:
    """Implements `SandboxProvider`, as far as attacks use it."""

    def __init__(self, real: SandboxProvider, weakness: Weakness, shared: Path) -> None:
        self._real = real
        self._weakness = weakness
        self._shared = shared
        self._made: list[WeakSandbox] = []

    async def probe(self) -> IsolationLabel:
        return replace(await self._real.probe(), **self._weakness.label)

    async def create(self, spec: SandboxSpec) -> WeakSandbox:
        spec = self._weakness.spec(spec)
        sandbox = WeakSandbox(await self._real.create(spec), self._weakness, spec)
        self._made.append(sandbox)
        place = Place(sandbox.launcher.parent, spec, self._shared)
        arguments = place.directory / "bwrap.args"
        words = [os.fsdecode(word) for word in arguments.read_bytes().split(b"\0")[:-1]]
        changed = self._weakness.words(words, place)
        arguments.write_bytes(b"".join(os.fsencode(word) + b"\0" for word in changed))
        for path, change in ((sandbox.launcher, self._weakness.launcher), (sandbox.entrance, self._weakness.entrance)):
            path.write_text(change(path.read_text(), place))
        return sandbox

    async def left_over(self) -> Sequence[Any]:
        return ()

    async def adopt(self, sandbox_id: str, spec: SandboxSpec) -> WeakSandbox:
        raise NotImplementedError

    async def sweep(self) -> Sequence[str]:
        return ()

    async def really_end(self) -> None:
        for sandbox in self._made:
            await sandbox.real.destroy()

    def close(self) -> None:
        self._real.close()


# ------------------------------------------------------------------------------------------------ changes to options


def without(*options: str, arguments: int = 0) -> Callable[[Words, Place], Words]:
    """Each option, with so many arguments behind it."""

    def change(words: Words, place: Place) -> Words:
        kept: Words = []
        skip = 0
        for word in words:
            if skip:
                skip -= 1
            elif word in options:
                skip = arguments
            else:
                kept.append(word)
        return kept

    return change


def both(*changes: Callable[[Any, Place], Any]) -> Callable[[Any, Place], Any]:
    def change(given: Any, place: Place) -> Any:
        for one in changes:
            given = one(given, place)
        return given

    return change


def sharing(*kinds: str) -> Callable[[Words, Place], Words]:
    """Namespaces of these kinds are the host's."""
    every = ("user", "ipc", "pid", "net", "uts", "cgroup")

    def change(words: Words, place: Place) -> Words:
        at = words.index("--unshare-all")
        return [*words[:at], *(f"--unshare-{kind}" for kind in every if kind not in kinds), *words[at + 1 :]]

    return change


def more(*added: str) -> Callable[[Words, Place], Words]:
    """Before the root becomes read-only. `PLACE` is the folder of the attack, `SHARED` the shared one."""

    def change(words: Words, place: Place) -> Words:
        top = str(place.spec.model_socket.parent.parent)
        given = [word.replace("PLACE", top).replace("SHARED", str(place.shared)) for word in added]
        at = len(words) - 1 - words[::-1].index("--remount-ro")
        return [*words[:at], *given, *words[at:]]

    return change


def instead_of_tmp(words: Words, place: Place) -> Words:
    at = next(i for i, word in enumerate(words) if words[i : i + 2] == ["--tmpfs", "/tmp"])
    return [*words[: at - 4], "--bind", str(place.shared), "/tmp", *words[at + 2 :]]


def one_root(words: Words, place: Place) -> Words:
    """Workspace and `/etc` in the writable root, not mounted each for itself."""
    at = next(i for i, word in enumerate(words) if words[i + 2 : i + 3] == ["/workspace"] and word == "--bind")
    words = [*words[:at], "--perms", "0777", "--dir", "/workspace", *words[at + 3 :]]
    at = next(i for i, word in enumerate(words) if words[i + 2 : i + 3] == ["/etc"] and word == "--ro-bind")
    words = [*words[:at], "--dir", "/etc", "--file", "5", "/etc/passwd", *words[at + 3 :]]
    at = len(words) - 1 - words[::-1].index("--remount-ro")
    return [*words[:at], *words[at + 2 :]]


def plain_nul(words: Words, place: Place) -> Words:
    """As if a NUL in a variable had ended it."""
    top = str(place.spec.model_socket.parent.parent)
    return [*words, "--ro-bind", top, top]


# --------------------------------------------------------------------------------------------- changes to the launcher


def replacing(*pairs: tuple[str, str]) -> Callable[[str, Place], str]:
    def change(text: str, place: Place) -> str:
        for pattern, new in pairs:
            text, number = re.subn(pattern, new, text)
            assert number, pattern
        return text

    return change


def allowing_filter(text: str, place: Place) -> str:
    """A filter that allows everything, in place of ours."""
    always = place.directory / "allow.bpf"
    always.write_bytes(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
    return re.sub(r"4<\S+", f"4<{shlex.quote(str(always))}", text)


def bare(text: str, place: Place) -> str:
    """No wall at all: the program runs on the host, with everything that the worker has."""
    program = shlex.quote(str(place.spec.program))
    return f'#!/bin/sh\nulimit -c unlimited; shift $(( $# > 0 ? 1 : 0 )); exec setsid {program} "$@"\n'


def routed(text: str, place: Place) -> str:
    """On the host, in a network of its own that has a way out (to nobody)."""
    program = shlex.quote(str(place.spec.program))
    script = (
        "ip link set lo up; ip link add out type veth peer name in; ip link set in up; ip link set out up arp off; "
        "ip addr add 10.255.0.2/16 dev out; "
        "ip -6 addr add 2001:db8::2/64 dev out nodad; ip route add default dev out; ip -6 route add default dev out; "
        "sysctl -qw net.ipv4.ping_group_range='0 2000000000' 2>/dev/null; "
        f'exec {program} "$@"'
    )
    return f'#!/bin/sh\nshift $(( $# > 0 ? 1 : 0 )); exec unshare -n /bin/sh -c {shlex.quote(script)} sh "$@"\n'


def same_user(text: str, place: Place) -> str:
    uid = 365_999
    for top in (place.spec.workspace, place.spec.outputs, place.spec.harness_state):
        for folder, folders, files in os.walk(top):
            for name in (".", *folders, *files):
                os.chown(os.path.join(folder, name), uid, uid, follow_symlinks=False)
    for socket in (place.spec.model_socket, place.spec.egress_socket):
        os.chown(socket, uid, uid)
    return re.sub(r"--reuid \d+ --regid \d+", f"--reuid {uid} --regid {uid}", text)


# ----------------------------------------------------------------------------------------------------------- the rest


def followed(workspace: Path, target: Path) -> None:
    """A snapshot that holds what links point to."""
    with tarfile.open(target, "w", dereference=True) as archive:
        for path in workspace.iterdir():
            if path.is_file():
                archive.add(path, path.name, recursive=False)


def given_away(spec: SandboxSpec) -> SandboxSpec:
    """Everything in a workspace is given to a user, links followed."""
    for folder, folders, files in os.walk(spec.workspace):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if os.path.exists(path):
                os.chown(path, 365_001, 365_001)
    return spec


def opened(spec: SandboxSpec) -> SandboxSpec:
    """Everybody may look through the folder of the attack."""
    spec.model_socket.parent.parent.chmod(0o755)
    return spec


def resolved(spec: SandboxSpec) -> SandboxSpec:
    return replace(spec, workspace=spec.workspace.resolve())


def normalised(spec: SandboxSpec) -> SandboxSpec:
    """Mounts land where their path leads, whatever it looks like."""
    mounts = tuple(Mount(mount.source, os.path.normpath("/" + mount.inside)) for mount in spec.mounts)
    return replace(spec, mounts=mounts)


def without_nul(spec: SandboxSpec) -> SandboxSpec:
    return replace(spec, environment={name: value.partition("\0")[0] for name, value in spec.environment.items()})


class Remembering:
    """The environment of earlier sandboxes is there in later ones."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, spec: SandboxSpec) -> SandboxSpec:
        self._known |= spec.environment
        return replace(spec, environment=dict(self._known))


NO_FILTER = Weakness(words=without("--disable-userns"), launcher=allowing_filter)
NOT_FILTERED = Weakness(words=without("--seccomp", arguments=1))
LEAKY = Weakness(
    words=without("--clearenv"),
    launcher=replacing(
        (r"env -S -i ", "env -S "),
        (r"for open in [^\n]*\n[^\n]*done\n", ""),
        (r"bash -p", "bash"),
        (r"ulimit -c 0", ""),
    ),
)
HOST_NETWORK = Weakness(words=sharing("net"))
BARE = Weakness(launcher=bare, entrance=bare)
ROUTED = Weakness(launcher=routed, entrance=routed)
HOST_FOLDER = Weakness(words=more("--ro-bind", "PLACE", "PLACE", "--ro-bind", "PLACE", "/root"), spec=opened)
ONE_ROOT = Weakness(
    words=one_root, launcher=lambda text, place: text.replace("unset PWD OLDPWD SHLVL _", "exec 5</etc/group", 1)
)
NO_LIMITS = Weakness(
    words=without("--size", arguments=1), launcher=replacing((r"\{ :; echo [^\n]* \} &", ": &"), (r"ulimit -n \d+", ""))
)
ENDLESS = Weakness(never_ends=True)
ORPHANS = Weakness(words=both(sharing("pid"), without("--die-with-parent")), never_ends=True)
SHARED_SCRATCH = Weakness(words=instead_of_tmp)
SAME_USER = Weakness(launcher=same_user)
FOLLOWING = Weakness(snapshot=followed)
GENEROUS = Weakness(spec=given_away)
RESOLVING = Weakness(spec=resolved)
NORMALISING = Weakness(spec=normalised)
_PATH = ("--setenv", "PATH", "/workspace:/usr/bin:/bin")
OWN_PATH = Weakness(
    words=both(more(*_PATH), lambda words, place: [*words, *_PATH]), launcher=replacing((r"/\S*/socat", "socat"))
)
READS_STARTUP = Weakness(launcher=replacing((r"env -S -i ", "env -S "), (r"bash -p", "bash")))
ENDS_AT_NUL = Weakness(spec=without_nul, words=plain_nul)
PRETENDING = Weakness(label={"kernel": "user_space"})
