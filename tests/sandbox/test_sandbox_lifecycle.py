"""How sandboxes begin and end: in one worker's life, across its death, and beside other workers."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from sandbox_farm import DEADLINE, ENVIRONMENT, Farm, until

from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox import launch, leftovers, users
from hostler.sandbox.bubblewrap import BubblewrapProvider


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def spawn(*argv: str) -> subprocess.Popen[bytes]:
    """A process that no sandbox knows of."""
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True)


def test_whatever_ends_while_processes_are_looked_for_hinders_nobody(tmp_path: Path) -> None:
    busy = spawn("sh", "-c", "while :; do (:); done")  # its children end all the time
    (tmp_path / "cgroup.procs").write_text(f"{busy.pid}\n")
    record = leftovers.Record("sbx_of_nobody", "sesn_of_nobody", None, (str(tmp_path),))
    try:
        for _ in range(1000):
            assert busy.pid in leftovers.processes(record)
    finally:
        busy.kill()
        busy.communicate()


# ------------------------------------------------------------------------------------------------------------- probing


async def test_probe_runs_a_sandbox_and_says_what_the_host_gives(farm: Farm) -> None:
    label = await farm.provider.probe()
    assert label.technology == "bubblewrap"
    assert label.host_user == ("per_sandbox" if os.geteuid() == 0 else "shared")
    assert (label.limits_by == "none") == (len([word for word in label.missing if "control group" in word]) == 3)
    sandbox = await farm.create()
    assert sandbox.label == label
    assert await farm.provider.probe() == label  # beside a live sandbox of the same state directory


def test_missing_programs_are_named_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="apt-get install bash bubblewrap coreutils mount socat util-linux"):
        launch.find_tools(root=True, places="")


async def test_an_old_bwrap_is_refused(farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bin"
    old.mkdir()
    (old / "bwrap").write_text("#!/bin/sh\necho bubblewrap 0.6.1\n")
    (old / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{old}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailable, match=r"bubblewrap 0\.8 or newer is needed; .* is bubblewrap 0\.6\.1"):
        await farm.provider.probe()


async def test_a_sandbox_that_does_not_start_makes_the_probe_fail_with_its_words(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "bwrap").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec echo bubblewrap 0.9.0\necho bwrap: No permissions >&2; exit 1\n'
    )
    (broken / "bwrap").chmod(0o755)
    tmp_path.chmod(0o755)
    for above in tmp_path.parents:  # so that the sandbox's user gets as far as this bwrap
        if above.stat().st_uid == os.geteuid() and str(above).startswith("/tmp/"):
            above.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailable, match="bwrap: No permissions"):
        await farm.provider.probe()


# ------------------------------------------------------------------------------------------------- creating, destroying


async def test_destroy_removes_what_was_made_and_keeps_what_was_given(farm: Farm) -> None:
    sandbox = await farm.create()
    process = await farm.start(sandbox, "/bin/sh", "-c", "echo kept > file; echo up; read line")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    directory = sandbox.launcher.parent
    pids = farm.pids_of(sandbox)
    assert (await sandbox.stats()).pids == len(pids) >= 4  # two of bwrap, the program, the forwarder
    await sandbox.destroy()
    assert [pid for pid in pids if alive(pid)] == []
    assert farm.groups() == []
    assert not directory.exists()
    assert (farm.spec().workspace / "file").read_text() == "kept\n"
    assert farm.spec().model_socket.is_socket()
    assert await process.wait() != 0


async def test_destroy_can_be_called_again_and_at_the_same_time(farm: Farm) -> None:
    sandbox = await farm.create()
    await farm.start(sandbox, "/bin/cat")
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(sandbox.destroy())
    await sandbox.destroy()
    stats = await sandbox.stats()
    assert stats.pids is None


@pytest.mark.needs_root
async def test_a_late_destroy_leaves_the_uids_next_owner_alone(farm: Farm) -> None:
    first = await farm.create()
    await first.destroy()
    second = await farm.create()
    assert second.host_uid == first.host_uid  # the workspace's owner
    process = await farm.start(second, "/bin/cat")
    await until(lambda: len(farm.pids_of(second)) >= 3, "the second sandbox didn't start")
    await first.destroy()
    assert (await process.communicate(b"still here"))[0] == b"still here"


async def test_destroy_before_the_start_makes_a_start_impossible(farm: Farm) -> None:
    sandbox = await farm.create()
    launcher = sandbox.launcher
    await sandbox.destroy()
    with pytest.raises(FileNotFoundError):
        await asyncio.create_subprocess_exec(launcher)


async def test_destroy_during_the_start_leaves_nothing(farm: Farm) -> None:
    for _ in range(10):
        sandbox = await farm.create()
        process = await farm.start(sandbox, "/bin/sleep", "1000")
        await sandbox.destroy()
        async with asyncio.timeout(DEADLINE):
            await process.wait()
        assert farm.groups() == []


@pytest.mark.needs_root
async def test_workspace_keeps_its_user_while_that_is_free(farm: Farm) -> None:
    first = await farm.create()
    uid = first.host_uid
    again = await farm.provider.create(farm.spec("other"))
    assert again.host_uid != uid
    await again.destroy()
    await first.destroy()
    second = await farm.create()
    assert second.host_uid == uid


async def test_files_that_the_worker_put_there_belong_to_the_sandbox(farm: Farm) -> None:
    first = await farm.create()
    await first.destroy()
    spec = farm.spec()
    nested = spec.harness_state / "projects" / "one"
    nested.mkdir(parents=True, mode=0o700)
    (nested / "transcript.jsonl").write_text("resumed")
    (nested / "transcript.jsonl").chmod(0o600)
    second = await farm.create()
    done = await farm.sh(second, "cat ~/.claude/projects/one/transcript.jsonl && echo >> ~/.claude/projects/one/more")
    assert (done.code, done.out) == (0, "resumed")


async def test_a_spec_that_makes_no_sense_is_refused_and_leaves_nothing(farm: Farm) -> None:
    spec = farm.spec()
    for bad, message in (
        (replace(spec, model_socket=farm.root / "none"), "is no socket"),
        (replace(spec, program=farm.root / "none"), "is no file"),
        (replace(spec, environment={"A": "x\0--bind\0/\0/host"}), "NUL"),
        (replace(spec, environment={"A=B": "x"}), "name of an environment variable"),
        (replace(spec, environment={"": "x"}), "name of an environment variable"),
    ):
        with pytest.raises(ValueError, match=message):
            await farm.provider.create(bad)
    assert farm.groups() == []
    assert list((farm.root / "state" / "sandboxes").iterdir()) == []


async def test_cancelled_create_leaves_nothing(farm: Farm) -> None:
    await farm.provider.sweep()  # opened
    for _ in range(5):
        task = asyncio.create_task(farm.provider.create(farm.spec()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await (await task).destroy()
    assert farm.groups() == []
    assert list((farm.root / "state" / "sandboxes").iterdir()) == []


@pytest.mark.needs_root
async def test_uids_run_out_with_a_sentence(farm: Farm, tmp_path: Path) -> None:
    start = 365_000 + secrets.randbelow(500)
    provider = BubblewrapProvider(tmp_path / "s2", cgroup_name=farm.cgroup_name, uid_range=range(start, start + 1))
    one = await provider.create(farm.spec("one"))
    with pytest.raises(SandboxUnavailable, match="in use"):
        await provider.create(farm.spec("two"))
    await one.destroy()
    two = await provider.create(farm.spec("two"))
    await two.destroy()
    provider.close()


@pytest.mark.needs_root
def test_two_pools_of_a_host_never_share_a_uid(tmp_path: Path) -> None:
    uids = range(3_000_000, 3_000_003)
    one, two = (users.UidPool(uids, tmp_path / "lock") for _ in range(2))
    taken = [one.acquire(), two.acquire(), one.acquire()]
    assert sorted(taken) == list(uids)
    with pytest.raises(SandboxUnavailable):
        two.acquire(taken[0])
    assert not two.claim(taken[0])
    one.release(taken[0])
    assert two.acquire(taken[0]) == taken[0]
    one.close()
    assert two.claim(taken[2])  # what a process held is free when it is gone
    two.close()


@pytest.mark.needs_root
def test_a_uid_that_still_has_processes_is_not_given_out(tmp_path: Path) -> None:
    uids = range(3_000_010, 3_000_012)
    process = spawn(
        "/usr/bin/setpriv", "--reuid", str(uids[0]), "--clear-groups", "/bin/sh", "-c", "echo up; read line"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    pool = users.UidPool(uids, tmp_path / "lock")
    assert pool.acquire(uids[0]) == uids[1]
    process.kill()
    process.communicate()
    assert pool.acquire(uids[0]) == uids[0]
    pool.close()


# ------------------------------------------------------------------------------------------- death of the worker, sweep

WORKER = """
import asyncio, json, subprocess, sys
from pathlib import Path
from hostler.engine.sandbox_port import (SandboxSpec)
from hostler.sandbox.bubblewrap import BubblewrapProvider

async def main():
    given = json.loads(sys.argv[1])
    paths = {name: Path(value) for name, value in given["paths"].items()}
    provider = BubblewrapProvider(Path(given["state"]), cgroup_name=given["cgroup_name"])
    spec = SandboxSpec(session_id="sesn_crash", environment=given["environment"], **paths)
    sandbox = await provider.create(spec)
    child = await asyncio.create_subprocess_exec(sandbox.launcher, *given["argv"], stdout=subprocess.PIPE)
    line = await child.stdout.readline()
    print(json.dumps({"id": sandbox.sandbox_id, "uid": sandbox.host_uid, "line": line.decode()}), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Worker:
    """Another worker process with a state directory of its own, for killing."""

    def __init__(self, farm: Farm, name: str, *argv: str) -> None:
        spec = farm.spec(name)
        self.state = farm.root / f"state-{name}"
        names = ("workspace", "outputs", "harness_state", "model_socket", "egress_socket", "program")
        given = {
            "paths": {field: str(getattr(spec, field)) for field in names},
            "state": str(self.state),
            "cgroup_name": farm.cgroup_name,
            "environment": ENVIRONMENT,
            "argv": argv,
        }
        # A pipe that nobody writes to: with the standard input of the tests, `cat` could end at once.
        command = [sys.executable, "-c", WORKER, json.dumps(given)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def started(self) -> dict[str, object]:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = await asyncio.to_thread(self.process.stdout.readline)
        found: dict[str, object] = json.loads(line)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


ESCAPING = (
    "trap '' HUP TERM INT; (setsid nohup sleep 1000 >/dev/null 2>&1 &); (setsid sh -c 'setsid sleep 1001 & wait' &) ; "
    "echo up; exec 1>&-; while :; do sleep 1000; done"
)


async def test_kill_of_the_worker_ends_its_sandboxes_and_the_sweep_removes_the_rest(farm: Farm) -> None:
    worker = Worker(farm, "crash", "/bin/sh", "-c", ESCAPING)
    begun = await worker.started()
    assert begun["line"] == "up\n"
    groups = [path for path in farm.groups() if path.name.endswith(str(begun["id"]))]
    pids = {int(pid) for path in groups for pid in (path / "cgroup.procs").read_text().split()}
    assert len(pids) >= 5 or not groups
    worker.kill()
    await until(lambda: not [pid for pid in pids if alive(pid)], "the sandbox outlived its worker")
    assert farm.groups() == groups  # directories have nobody to remove them yet

    provider = BubblewrapProvider(worker.state, cgroup_name=farm.cgroup_name)
    said = await provider.sweep()
    assert len(said) == 1
    assert "sesn_crash" in said[0]
    assert farm.groups() == []
    assert list((worker.state / "sandboxes").iterdir()) == []
    assert await provider.sweep() == []
    provider.close()


async def test_sweep_ends_a_launcher_that_was_still_on_its_way_when_the_worker_died(farm: Farm) -> None:
    """Before bwrap asks for a signal at its parent's death nobody gives it one: such a process is found by its mark."""
    worker = Worker(farm, "crash", "/bin/sh", "-c", "echo up; cat")
    begun = await worker.started()
    orphan = spawn("/usr/bin/env", "-i", f"{launch.MARK}={begun['id']}", "/bin/sleep", "1000")
    innocent = spawn("/usr/bin/env", "-i", f"{launch.MARK}={secrets.token_hex(12)}", "/bin/sleep", "1000")
    await until(lambda: Path(f"/proc/{orphan.pid}/comm").read_text() == "sleep\n", "no orphan")
    worker.kill()
    provider = BubblewrapProvider(worker.state, cgroup_name=farm.cgroup_name)
    await provider.sweep()
    assert orphan.wait(DEADLINE) == -signal.SIGKILL
    assert innocent.poll() is None
    innocent.kill()
    for process in (orphan, innocent):
        process.communicate()
    provider.close()


@pytest.mark.needs_root
async def test_sweep_ends_processes_of_the_uid_that_are_in_no_group_and_have_no_mark(farm: Farm) -> None:
    worker = Worker(farm, "crash", "/bin/sh", "-c", "echo up; cat")
    begun = await worker.started()
    uid = int(str(begun["uid"]))
    worker.kill()
    code = "import ctypes,signal; ctypes.CDLL(None).prctl(4,0); print('up',flush=True); signal.pause()"
    # Not dumpable, so its directory in /proc belongs to root.
    hidden = spawn("/usr/bin/setpriv", "--reuid", str(uid), "--clear-groups", "/usr/bin/python3", "-I", "-c", code)
    assert hidden.stdout is not None
    assert hidden.stdout.readline() == b"up\n"
    provider = BubblewrapProvider(worker.state, cgroup_name=farm.cgroup_name)
    await provider.sweep()
    assert hidden.wait(DEADLINE) == -signal.SIGKILL
    hidden.communicate()
    provider.close()


@pytest.mark.needs_root
async def test_sweep_spares_a_uid_that_another_worker_has_got_since(farm: Farm) -> None:
    worker = Worker(farm, "crash", "/bin/sh", "-c", "echo up; cat")
    begun = await worker.started()
    worker.kill()
    await until(lambda: int(str(begun["uid"])) not in users.uids_with_processes(), "the sandbox outlived its worker")
    workspace = farm.spec("heir").workspace
    workspace.mkdir()
    os.chown(workspace, int(str(begun["uid"])), int(str(begun["uid"])))
    heir = await farm.create("heir")
    assert heir.host_uid == begun["uid"]
    process = await farm.start(heir, "/bin/cat")
    await until(lambda: len(farm.pids_of(heir)) >= 3, "the heir didn't start")
    provider = BubblewrapProvider(worker.state, cgroup_name=farm.cgroup_name)
    await provider.sweep()
    assert (await process.communicate(b"unharmed"))[0] == b"unharmed"
    provider.close()


async def test_sweep_leaves_live_sandboxes_and_other_state_directories_alone(farm: Farm) -> None:
    mine = await farm.create("mine")
    process = await farm.start(mine, "/bin/cat")
    worker = Worker(farm, "neighbour", "/bin/sh", "-c", "echo up; cat")
    begun = await worker.started()
    assert await farm.provider.sweep() == []
    groups = [path for path in farm.groups() if path.name.endswith(str(begun["id"]))]
    await until(lambda: all((path / "cgroup.procs").read_text() for path in groups), "the neighbour did not start")
    assert worker.process.poll() is None
    assert (await process.communicate(b"mine too"))[0] == b"mine too"
    worker.kill()
    provider = BubblewrapProvider(worker.state, cgroup_name=farm.cgroup_name)
    await provider.sweep()
    provider.close()


async def test_a_state_directory_has_one_worker_at_a_time(farm: Farm) -> None:
    await farm.create()
    second = BubblewrapProvider(farm.root / "state", cgroup_name=farm.cgroup_name)
    with pytest.raises(SandboxUnavailable, match="another process uses"):
        await second.sweep()
    with pytest.raises(SandboxUnavailable, match="another process uses"):
        await second.create(farm.spec("two"))


async def test_sweep_removes_a_sandbox_whose_worker_died_before_its_record(farm: Farm) -> None:
    await farm.provider.sweep()
    half = farm.root / "state" / "sandboxes" / secrets.token_hex(12)
    half.mkdir()
    (half / f".{leftovers.RECORD}").write_text('{"sandbox')
    assert len(await farm.provider.sweep()) == 1
    assert not half.exists()


# ----------------------------------------------------------------------------------------------- worker without root

ORDINARY = """
import asyncio, json, os, socket, subprocess, sys
from pathlib import Path
from hostler.engine.sandbox_port import (SandboxSpec)
from hostler.sandbox import seccomp
from hostler.sandbox.bubblewrap import BubblewrapProvider
import concurrent.futures.thread, pyseccomp  # now, while everything can be read

async def main():
    place = Path(sys.argv[1])
    for name in ("m", "e"):
        socket.socket(socket.AF_UNIX).bind(str(place / name))
    provider = BubblewrapProvider(place / "state")
    label = await provider.probe()
    spec = SandboxSpec("sesn_x", place / "w", place / "o", place / "h", place / "m", place / "e", Path("/bin/sh"))
    sandbox = await provider.create(spec)
    script = "echo x > /workspace/x; /usr/bin/id -u; /usr/bin/head -1 /etc/passwd; read line"
    child = subprocess.Popen([sandbox.launcher, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    lines = [child.stdout.readline().decode() for _ in range(2)]
    await sandbox.destroy()
    child.wait()
    print(json.dumps({
        "user": label.host_user, "limits": label.limits_by, "missing": label.missing, "lines": lines,
        "kept": (place / "w" / "x").read_text(), "left": os.listdir(place / "state" / "sandboxes"),
        "code": child.returncode,
    }))

if os.geteuid() == 0:
    uid = int(sys.argv[2])
    os.chown(sys.argv[1], uid, uid)
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
    os.environ["HOME"] = sys.argv[1]
asyncio.run(main())
"""


async def test_a_worker_that_is_not_root_says_so_and_works() -> None:
    with tempfile.TemporaryDirectory() as name:
        argv = (sys.executable, "-c", ORDINARY, name, "64999")
        environment = {"PATH": os.environ["PATH"]}
        process = await asyncio.create_subprocess_exec(*argv, cwd="/", stdout=-1, stderr=-1, env=environment)
        async with asyncio.timeout(2 * DEADLINE):
            out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found = json.loads(out)
    assert found["user"] == "shared"
    assert any("own user on the host" in sentence for sentence in found["missing"])
    assert found["lines"] == ["1000\n", "root:x:0:0:root:/root:/usr/sbin/nologin\n"]
    assert (found["kept"], found["left"]) == ("x\n", [])
    assert found["code"] != 0
