"""C3, C4, C5 and the rest of A10, C1, C7: attacks that need sandboxes of their own, or more than one.

What a probe inside says is only half of it here: the other half is looked at from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from hostler.attacks.cases import Case, CouldNotRun, OnSandbox, Promise, Severity
from hostler.attacks.rooms import ENVIRONMENT, LIMITS, Room, SandboxGround, told
from hostler.engine.sandbox_port import Mount, SandboxUnavailable


def _case(id_: str, title: str, attack: OnSandbox, severity: Severity = "critical", needs: Promise = "end") -> Case:
    return Case(id_, title, severity, needs, sandbox=attack)


# ---------------------------------------------------------------------------------------------------------- C3: floods


def _flood(probe: str, cpus: float | None = None) -> OnSandbox:
    """A flood in one sandbox; a neighbour is asked for a sign of life afterwards."""

    async def attack(ground: SandboxGround) -> Sequence[str]:
        limits = replace(LIMITS, cpus=cpus or LIMITS.cpus)
        async with ground.room() as good, ground.room(limits=limits) as bad:
            neighbour = await good.visit([], stay=True)
            if not neighbour.finished:
                raise CouldNotRun(f"a neighbour doesn't start: {neighbour.said}")
            given = {"cpus": limits.cpus}
            visit = await bad.visit([probe], each=max(20.0, ground.seconds / 3), given=given)
            answer = visit.answers.get(probe)
            found = list(answer.found) if answer is not None else []
            if answer is not None and answer.error and not _killed(answer.error):
                raise CouldNotRun(answer.error)
            if neighbour.process.returncode is not None:
                found.append("the neighbour's program ended")
            else:
                alive = await good.visit(["capabilities"], by="entrance")
                if "capabilities" not in alive.answers:
                    found.append(f"the neighbour can start nothing afterwards: {alive.said}")
            await neighbour.end(ground.seconds)
            return found

    return attack


def _killed(error: str) -> bool:
    """Ended out of memory, by the kernel or as an error of Python: whoever had it all lives and says so."""
    return error.startswith(("it ended without an answer", "MemoryError")) or "Cannot allocate memory" in error


_FORCED_BYTES: Final = 1 << 20
"""An allocation of the kernel's own that can't fail is charged past the limit (`force` in its `try_charge_memcg`), by
single pages; one such page was seen. Whoever could have memory in this way would have more than a mebibyte of it."""


def _peak(probe: str) -> OnSandbox:
    """The same, and the sandbox's own account of its memory stays within the limit."""

    async def attack(ground: SandboxGround) -> Sequence[str]:
        async with ground.room() as room:
            visit = await room.visit([probe], stay=True)
            stats = await room.sandbox.stats()
            found = list(visit.answers[probe].found) if probe in visit.answers else []
            bound = LIMITS.memory_bytes or 0
            if stats.memory_peak_bytes is not None and stats.memory_peak_bytes > bound + _FORCED_BYTES:
                found.append(f"{stats.memory_peak_bytes:,} bytes were had, of {bound:,}")
            if visit.process.returncode is None:
                await visit.end(ground.seconds)
            return found

    return attack


async def _processors(ground: SandboxGround) -> Sequence[str]:
    """Busy loops. What another kernel than the host's counts inside is not believed, only what is counted outside."""
    if ground.label.kernel == "host":
        return await _flood("processor_flood", 0.2)(ground)
    loop, limits = asyncio.get_running_loop(), replace(LIMITS, cpus=1.0 if ground.label.kernel == "own" else 0.2)
    async with ground.room(limits=limits) as room:
        began = loop.time()
        visit = await room.visit(["processor_flood"], stay=True, each=30.0, given={"cpus": 1000})
        told(visit, ["processor_flood"])
        stats = await room.sandbox.stats()
        bound = (limits.cpus or 0) * (loop.time() - began) + 0.5
        await visit.end(ground.seconds)
        if stats.cpu_seconds is None:
            raise CouldNotRun("this rung gives no account of processor time")
        used = f"{stats.cpu_seconds:.1f} s of processor time, of {bound:.1f}"
        return [f"the sandbox used {used}"] if stats.cpu_seconds > bound else []


async def _disk(ground: SandboxGround) -> Sequence[str]:
    if ground.volume is None:
        raise CouldNotRun("no quota was given to the attack")
    async with ground.volume(ground.place / "quota", LIMITS.disk_bytes or 0) as top:
        folders = {name: top / name for name in ("workspace", "outputs", "harness_state")}
        async with ground.room(folders=folders) as room:
            return await room.ask("disk_flood", each=60.0)


_C3 = (
    _case("C3.1", "a fork bomb", _flood("forks"), needs="limits"),
    _case("C3.2", "a flood of threads", _flood("threads"), needs="limits"),
    _case("C3.3", "a flood of memory", _flood("memory_flood"), needs="limits"),
    _case("C3.4", "a flood of memory, by the sandbox's own account", _peak("memory_flood"), "high", needs="limits"),
    _case("C3.5", "a flood of `/tmp`", _flood("scratch_flood"), "high", needs="world"),
    _case("C3.6", "a flood of `/dev/shm`", _flood("shared_memory_flood"), "high", needs="world"),
    _case("C3.7", "a flood of the home folder", _flood("home_flood"), "high", needs="world"),
    _case("C3.8", "a flood of empty files", _flood("file_flood"), "high", needs="limits"),
    _case("C3.9", "a flood of descriptors", _flood("descriptor_flood"), "high", needs="limits"),
    _case("C3.10", "a flood of busy loops", _processors, "high", needs="limits"),
    _case("C3.11", "a flood of the workspace", _disk, "high", needs="disk"),
)

# --------------------------------------------------------------------------------------------------- C4: survivors

SURVIVORS = frozenset({"forked", "nohup", "setsid"})


async def _all_gone(room: Room) -> Sequence[str]:
    """The other end of each one's connection is told of its death."""
    until = asyncio.get_running_loop().time() + max(3.0, room.ground.seconds / 10)
    found = []
    for name, gone in room.models.alive.items():
        try:
            async with asyncio.timeout_at(until):
                await gone.wait()
        except TimeoutError:
            found.append(f"the process started as `{name}` is still there")
    return found


async def _with_survivors(room: Room) -> None:
    visit = await room.visit(["stays"], stay=True)
    told(visit, ["stays"])
    if not await room.models.until_alive(SURVIVORS, room.ground.seconds):
        raise CouldNotRun(f"only {sorted(room.models.alive)} of the processes that should survive began")


async def _destroyed(ground: SandboxGround) -> Sequence[str]:
    async with ground.room() as room:
        await _with_survivors(room)
        await room.sandbox.destroy()
        return await _all_gone(room)


async def _program_ended(ground: SandboxGround) -> Sequence[str]:
    async with ground.room() as room:
        await _with_survivors(room)
        await room.visits[0].end(ground.seconds)
        return await _all_gone(room)


async def _destroyed_while_suspended(ground: SandboxGround) -> Sequence[str]:
    async with ground.room() as room:
        await _with_survivors(room)
        await room.sandbox.suspend()
        await room.sandbox.destroy()
        return await _all_gone(room)


async def _launcher_killed(ground: SandboxGround) -> Sequence[str]:
    """The launcher's process dies without a chance to say goodbye; then the sandbox is destroyed as always."""
    async with ground.room() as room:
        await _with_survivors(room)
        room.visits[0].process.kill()
        await room.sandbox.destroy()
        return await _all_gone(room)


async def _by_entrance(ground: SandboxGround) -> Sequence[str]:
    """Left behind by a command that came in later."""
    async with ground.room() as room:
        first = await room.visit([], stay=True)
        if not first.finished:
            raise CouldNotRun(f"no program runs: {first.said}")
        told(await room.visit(["stays"], by="entrance"), ["stays"])
        if not await room.models.until_alive(SURVIVORS, ground.seconds):
            raise CouldNotRun(f"only {sorted(room.models.alive)} of the processes that should survive began")
        await room.sandbox.destroy()
        return await _all_gone(room)


async def _launcher_again(ground: SandboxGround) -> Sequence[str]:
    """A launcher or an entrance that is started once more after the end must not bring the sandbox back."""
    async with ground.room() as room:
        await room.ask("capabilities")
        paths = (room.sandbox.launcher, room.sandbox.entrance)
        await room.sandbox.destroy()
        found = []
        for path, words in zip(paths, ((), ("/opt/hostler/claude",)), strict=True):
            try:
                process = await asyncio.create_subprocess_exec(
                    path,
                    *words,
                    '{"probes": ["capabilities"], "given": {}, "seconds": 5}',
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                )
            except OSError:
                continue
            try:
                async with asyncio.timeout(ground.seconds):
                    said, _ = await process.communicate()
            except TimeoutError:
                process.kill()
                said, _ = await process.communicate()
            if b"capabilities" in said:
                found.append(f"{path.name} still lets a program into a sandbox that was destroyed")
        return found


_C4 = (
    _case("C4.1", "double forks, nohup and setsid against destroy", _destroyed),
    _case("C4.2", "double forks, nohup and setsid against the end of the program", _program_ended),
    _case("C4.3", "the same in a suspended sandbox", _destroyed_while_suspended),
    _case("C4.4", "the same when the launcher was killed", _launcher_killed),
    _case("C4.5", "the same, left by a command that came in later", _by_entrance),
    _case("C4.6", "starting launcher and entrance again after the end", _launcher_again, "high"),
)

# --------------------------------------------------------------------------------------------------- C5: left-overs


def _leaves(probe: str, *, same_session: bool) -> OnSandbox:
    async def attack(ground: SandboxGround) -> Sequence[str]:
        name = f"left{ground.opened}"
        async with ground.room(name) as room:
            await room.ask("leave")
        async with ground.room(name if same_session else f"{name}b") as room:
            return await room.ask(probe)

    return attack


def _remains(probe: str, of: str) -> OnSandbox:
    """Mark in the environment of one sandbox; another must not have it anywhere in its processes."""

    async def attack(ground: SandboxGround) -> Sequence[str]:
        async with ground.room(environment={**ENVIRONMENT, of: ground.mark}) as room:
            await room.ask("capabilities")
        async with ground.room() as room:
            return await room.ask(probe)

    return attack


async def _beside(ground: SandboxGround) -> Sequence[str]:
    """A neighbour that lives at the same time, with the words in its environment, its files and its scratch."""
    async with ground.room(environment={**ENVIRONMENT, "SECRET": ground.mark}) as good, ground.room() as bad:
        neighbour = await good.visit(["leave"], stay=True)
        told(neighbour, ["leave"])
        found = await bad.ask("environments", "command_lines", "finds_anywhere")
        await neighbour.end(ground.seconds)
        return found


async def _owner(ground: SandboxGround) -> Sequence[str]:
    """On the host, the folders of two live sessions belong to two users, and neither to the worker."""
    async with ground.room() as one, ground.room() as two:
        await one.ask("leave")
        await two.ask("leave")
        owners = [(room.spec.workspace / ".left").stat().st_uid for room in (one, two)]
        found = []
        if owners[0] == owners[1]:
            found.append(f"two sessions are the same user of the host, {owners[0]}")
        if os.geteuid() in owners:
            found.append("a session's files belong to the worker's own user")
        return found


_C5 = (
    _case("C5.1", "files of an earlier sandbox of the same session", _leaves("finds_elsewhere", same_session=True)),
    _case("C5.2", "files of an earlier sandbox of another session", _leaves("finds_anywhere", same_session=False)),
    _case("C5.3", "variables of an earlier sandbox", _remains("environments", "SECRET")),
    _case("C5.5", "a neighbour that lives at the same time", _beside, needs="world"),
    _case("C5.6", "the same user of the host for two sessions", _owner, "high", needs="users"),
)

# --------------------------------------------------------------------------------------- A10, C1, C7: seen from outside


async def _dead_road(ground: SandboxGround) -> Sequence[str]:
    async with ground.room() as room:
        await room.ask("road_control", stay=True)
        await room.road.road.close()
        visit = room.visits[0]
        if visit.process.returncode is not None:
            raise CouldNotRun("the program ended too early")
        found = await room.ask("road_is_dead", by="entrance")
        await visit.end(ground.seconds)
        return found


async def _snapshot(ground: SandboxGround) -> Sequence[str]:
    """A snapshot holds links as links, and nothing of what they point to."""
    name = f"snap{ground.opened}"
    workspace = ground.folders(name)["workspace"]
    workspace.mkdir(parents=True)
    (workspace / "file").symlink_to(ground.secret_file)
    (workspace / "folder").symlink_to(ground.secret_file.parent)
    (workspace / "up").symlink_to("../../../../../../../.." + str(ground.secret_file))
    os.mkfifo(workspace / "pipe")
    async with ground.room(name) as room:
        await room.ask("capabilities", stay=True)
        target = ground.place / f"{name}.tar"
        async with asyncio.timeout(ground.seconds):
            await room.sandbox.snapshot(target)
        found = await asyncio.to_thread(_searched, target, ground.mark.encode())
        target.unlink()
        await room.visits[0].end(ground.seconds)
        return found


def _searched(archive: Path, mark: bytes) -> list[str]:
    found = ["a snapshot holds a file of the host"] if mark in archive.read_bytes() else []
    with tarfile.open(archive) as members:
        for member in members:
            if member.name.startswith("/") or ".." in member.name.split("/"):
                found.append(f"a snapshot has a member {member.name!r}")
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                found.append(f"a snapshot has a member {member.name!r} of type {member.type!r}")
    return found


async def _hostile_workspace(ground: SandboxGround) -> Sequence[str]:
    """Giving a workspace to the sandbox's user must follow no link, and change nothing outside of it."""
    name = f"hostile{ground.opened}"
    workspace = ground.folders(name)["workspace"]
    workspace.mkdir(parents=True)
    outside = ground.place / f"{name}-outside"
    outside.mkdir()
    for kept in ("soft", "deep"):
        (outside / kept).write_text(kept)
        (outside / kept).chmod(0o600)
    (workspace / "soft").symlink_to(outside / "soft")
    (workspace / "folder").symlink_to(outside)
    (workspace / "deep").mkdir()
    (workspace / "deep" / "folder").symlink_to(outside)
    before = {path: _owned(path) for path in (outside, outside / "soft", outside / "deep")}
    async with ground.room(name) as room:
        await room.ask("capabilities")
    return [f"{path.name} was changed on the host" for path, owned in before.items() if _owned(path) != owned]


def _owned(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, status.st_mode


async def _replaced_workspace(ground: SandboxGround) -> Sequence[str]:
    """A link where the workspace should be: the sandbox is refused, or what the link points to stays out of it."""
    name = f"replaced{ground.opened}"
    folders = ground.folders(name)
    outside = ground.place / f"{name}-outside"
    outside.mkdir()
    (outside / "secret").write_text(ground.mark)
    folders["workspace"].parent.mkdir(parents=True)
    folders["workspace"].symlink_to(outside)
    before = _owned(outside)
    try:
        async with ground.room(name) as room:
            found = list(await room.ask("finds_anywhere"))
    except (OSError, ValueError, SandboxUnavailable):
        found = []
    if _owned(outside) != before:
        found.append("the folder behind the link was given away")
    return found


async def _planted_programs(ground: SandboxGround) -> Sequence[str]:
    """Programs and start-up files in the workspace, under the names of what a launcher uses."""
    name = f"plant{ground.opened}"
    workspace = ground.folders(name)["workspace"]
    workspace.mkdir(parents=True)
    hit = ground.place / f"{name}-hit"
    hit.mkdir()
    hit.chmod(0o777)
    script = f"#!/bin/sh\ntouch {hit}/$(basename $0) /workspace/.hit-$(basename $0)\n"
    for program in ("sh", "bash", "env", "socat", "bwrap", "claude", "python3", "setpriv", "mount", "unshare", "runc"):
        (workspace / program).write_text(script)
        (workspace / program).chmod(0o755)
    for startup in (".bashrc", ".profile", ".bash_profile", "sitecustomize.py", "usercustomize.py", "json.py", "os.py"):
        text = f"import os; open('{hit}/py', 'w')\n" if startup.endswith(".py") else script
        (workspace / startup).write_text(text)
    async with ground.room(name) as room:
        await room.ask(
            "capabilities",
            stay=True,
            cwd=workspace,
            env={**os.environ, "PATH": f"{workspace}:{os.environ.get('PATH', '')}"},
        )
        await room.ask("capabilities", by="entrance", cwd=workspace)
        await room.visits[0].end(ground.seconds)
        seen = {path.name for path in hit.iterdir()}
        with contextlib.suppress(OSError):
            seen |= {path.name for path in workspace.glob(".hit-*")}
    return [f"{one} of the workspace ran when a sandbox began" for one in sorted(seen)]


async def _shell_startup(ground: SandboxGround) -> Sequence[str]:
    """Variables that make a shell read a file first, in the worker's environment, where a session wrote the file."""
    hit = ground.place / f"hit{ground.opened}"
    planted = ground.place / f"startup{ground.opened}.sh"
    planted.write_text(f"touch {hit}\n")
    planted.chmod(0o644)
    hostile = {"BASH_ENV": str(planted), "ENV": str(planted), "SHELLOPTS": "xtrace", "PS4": f"$(touch {hit})"}
    async with ground.room() as room:
        await room.ask("capabilities", stay=True, env={**os.environ, **hostile})
        await room.ask("capabilities", by="entrance", env={**os.environ, **hostile})
        await room.visits[0].end(ground.seconds)
    return ["a file that a variable of the worker names was run by the launcher"] if hit.exists() else []


async def _nul(ground: SandboxGround) -> Sequence[str]:
    """A NUL in a value would end it there, and make an option of what follows."""
    place = ground.place
    try:
        async with ground.room(environment={**ENVIRONMENT, "A": f"x\0--ro-bind\0{place}\0{place}"}) as room:
            return await room.ask("named_file")
    except (ValueError, SandboxUnavailable):
        return ()


async def _odd_mount(ground: SandboxGround) -> Sequence[str]:
    """A mount whose place inside climbs out of where it may be: refused, or harmless."""
    found: list[str] = []
    for inside in ("/workspace/../etc", "/workspace/../../etc/", "relative/etc", "/./etc"):
        source = ground.place / "mounted"
        source.mkdir(exist_ok=True)
        (source / "passwd").write_text(ground.mark)
        try:
            async with ground.room(mounts=(Mount(source, inside),)) as room:
                await room.ask("capabilities")
                found.append(f"a mount at {inside!r} was taken")
        except (ValueError, SandboxUnavailable):
            continue
    return found


_OTHERS = (
    _case("A10.11", "the proxy's road closed under a running sandbox", _dead_road, needs="roads"),
    _case("C1.21", "links and a pipe in a snapshot", _snapshot, needs="world"),
    _case("C1.22", "links in a workspace that is given to the sandbox", _hostile_workspace, needs="world"),
    _case("C1.23", "a link in place of the workspace", _replaced_workspace, needs="world"),
    _case("C1.24", "mounts at places that climb", _odd_mount, "high", needs="world"),
    _case("C7.21", "programs in the workspace under the launcher's names", _planted_programs, needs="world"),
    _case("C7.22", "variables that make a shell read a file first", _shell_startup, needs="world"),
    _case("C7.23", "NUL in a variable, with options behind it", _nul, needs="world"),
)

CASES = (*_C3, *_C4, *_C5, *_OTHERS)
