"""What is gVisor's own: its streams, its holder, the end of its programs, its left-overs, its root file system?"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from image import base_image

from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox import leftovers
from hostler.sandbox.gvisor import GvisorProvider
from hostler.testing.sandboxes import Ground

pytestmark = pytest.mark.ladder


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    name = f"hg{secrets.token_hex(4)}"
    async with Ground(tmp_path, lambda state: GvisorProvider(state, cgroup_name=name)) as ground:
        yield ground


class Engine:
    """A `runsc` that can be told to put off its starts, or to fail them."""

    def __init__(self, place: Path) -> None:
        self._put_off, self._fail = place / "put-off", place / "fail"
        self.program = place / "runsc"
        self.program.write_text(
            "#!/bin/sh\n"
            'for word; do if [ "$word" = run ]; then\n'
            f"  while [ -e {self._put_off} ]; do /bin/sleep 0.01; done\n"
            f"  if [ -e {self._fail} ]; then echo 'no room for another one' >&2; exit 3; fi\n"
            "fi; done\n"
            f'exec {shutil.which("runsc")} "$@"\n'
        )
        self.program.chmod(0o755)

    def put_off(self) -> None:
        self._put_off.touch()

    def go_on(self) -> None:
        self._put_off.unlink()

    def fail(self) -> None:
        self._fail.touch()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
async def slow(tmp_path: Path, engine: Engine) -> AsyncIterator[Ground]:
    """Where sandboxes are made by `engine`."""
    name = f"hg{secrets.token_hex(4)}"
    runsc = str(engine.program)
    async with Ground(tmp_path, lambda state: GvisorProvider(state, cgroup_name=name, runsc=runsc)) as ground:
        await ground.provider.sweep()  # the trial is over before anything is put off
        yield ground


async def test_a_start_that_fails_is_said_by_the_launcher(slow: Ground, engine: Engine) -> None:
    engine.fail()
    sandbox = await slow.create()
    done = await slow.sh(sandbox.launcher, "echo never")
    assert (done.code, done.out) == (125, ""), done
    assert "gVisor did not start" in done.err
    assert "no room for another one" in done.err
    with pytest.raises(SandboxUnavailable, match="no room for another one"):
        await sandbox.suspend()
    await sandbox.destroy()
    assert leftovers.kill_marked(sandbox.sandbox_id) == 0


async def test_a_launcher_that_is_killed_before_the_start_is_over_starts_nothing(slow: Ground, engine: Engine) -> None:
    engine.put_off()
    sandbox = await slow.create()
    process = await slow.start(sandbox.launcher, "/bin/sh", "-c", "echo x > /workspace/made")
    runs = sandbox.launcher.parent / "runs"
    await slow.until(lambda: list(runs.iterdir()), "the command waits")
    process.kill()
    await process.wait()
    engine.go_on()
    done = await slow.sh(sandbox.entrance, "ls -A /workspace; echo there")
    assert done.out == "there\n", done
    await slow.until(lambda: not list(runs.iterdir()), "nothing of the command is left")


async def test_a_sandbox_that_starts_can_be_destroyed(slow: Ground, engine: Engine) -> None:
    engine.put_off()
    sandbox = await slow.create()
    process = await slow.start(sandbox.launcher, "/bin/sh", "-c", "echo never")
    await slow.until(lambda: list((sandbox.launcher.parent / "runs").iterdir()), "the command waits")
    await sandbox.destroy()
    out, _ = await process.communicate()
    assert (process.returncode != 0, out) == (True, b"")
    assert leftovers.kill_marked(sandbox.sandbox_id) == 0
    assert not sandbox.launcher.parent.exists()


async def test_what_needs_the_sandbox_waits_for_its_start(slow: Ground, engine: Engine) -> None:
    engine.put_off()
    sandbox = await slow.create()
    async with asyncio.TaskGroup() as tasks:
        suspending = tasks.create_task(sandbox.suspend())
        assert (await sandbox.stats()).pids is None
        assert not suspending.done()
        engine.go_on()
    await sandbox.resume()  # first: nothing can be started in what stands still
    process = await slow.start(sandbox.launcher, "/bin/sh", "-c", "echo on")
    out, err = await process.communicate()
    assert out == b"on\n", err


async def test_a_sandbox_that_starts_can_be_adopted(slow: Ground, engine: Engine) -> None:
    engine.put_off()
    sandbox = await slow.create()
    slow.sandboxes.clear()
    slow.provider.close()
    heir = slow.provider = slow.another_provider()
    async with asyncio.TaskGroup() as tasks:
        finding = tasks.create_task(heir.left_over())
        engine.go_on()
    (left,) = finding.result()
    assert left.alive
    adopted = await heir.adopt(sandbox.sandbox_id, slow.spec())
    slow.sandboxes.append(adopted)
    assert (await slow.sh(adopted.launcher, "echo on")).out == "on\n"


async def test_regular_files_as_streams_are_written_in_order(ground: Ground, tmp_path: Path) -> None:
    sandbox = await ground.create()
    await ground.holding(sandbox)
    (tmp_path / "in").write_bytes(b"first\nsecond\n")
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as out:
        given.seek(6)
        out.write(b"before\n")
        out.flush()
        process = await ground.start(
            sandbox.entrance, "/bin/sh", "-c", "cat; echo one; echo two >&2", stdin=given, stdout=out, stderr=out
        )
        await process.wait()
        out.write(b"after\n")
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[0] == "before"
    assert sorted(lines[1:4]) == ["one", "second", "two"]
    assert lines[4:] == ["after"]


async def test_sigterm_goes_to_the_program(ground: Ground) -> None:
    sandbox = await ground.create()
    process = await ground.start(
        sandbox.launcher, "/bin/sh", "-c", "trap 'echo asked; exit 9' TERM; echo on; while :; do sleep 0.05; done"
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"on\n"
    process.send_signal(signal.SIGTERM)
    assert await process.stdout.readline() == b"asked\n"
    assert await process.wait() == 9


async def test_with_the_launchers_program_everything_of_the_agent_ends(ground: Ground) -> None:
    """A child that keeps the standard output would otherwise keep the harness waiting for its end for ever."""
    sandbox = await ground.create()
    done = await ground.sh(
        sandbox.launcher, "(setsid sh -c 'while :; do echo x >> /workspace/ticks; sleep 0.02; done' &); exit 3"
    )
    assert done.code == 3
    ticks = ground.place("one") / "workspace" / "ticks"
    size = ticks.stat().st_size if ticks.exists() else 0
    again = await ground.sh(sandbox.entrance, "ps -eo uid,args; sleep 0.2")
    assert "ticks" not in again.out, again
    assert (ticks.stat().st_size if ticks.exists() else 0) == size


async def test_a_full_house_ends_with_its_program(ground: Ground) -> None:
    """Not one process more fits in when everything is to be ended."""
    sandbox = await ground.create()
    done = await ground.python(
        sandbox.launcher,
        "import os, signal\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0:\n"
        "            signal.pause()\n"
        "except OSError:\n"
        "    print(1, flush=True)\n",
    )
    assert done == 1


async def test_the_agent_cannot_end_its_road(ground: Ground) -> None:
    sandbox = await ground.create()
    done = await ground.sh(
        sandbox.launcher,
        "for p in /proc/[0-9]*; do p=${p#/proc/}; if [ $p != $$ ]; then kill -9 $p 2>/dev/null && echo killed $p; fi;"
        " done; echo still here",
    )
    assert done.out == "still here\n", done
    holding = await ground.start(sandbox.entrance, "/bin/sh", "-c", "kill -9 -1; echo alive")
    await holding.wait()
    assert (await ground.sh(sandbox.entrance, "echo again")).out == "again\n"


async def test_an_adopted_sandbox_reaches_sockets_that_were_opened_anew(ground: Ground) -> None:
    sandbox = await ground.create()
    first = await ground.holding(sandbox)
    await ground.sh(sandbox.entrance, "echo kept > /tmp/kept")
    await sandbox.suspend()
    ground.sandboxes.clear()
    ground.provider.close()
    spec = ground.spec()
    for path in (spec.model_socket, spec.egress_socket):
        ground.listener(path).close()
        path.unlink()
    heir = ground.provider = ground.another_provider()
    (left,) = await heir.left_over()
    assert left.alive
    adopted = await heir.adopt(sandbox.sandbox_id, ground.spec())
    ground.sandboxes.append(adopted)
    await first.wait()
    listener = ground.listener(spec.egress_socket)
    listener.setblocking(True)
    listener.settimeout(ground.seconds)
    process = await ground.start(
        adopted.launcher,
        "/bin/sh",
        "-c",
        "cat /tmp/kept; echo through | socat - UNIX-CONNECT:/run/hostler/egress.sock;"
        " echo port | socat - TCP:127.0.0.1:3128",
    )
    for word in (b"through\n", b"port\n"):
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(ground.seconds)
            assert connection.recv(100) == word
    out, err = await process.communicate()
    assert out == b"kept\n", err


async def test_users_on_the_host_are_neither_root_nor_shared(ground: Ground) -> None:
    one, two = await ground.create("one"), await ground.create("two")
    await ground.sh(one.launcher, "echo x > /workspace/made")
    await ground.sh(two.launcher, "true")  # who starts it is root, and gone now
    uids = set()
    for sandbox in (one, two):
        mine = {
            Path(f"/proc/{pid}").stat().st_uid
            for directory in sandbox._made.group.directories  # type: ignore[attr-defined]
            for pid in (directory / "cgroup.procs").read_text().split()
        }
        assert len(mine) == 1, mine
        uids |= mine
    assert len(uids) == 2
    assert 0 not in uids
    made = (ground.place("one") / "workspace" / "made").stat()
    assert made.st_uid not in uids | {0}
    folder = (ground.place("one") / "workspace").stat()
    assert (folder.st_uid, stat.S_IMODE(folder.st_mode)) == (made.st_uid, 0o700)


async def test_a_layer_lies_over_the_image(tmp_path: Path) -> None:
    image = base_image()
    layer = tmp_path / "layer,o:ver"
    (layer / "etc").mkdir(parents=True)
    (layer / "etc/word").write_text("of the layer\n")
    (layer / "etc/hostname").write_text("of the layer\n")
    for path in (layer, layer / "etc"):
        path.chmod(0o755)
    lowers = {None: (image.rootfs,), layer: (layer, image.rootfs)}
    async with Ground(tmp_path, lambda state: GvisorProvider(state, lowers=lowers.__getitem__)) as ground:
        plain = await ground.create("plain", program=_runner(tmp_path))
        script = "cat /etc/word /etc/hostname; ls /etc/debian_version; id -un; touch /etc/x 2>/dev/null && echo WRITTEN"
        done = await ground.sh(plain.launcher, script)
        assert done.out == "sandbox\n/etc/debian_version\nagent\n", done
        layered = await ground.create("layered", layer=layer, program=_runner(tmp_path))
        done = await ground.sh(layered.launcher, script)
        assert done.out == "of the layer\nof the layer\n/etc/debian_version\nagent\n", done
    assert not (layer / "workspace").exists()


def _runner(place: Path) -> Path:
    runner = place / "runs-its-arguments"
    runner.write_text('#!/bin/sh\nexec "$@"\n')
    runner.chmod(0o755)
    return runner


PROBES = """
import asyncio, sys
from contextlib import suppress
from pathlib import Path
from hostler.sandbox.gvisor import GvisorProvider
asyncio.run(GvisorProvider(Path(sys.argv[1]), cgroup_name=sys.argv[2]).probe())
"""


async def test_the_trial_of_a_worker_that_was_killed_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tempfile.mkdtemp(prefix="gv", dir="/tmp")
    monkeypatch.setenv("TMPDIR", place)
    monkeypatch.setattr(tempfile, "tempdir", None)
    name = f"hg{secrets.token_hex(4)}"
    probe = await asyncio.create_subprocess_exec(sys.executable, "-c", PROBES, str(tmp_path / "a"), name)
    async with asyncio.timeout(30):
        while not any("runsc-sandbox" in said for said in _commands(place)):  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)
    probe.kill()
    await probe.wait()
    try:
        assert _commands(place), "gVisor's own processes die with the worker: nothing is left to prove this with"
        provider = GvisorProvider(tmp_path / "b", cgroup_name=name)
        await provider.probe()
        provider.close()
        assert _commands(place) == []
        assert list(Path(place).iterdir()) == []
        assert not list(Path("/sys/fs/cgroup").glob(f"*/**/{name}-*"))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _commands(place: str) -> list[str]:
    """Command lines of processes that name the folder, and still live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                said = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if place in said:
                    found.append(said)
    return found
