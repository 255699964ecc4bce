"""How does a sandbox live: further commands in it, suspension, a snapshot, its end?"""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile

from hostler.testing.sandboxes.ground import Ground

_TICKING = "while :; do echo tick >> /workspace/ticks; sleep 0.02; done"


async def further_commands_join_the_same_place(ground: Ground) -> None:
    sandbox = await ground.create()
    process = await ground.start(
        sandbox.launcher, "/bin/sh", "-c", "echo private > /tmp/here; id -u; echo ready; exec cat"
    )
    assert process.stdout is not None
    uid = await process.stdout.readline()
    assert await process.stdout.readline() == b"ready\n"
    done = await ground.sh(sandbox.entrance, "cat /tmp/here; id -u; pwd; cat; exit 3", given=b"streamed\n")
    assert done.out == f"private\n{uid.decode()}/workspace\nstreamed\n", done
    assert done.code == 3, done
    both = await asyncio.wait_for(_twice(ground, sandbox.entrance), ground.seconds)
    assert both == ["a\n", "b\n"]
    await process.communicate(b"")


async def _twice(ground: Ground, entrance: object) -> list[str]:
    async with asyncio.TaskGroup() as tasks:
        one = tasks.create_task(ground.sh(entrance, "echo a"))  # type: ignore[arg-type]
        two = tasks.create_task(ground.sh(entrance, "echo b"))  # type: ignore[arg-type]
    return [one.result().out, two.result().out]


async def further_commands_gain_nothing(ground: Ground) -> None:
    sandbox = await ground.create()
    holding = await ground.holding(sandbox)
    done = await ground.sh(
        sandbox.entrance,
        "grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|CapInh):' /proc/self/status | grep -v ':.0000000000000000$';"
        " touch /usr/was-here /etc/was-here 2>/dev/null && echo WRITTEN;"
        " mount -t tmpfs none /mnt 2>/dev/null && echo MOUNTED;"
        " unshare -U true 2>/dev/null && echo UNSHARED; true",
    )
    wrong = [line for line in done.out.splitlines() if not line.startswith("CapBnd")]
    if sandbox.label.kernel == "user_space":
        wrong = [line for line in wrong if line != "UNSHARED"]  # a namespace of a kernel that isn't the host's
    assert wrong == [], done
    environment = await ground.run(sandbox.entrance, "/usr/bin/env")
    assert "HOME=/home/agent" in environment.out
    assert "HOSTLER" not in environment.out, environment
    await holding.communicate(b"")


async def a_killed_entrance_ends_its_command(ground: Ground) -> None:
    sandbox = await ground.create()
    holding = await ground.holding(sandbox)
    process = await ground.start(sandbox.entrance, "/bin/sh", "-c", f"echo on; {_TICKING}")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"on\n"
    ticks = ground.place("one") / "workspace" / "ticks"
    await ground.until(ticks.exists, "the command writes")
    process.kill()
    await process.wait()
    await _quiet(ground, ticks)
    await holding.communicate(b"")


async def a_missing_program_is_said(ground: Ground) -> None:
    sandbox = await ground.create()
    holding = await ground.holding(sandbox)
    done = await ground.run(sandbox.entrance, "/no/such/program")
    assert done.code in (125, 126, 127), done
    await holding.communicate(b"")


async def suspended_means_that_nothing_runs(ground: Ground) -> None:
    sandbox = await ground.create()
    process = await ground.start(sandbox.launcher, "/bin/sh", "-c", _TICKING)
    ticks = ground.place("one") / "workspace" / "ticks"
    await ground.until(ticks.exists, "the program writes")
    await sandbox.suspend()
    await sandbox.suspend()
    size = ticks.stat().st_size
    await asyncio.sleep(0.2)  # the thing to be seen is that nothing happens
    assert ticks.stat().st_size == size
    await sandbox.resume()
    await sandbox.resume()
    await ground.until(lambda: ticks.stat().st_size > size, "the program goes on")
    await sandbox.destroy()
    await process.wait()


async def a_suspended_sandbox_can_be_destroyed(ground: Ground) -> None:
    sandbox = await ground.create()
    holding = await ground.holding(sandbox)
    await sandbox.suspend()
    await sandbox.destroy()
    assert await asyncio.wait_for(holding.wait(), ground.seconds) != 0


async def a_snapshot_holds_the_workspace(ground: Ground) -> None:
    sandbox = await ground.create()
    made = await ground.sh(
        sandbox.launcher,
        "cd /workspace && echo text > plain && chmod 640 plain && touch -d '2001-02-03 04:05:06 UTC' plain &&"
        " : > empty && mkdir -p deep/er && chmod 750 deep && ln -s ../plain deep/link && ln -s /etc/passwd outside &&"
        " ln plain hard &&"
        " truncate -s 64M sparse && echo 'odd' > \"$(printf 'odd\\nname')\" && echo done && mkfifo pipe && echo all",
    )
    # What shares folders with a machine may know no pipes.
    assert made.out == "done\nall\n" or (made.out == "done\n" and sandbox.label.kernel == "own"), made
    target = ground.root / "snapshot.tar"
    await sandbox.snapshot(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.stat().st_size < 8 << 20, "a sparse file was written out"
    with tarfile.open(target) as archive:
        entries = {os.path.normpath(entry.name): entry for entry in archive.getmembers()}
        assert archive.extractfile(entries["plain"]).read() == b"text\n" if entries["plain"].isreg() else True  # type: ignore[union-attr]
    assert entries["plain"].mode & 0o7777 == 0o640
    assert entries["plain"].mtime == 981173106
    assert {entries["plain"].type, entries["hard"].type} == {tarfile.REGTYPE, tarfile.LNKTYPE}
    assert entries["empty"].size == 0
    assert entries["deep"].mode & 0o7777 == 0o750
    assert entries["deep/link"].linkname == "../plain"
    assert entries["outside"].issym()
    assert entries["sparse"].size == 64 << 20
    assert "odd\nname" in entries
    assert "pipe" not in entries
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(1000, 1000)}


async def a_snapshot_is_of_one_moment(ground: Ground) -> None:
    """A program that moves a token from one file to another: the archive has it in exactly one of them."""
    sandbox = await ground.create()
    process = await ground.start(
        sandbox.launcher,
        "/bin/sh",
        "-c",
        "cd /workspace && echo on > a && echo ready && while :; do mv a b; mv b a; done",
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    for number in range(3):
        target = ground.root / f"moment-{number}.tar"
        await sandbox.snapshot(target)
        with tarfile.open(target) as archive:
            names = {os.path.normpath(name) for name in archive.getnames()} - {"."}
        assert len(names) == 1, names
    await sandbox.destroy()
    await process.wait()


async def destroy_ends_everything(ground: Ground) -> None:
    sandbox = await ground.create()
    process = await ground.start(
        sandbox.launcher,
        "/bin/sh",
        "-c",
        f"trap '' TERM HUP INT; (trap '' TERM HUP; setsid sh -c 'trap \"\" TERM; {_TICKING}'"
        " </dev/null >/dev/null 2>&1 &);"
        " echo on; while :; do sleep 1; done",
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"on\n"
    ticks = ground.place("one") / "workspace" / "ticks"
    await ground.until(ticks.exists, "the child writes")
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(sandbox.destroy())
    await asyncio.wait_for(process.wait(), ground.seconds)
    await _quiet(ground, ticks, at_once=True)
    await sandbox.destroy()
    assert ticks.exists(), "what the spec brought has to stay"


async def destroy_before_the_start(ground: Ground) -> None:
    sandbox = await ground.create()
    launcher = sandbox.launcher
    await sandbox.destroy()
    assert not launcher.exists() or (await ground.sh(launcher, "echo RAN")).out == ""


async def a_sandbox_can_be_made_again(ground: Ground) -> None:
    """The same session, on the same folders, after its first sandbox has gone: nothing of the first one's is left."""
    first = await ground.create()
    await ground.sh(first.launcher, "echo kept > /workspace/kept; echo gone > /tmp/gone; echo gone > /home/agent/gone")
    await first.destroy()
    second = await ground.create()
    assert second.sandbox_id != first.sandbox_id
    done = await ground.sh(second.launcher, "cat /workspace/kept; ls /tmp /home/agent; echo more >> /workspace/kept")
    assert done.out.splitlines()[0] == "kept", done
    assert "gone" not in done.out, done


async def _quiet(ground: Ground, ticks: os.PathLike[str], *, at_once: bool = False) -> None:
    """Waits until the file stops growing; `at_once`: it must have stopped already. A busy host may let a process rest
    for a while, so it has to be still for three looks."""
    size, still = os.stat(ticks).st_size, 0
    for _ in range(3 if at_once else int(ground.seconds / 0.2)):
        await asyncio.sleep(0.2)
        before, size = size, os.stat(ticks).st_size
        still = still + 1 if size == before else 0
        if still == 3:
            return
    raise AssertionError(f"a process still writes: {size}")


PROMISES = (
    further_commands_join_the_same_place,
    further_commands_gain_nothing,
    a_killed_entrance_ends_its_command,
    a_missing_program_is_said,
    suspended_means_that_nothing_runs,
    a_suspended_sandbox_can_be_destroyed,
    a_snapshot_holds_the_workspace,
    a_snapshot_is_of_one_moment,
    destroy_ends_everything,
    destroy_before_the_start,
    a_sandbox_can_be_made_again,
)
