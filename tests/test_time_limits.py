"""A test that hangs fails at its limit, and its report says where every thread and every task was."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HANGING = """
import asyncio, threading, uvloop

def test_of_threads():
    threading.Thread(target=threading.Event().wait, name="the helper", daemon=True).start()
    threading.Event().wait()

async def test_of_tasks():
    async def never():
        await asyncio.Event().wait()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(never(), name="the helper")

def test_of_the_faster_loop():
    async def never():
        await asyncio.Event().wait()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(never())

def test_without_fault():
    pass
"""


def test_what_hangs_fails_with_its_stacks(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    tests = Path(__file__).parent
    shutil.copy(tests / "conftest.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "-c", tests.parent / "pyproject.toml", "--rootdir", tmp_path]
    ran = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--timeout", "0.5", tmp_path / "test_hanging.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert "3 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
    # Each is told when it happens, and once more at the end.
    assert ran.stdout.count("Captured after 0.5 s, the time limit of a test call") == 2 * 3
    assert "~~ thread the helper" in ran.stdout
    assert "Stack for <Task pending name='the helper'" in ran.stdout
    assert "await asyncio.Event().wait()" in ran.stdout
