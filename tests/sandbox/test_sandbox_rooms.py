"""Are the parts of a room one sandbox to the host, and several to each other?"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from sandbox_farm import Farm, until

from hostler.engine.sandbox_port import Mount, SandboxLimits, SharedRoom
from hostler.sandbox import leftovers
from hostler.sandbox.bubblewrap import BubblewrapProvider, BubblewrapSandbox
from hostler.sandbox.views import SpreadViews

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="rooms need a worker that is root")


async def part(
    farm: Farm, name: str, limits: SandboxLimits | None = None, views: Path | None = None
) -> BubblewrapSandbox:
    common = farm.root / "common"
    common.mkdir(exist_ok=True)
    mounts = [Mount(common, "/room/common", writable=True, live=True)]
    if views is not None:
        mounts.append(Mount(views, "/room/sessions", live=True))
    return await farm.create(name, room=SharedRoom("room_1", common, limits or SandboxLimits()), mounts=tuple(mounts))


async def hold(farm: Farm, sandbox: BubblewrapSandbox, script: str = "true") -> None:
    process = await farm.start(sandbox, "/bin/sh", "-c", f"{script}\necho up; read line")
    assert process.stdout is not None
    while (line := await process.stdout.readline()) != b"up\n":
        assert line, "it has ended"


async def test_its_parts_are_one_user_and_share_files_and_the_end_of_one_is_not_the_others(farm: Farm) -> None:
    one, two = await part(farm, "one"), await part(farm, "two")
    await hold(farm, one, "echo 1 > /room/common/f; chmod 600 /room/common/f")
    assert (await farm.sh(two, "cat /room/common/f; echo 2 > /room/common/f; ls /workspace")).out == "1\n"
    found = [os.stat(farm.root / name).st_uid for name in ("common", "one/workspace", "two/workspace")]
    assert len(set(found)) == 1
    assert found[0] != 0
    await two.destroy()
    assert leftovers.processes(one._record)
    third = await part(farm, "three")
    assert (await farm.sh(third, "cat /room/common/f")).out == "2\n"
    await third.destroy()
    await one.destroy()
    assert farm.groups() == [], "the last one has taken the room's own groups away"


async def test_the_limit_of_processes_holds_for_all_of_them_together(farm: Farm) -> None:
    if (await farm.provider.probe()).limits_by == "none":
        pytest.skip("no control groups here")
    limits = SandboxLimits(pids=40)
    one, two = await part(farm, "one", limits), await part(farm, "two", limits)
    await hold(farm, one, "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 100 & done")
    refused = await farm.sh(
        two, "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.2 & done; wait"
    )
    assert "fork" in refused.err.lower()
    assert (await two.glance()).pids_refused


async def test_suspending_one_part_lets_the_others_run(farm: Farm) -> None:
    one, two = await part(farm, "one"), await part(farm, "two")
    await hold(farm, one, "(while :; do date +%N > /room/common/clock; sleep 0.01; done) &\nsleep 0.1")
    await until((farm.root / "common" / "clock").exists, "it runs")
    await one.suspend()
    before = (farm.root / "common" / "clock").read_text()
    assert (await farm.sh(two, "sleep 0.1; cat /room/common/clock")).out == before
    await one.resume()
    await until(lambda: (farm.root / "common" / "clock").read_text() != before, "it runs again")


async def test_a_folder_that_is_shown_later_is_seen_by_who_runs_already_and_can_not_be_written(farm: Farm) -> None:
    views, top = SpreadViews(), farm.root / "views" / "room_1"
    views.open(top)
    try:
        one, two = await part(farm, "one", views=top), await part(farm, "two", views=top)
        await hold(farm, one)
        await hold(farm, two, "echo notes > /workspace/n")
        views.show(top, "two", farm.root / "two" / "workspace")
        process = await farm.start_inside(
            one,
            "cat /room/sessions/two/n; echo x > /room/sessions/two/n; rm /room/sessions/two/n; "
            "mount -o remount,rw,bind /room/sessions/two; umount /room/sessions/two; ls /room/sessions",
        )
        assert process.out == "notes\ntwo\n"
        assert process.err.count("Read-only file system") == 2
        three = await part(farm, "three", views=top)
        assert (await farm.sh(three, "cat /room/sessions/two/n; touch /room/sessions/two/n")).out == "notes\n"
        views.hide(top, "two")
        assert (await farm.start_inside(one, "ls /room/sessions")).out == ""
    finally:
        views.close(top)
    assert not top.exists()


async def test_parts_that_begin_at_the_same_time_find_what_is_common_theirs(farm: Farm) -> None:
    (farm.root / "common").mkdir()
    (farm.root / "common" / "f").write_text("1\n")
    (farm.root / "common" / "f").chmod(0o600)
    (farm.root / "common").chmod(0o700)
    async with asyncio.TaskGroup() as tasks:
        making = [tasks.create_task(part(farm, f"p{number}")) for number in range(6)]
    for task in making:
        assert (await farm.sh(task.result(), "cat /room/common/f")).out == "1\n"


async def test_what_a_killed_worker_has_left_of_a_room_is_swept(farm: Farm) -> None:
    one, two = await part(farm, "one"), await part(farm, "two")
    await hold(farm, one)
    await hold(farm, two)
    farm.provider.close()
    farm.provider = BubblewrapProvider(farm.root / "state", cgroup_name=farm.cgroup_name)
    said = await farm.provider.sweep()
    assert len(said) == 2
    assert farm.groups() == []
    farm.sandboxes.clear()
