"""What is a container engine's own: how commands end, what adoption finds, what an image is made from?"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest
import pytest_asyncio
from engines import Engine, containers
from ocikit import maker, root

from hostler.engine.sandbox_port import Sandbox
from hostler.sandbox import oci_seccomp
from hostler.sandbox.oci_engine import Engine as Client
from hostler.sandbox.oci_images import REPOSITORY
from hostler.testing.sandboxes import Ground

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found = request.getfixturevalue(f"{request.param}_engine")
    assert isinstance(found, Engine)
    return found


@pytest_asyncio.fixture
async def ground(engine: Engine, tmp_path: Path) -> AsyncIterator[Ground]:
    async with Ground(tmp_path, maker(engine)) as opened:
        yield opened
    assert containers(engine.socket) == []


async def pids(ground: Ground, sandbox: Sandbox, name: str) -> list[int]:
    done = await ground.sh(sandbox.entrance, f"pgrep -x {name}")
    return [int(line) for line in done.out.split()]


async def test_a_killed_launcher_ends_everything_inside(ground: Ground) -> None:
    sandbox = await ground.create()
    process = await ground.start(
        sandbox.launcher, "/bin/sh", "-c", "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo on; exec cat"
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"on\n"
    assert await pids(ground, sandbox, "sleep") != []
    process.kill()
    await process.wait()
    async with asyncio.timeout(ground.seconds):
        while await pids(ground, sandbox, "sleep") or await pids(ground, sandbox, "cat"):
            pass
    assert (await ground.sh(sandbox.entrance, "echo still open")).out == "still open\n"


async def test_signals_reach_the_program(ground: Ground) -> None:
    sandbox = await ground.create()
    script = "trap 'echo bye; exit 9' TERM; echo on; while :; do sleep 0.05; done"
    process = await ground.start(sandbox.launcher, "/bin/sh", "-c", script)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"on\n"
    process.send_signal(signal.SIGTERM)
    out, _ = await asyncio.wait_for(process.communicate(), ground.seconds)
    assert out == b"bye\n"
    assert process.returncode == 9


async def test_what_ignores_sigterm_is_killed_soon(ground: Ground) -> None:
    sandbox = await ground.create()
    process = await ground.start(
        sandbox.entrance, "/bin/sh", "-c", "trap '' TERM; echo on; while :; do sleep 0.05; done"
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"on\n"
    process.terminate()
    assert await asyncio.wait_for(process.wait(), ground.seconds) == 128 + signal.SIGKILL


async def test_a_process_that_stays_behind_holds_nobody_up(ground: Ground) -> None:
    sandbox = await ground.create()
    begun = monotonic()
    done = await ground.sh(sandbox.entrance, "sleep 1000 & echo said; exit 4")
    assert (done.code, done.out) == (4, "said\n"), done
    assert monotonic() - begun < 15
    assert await pids(ground, sandbox, "sleep") != [], "what a command leaves behind runs on, as in every sandbox"


async def test_a_closed_output_ends_what_writes_to_it(ground: Ground) -> None:
    sandbox = await ground.create()
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(sandbox.entrance, "yes", stdout=writing, stdin=subprocess.DEVNULL)
    os.close(writing)
    assert os.read(reading, 2) == b"y\n"
    os.close(reading)
    assert await asyncio.wait_for(process.wait(), ground.seconds) == 128 + signal.SIGPIPE


async def test_the_forwarder_comes_back(ground: Ground) -> None:
    sandbox = await ground.create()
    before = await pids(ground, sandbox, "socat")
    await ground.sh(sandbox.entrance, "kill -9 $(pgrep -x socat); kill -9 1")
    async with asyncio.timeout(ground.seconds):
        while not (after := await pids(ground, sandbox, "socat")):
            pass
    assert set(after).isdisjoint(before)


async def test_an_adopted_sandbox_has_the_roads_as_they_are_now(ground: Ground) -> None:
    sandbox = await ground.create()
    old = await ground.holding(sandbox)
    ground.sandboxes.clear()
    ground.provider.close()
    place = ground.place("one")
    for name in ("model.sock", "egress.sock"):
        ground.listener(place / name).close()
        (place / name).unlink()
    heir = ground.provider = ground.another_provider()
    adopted = await heir.adopt(sandbox.sandbox_id, ground.spec())
    ground.sandboxes.append(adopted)
    assert await asyncio.wait_for(old.wait(), ground.seconds) != 0, "the program of the earlier worker goes on"
    asking = await ground.start(
        adopted.launcher, "/bin/sh", "-c", "socat -u UNIX-CONNECT:/run/hostler/model.sock - ; echo $?"
    )
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(ground.seconds):
        connection, _ = await loop.sock_accept(ground.listener(place / "model.sock"))
        await loop.sock_sendall(connection, b"new\n")
        connection.close()
        out, _ = await asking.communicate()
    assert out == b"new\n0\n"


async def test_a_cancelled_create_leaves_nothing(ground: Ground, engine: Engine) -> None:
    for _ in range(3):
        making = asyncio.create_task(ground.provider.create(ground.spec()))
        await asyncio.sleep(0)
        await ground.until(lambda: containers(engine.socket), "the engine has begun")
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert containers(engine.socket) == []
    assert await ground.provider.left_over() == []
    assert list((ground.root / "state" / "sandboxes").iterdir()) == []


async def test_containers_of_others_are_left_alone(ground: Ground, engine: Engine) -> None:
    """The same labels but for the state directory's own: somebody else's Hostler on the same engine."""
    sandbox = await ground.create()
    client = Client(engine.socket)
    await client.about()
    made = await client.inspect(f"hostler-{sandbox.sandbox_id}")
    assert made is not None
    labels = {**made["Config"]["Labels"], "hostler.state": "another"}
    other = await client.create("stranger", {"Image": made["Config"]["Image"], "Cmd": ["true"], "Labels": labels})
    try:
        await sandbox.destroy()
        assert await ground.provider.sweep() == []
        assert [one[:12] for one in containers(engine.socket)] == [other[:12]]
    finally:
        await client.remove(other)


async def test_the_filter_is_shorter_than_the_engines_own() -> None:
    own = Path("/usr/share/containers/seccomp.json")
    if not own.exists():
        pytest.skip("containers-common brings the list along that this is compared with")
    allowed: set[str] = set()
    for rule in json.loads(own.read_text())["syscalls"]:
        architectures = (rule.get("includes") or {}).get("arches")
        caps = (rule.get("includes") or {}).get("caps")
        if rule["action"] == "SCMP_ACT_ALLOW" and not caps and (not architectures or "amd64" in architectures):
            allowed |= set(rule["names"])
    assert set(oci_seccomp.ALLOWED) <= allowed


async def test_a_layer_takes_away_and_brings(ground: Ground, engine: Engine) -> None:
    """A layer over the base image with the marks of an overlay: /etc/skel hidden, /etc/issue gone, a file new."""
    key = "c" * 32
    tree = ground.root / "layers" / key / "tree"
    (tree / "etc" / "skel").mkdir(parents=True)
    (tree / "etc" / "skel" / "new").write_text("new\n")
    os.setxattr(tree / "etc" / "skel", "trusted.overlay.opaque", b"y")
    os.mknod(tree / "etc" / "issue", stat.S_IFCHR, 0)
    (tree / "opt").mkdir()
    (tree / "opt" / "mine").write_text("mine\n")
    os.chown(tree / "opt" / "mine", 34, 34)
    image = root()
    (ground.root / "images").symlink_to(image.tree.parents[1])
    manifest = {"key": key, "image": image.digest, "packages": {}, "bytes": 1, "entries": 3, "built_at": 0.0}
    (tree.parent / "manifest.json").write_text(json.dumps(manifest))
    look = "ls -A /etc/skel; ls /etc/issue; ls -n /opt/mine; touch /opt/x; cat /opt/mine; ls -d /usr/bin/git"
    plain = await ground.create("plain")
    assert ".bashrc" in (await ground.sh(plain.entrance, look)).out, "the image has what the layer hides"
    client = Client(engine.socket)
    await client.about()
    try:
        for name in ("one", "two"):  # made, and found
            sandbox = await ground.create(name, layer=tree)
            done = await ground.sh(sandbox.entrance, look)
            lines = done.out.splitlines()
            assert lines[0] == "new", done
            assert lines[1].split()[2:4] == ["34", "34"], done
            assert lines[2:] == ["mine", "/usr/bin/git"], done
            assert "/etc/issue" in done.err, done
            assert "Read-only" in done.err, done
    finally:
        for sandbox in ground.sandboxes:
            await sandbox.destroy()
        made = [name for name in await client.images(REPOSITORY) if key in name]
        for name in made:
            await client.remove_image(name)
    assert len(made) == 1
