"""Do the limits hold, and does nobody else feel them?

A label that says `limits_by: none` promises nothing of memory, processes and processors.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hostler.engine.sandbox_port import SandboxLimits
from hostler.testing.sandboxes.ground import Ground

_LIMITS = SandboxLimits(memory_bytes=256 << 20, pids=64, cpus=0.5, open_files=128, tmp_bytes=16 << 20)


async def memory_ends_at_its_limit(ground: Ground) -> None:
    sandbox = await ground.create(limits=_LIMITS)
    if sandbox.label.limits_by == "none":
        return
    holding = await ground.holding(sandbox)
    done = await ground.run(
        sandbox.entrance,
        "/usr/bin/python3",
        "-I",
        "-S",
        "-c",
        "x = bytearray(1 << 30); x[::4096] = b'x' * (1 << 18); print('had it')",
    )
    assert "had it" not in done.out, done
    assert done.code != 0, done
    stats = await sandbox.stats()
    if stats.memory_peak_bytes is not None:
        assert stats.memory_peak_bytes <= 260 << 20, stats
    if sandbox.label.kernel == "host":
        assert stats.oom_kills, stats
    await holding.communicate(b"")


async def processes_end_at_their_limit(ground: Ground) -> None:
    # Enough memory for that many: a kernel in user space needs megabytes for each of them.
    sandbox = await ground.create(limits=replace(_LIMITS, memory_bytes=1 << 30))
    if sandbox.label.limits_by == "none":
        return
    made = await ground.python(
        sandbox.launcher,
        "import json, os, signal\n"
        "made = []\n"
        "try:\n"
        "    for _ in range(300):\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n"
        "            signal.pause()\n"
        "        made.append(pid)\n"
        "except OSError:\n"
        "    pass\n"
        "for pid in made:\n"
        "    os.kill(pid, 9)\n"
        "print(json.dumps(len(made)))",
    )
    assert 10 <= made < 64, made


async def threads_can_be_made(ground: Ground) -> None:
    """A filter of system calls that is in the way of threads breaks most runtimes, and no shell."""
    sandbox = await ground.create(limits=_LIMITS)
    made = await ground.run(
        sandbox.launcher,
        "/usr/bin/python3",
        "-I",
        "-c",
        "import threading\n"
        "go = threading.Barrier(9)\n"
        "threads = [threading.Thread(target=go.wait, args=(20,)) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "go.wait(20)\n"
        "print('all at once')",
    )
    assert made.out == "all at once\n", made


async def descriptors_end_at_their_limit(ground: Ground) -> None:
    sandbox = await ground.create(limits=_LIMITS)
    most = await ground.python(
        sandbox.launcher,
        "import json, os\n"
        "fds = []\n"
        "try:\n"
        "    while len(fds) < 1000:\n"
        "        fds.append(os.open('/dev/null', os.O_RDONLY))\n"
        "except OSError:\n"
        "    pass\n"
        "n = len(fds)\n"
        "for fd in fds:\n"
        "    os.close(fd)\n"
        "print(json.dumps(n))",
    )
    assert 64 < most <= 128, most


async def scratch_space_ends_at_its_limit(ground: Ground) -> None:
    sandbox = await ground.create(limits=replace(_LIMITS, memory_bytes=512 << 20))
    done = await ground.sh(
        sandbox.launcher,
        "for d in /tmp /dev/shm /home/agent; do dd if=/dev/zero of=$d/big bs=1M count=64 2>/dev/null;"
        " stat -c %s $d/big; rm -f $d/big; done",
    )
    sizes = [int(line) for line in done.out.split()]
    assert len(sizes) == 3, done
    assert all(size <= 17 << 20 for size in sizes), sizes


async def processors_are_shared_out(ground: Ground) -> None:
    sandbox = await ground.create(limits=_LIMITS)
    if sandbox.label.limits_by == "none":
        return
    used = await ground.python(
        sandbox.launcher,
        "import json, time\n"
        "began, cpu = time.monotonic(), time.process_time()\n"
        "while time.monotonic() - began < 1.5:\n"
        "    pass\n"
        "print(json.dumps((time.process_time() - cpu) / (time.monotonic() - began)))",
    )
    assert used < 0.7, used


async def use_is_counted(ground: Ground) -> None:
    sandbox = await ground.create()
    holding = await ground.holding(sandbox)
    stats = await sandbox.stats()
    if sandbox.label.limits_by != "none":
        assert stats.memory_bytes, stats
        assert stats.pids or sandbox.label.kernel == "user_space", stats  # an engine counts gVisor's own threads
        assert stats.cpu_seconds is not None, stats
    await holding.communicate(b"")


async def limits_hold_for_further_commands(ground: Ground) -> None:
    sandbox = await ground.create(limits=_LIMITS)
    holding = await ground.holding(sandbox)
    done = await ground.sh(sandbox.entrance, "ulimit -n")
    assert done.out.strip() == "128", done
    if sandbox.label.limits_by != "none":
        bomb = await ground.start(
            sandbox.entrance, "/bin/sh", "-c", "i=0; while [ $i -lt 100 ]; do sleep 60 & i=$((i+1)); done; wait"
        )
        _, err = await _ended_or_after(bomb, ground.seconds / 4)
        stats = await sandbox.stats()
        assert stats.pids is None or stats.pids <= 64, (stats, err)
    await sandbox.destroy()
    await holding.communicate(b"")


async def _ended_or_after(process: asyncio.subprocess.Process, seconds: float) -> tuple[bytes, bytes]:
    try:
        async with asyncio.timeout(min(seconds, 2.0)):
            return await process.communicate()
    except TimeoutError:
        return b"", b""


PROMISES = (
    memory_ends_at_its_limit,
    processes_end_at_their_limit,
    threads_can_be_made,
    descriptors_end_at_their_limit,
    scratch_space_ends_at_its_limit,
    processors_are_shared_out,
    use_is_counted,
    limits_hold_for_further_commands,
)
