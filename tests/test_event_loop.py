"""Does the server's event loop start programs as asyncio's does, and without a fork?"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hostler import event_loop
from hostler.event_loop import new_event_loop

DEADLINE = 60.0


def on_loop(main: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(within())


def children() -> set[str]:
    """Those of this process, ended ones that nobody has taken away among them."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            found |= set((task / "children").read_text().split())
    return found


@pytest.fixture(params=["vfork", "uvloop"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As on a kernel that has descriptors of processes, and as on one that has none."""
    if request.param == "uvloop":

        def refused(pid: int) -> int:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(os, "pidfd_open", refused)
    return str(request.param)


def test_what_goes_in_comes_out() -> None:
    async def main() -> None:
        cat = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        out, err = await cat.communicate(b"x" * 3_000_000)
        assert (len(out), err, cat.returncode) == (3_000_000, b"", 0)

    on_loop(main)


def test_its_folder_its_environment_and_its_streams_are_those_that_were_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        words = ("sh", "-c", 'pwd; echo "$A" >&2; env | wc -l; exit 7')
        environment = {"A": "b", "PATH": "/usr/bin:/bin"}
        said = await asyncio.create_subprocess_exec(
            *words, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, cwd=tmp_path, env=environment
        )
        out, _ = await said.communicate()
        assert out.decode().split()[:2] == [str(tmp_path), "b"]
        assert said.returncode == 7

    on_loop(main)


def test_nothing_that_is_open_here_is_open_there(tmp_path: Path) -> None:
    async def main() -> None:
        with (tmp_path / "secret").open("w") as secret:
            os.set_inheritable(secret.fileno(), True)
            words = ("sh", "-c", f"echo theirs >&{secret.fileno()}")
            wrote = await asyncio.create_subprocess_exec(*words, stdout=PIPE, stderr=PIPE)
            await wrote.communicate()
        assert wrote.returncode != 0
        assert (tmp_path / "secret").read_text() == ""

    on_loop(main)


@pytest.mark.parametrize(("how", "code"), [("kill", -9), ("terminate", -15)])
def test_a_program_that_is_ended_is_told_to_have_ended(how: str, code: int) -> None:
    async def main() -> None:
        sleep = await asyncio.create_subprocess_exec("sh", "-c", "echo up; exec sleep 1000", stdout=PIPE)
        assert sleep.stdout is not None
        await sleep.stdout.readline()
        getattr(sleep, how)()
        assert await sleep.wait() == code
        assert await sleep.wait() == code

    on_loop(main)


@pytest.mark.parametrize(
    ("program", "before"),
    [("exec head -c 3000000 /dev/zero", 2 << 16), ("sleep 1000 & echo up; exec sleep 1000", 0)],
    ids=["which nobody has read", "which another one has open"],
)
def test_an_end_is_told_whatever_is_left_of_the_output(program: str, before: int) -> None:
    """`before`: bytes that are there by then. With so many as the first has, nothing more is taken from the pipe."""

    async def main() -> None:
        some = await asyncio.create_subprocess_exec("sh", "-c", program, stdout=PIPE, start_new_session=True)
        assert some.stdout is not None
        try:
            while len(some.stdout._buffer) <= before:  # type: ignore[attr-defined]  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            waiting = asyncio.create_task(some.wait())
            await asyncio.sleep(0)
            some.kill()
            assert await waiting == -9
        finally:
            with suppress(ProcessLookupError):
                os.killpg(some.pid, signal.SIGKILL)
            await some.communicate()

    on_loop(main)


def test_a_program_that_is_not_there_is_an_error_and_leaves_nothing_open(way: str) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/there/is/no/such/program", stdin=PIPE, stdout=PIPE)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(FileNotFoundError):
                await asyncio.create_subprocess_exec("/there/is/no/such/program", stdin=PIPE, stdout=PIPE)
        if way == "vfork":  # uvloop closes what it made only when it is collected
            assert len(os.listdir("/proc/self/fd")) == before

    on_loop(main)


def test_many_at_once_leave_neither_descriptors_nor_children() -> None:
    async def main() -> None:
        async def one(number: int) -> None:
            some = await asyncio.create_subprocess_exec("sh", "-c", f"echo {number}; exit {number}", stdout=PIPE)
            out, _ = await some.communicate()
            assert (int(out), some.returncode) == (number, number)

        others = children()
        await one(0)
        before = len(os.listdir("/proc/self/fd"))
        async with asyncio.TaskGroup() as tasks:
            for number in range(40):
                tasks.create_task(one(number))
        assert len(os.listdir("/proc/self/fd")) == before
        assert children() == others

    on_loop(main)


def test_whoever_is_cancelled_while_it_starts_leaves_no_program(way: str) -> None:
    if way == "uvloop":
        pytest.skip("as uvloop does it")

    async def main() -> None:
        others = children()
        for _ in range(5):
            starting = asyncio.get_running_loop().create_task(
                asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE)
            )
            await asyncio.sleep(0)
            assert children() != others
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert children() == others

    on_loop(main)


def test_the_kernel_decides_which_way_it_goes(way: str) -> None:
    async def main() -> None:
        true = await asyncio.create_subprocess_exec("true", stdout=PIPE)
        assert isinstance(true._transport, event_loop._Started) == (way == "vfork")  # type: ignore[attr-defined]
        await true.communicate()

    on_loop(main)


def test_nothing_that_a_thread_has_opened_is_closed(way: str) -> None:
    over, wrong = threading.Event(), list[OSError]()

    def open_and_close() -> None:
        while not over.is_set():
            try:
                os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                wrong.append(error)

    async def main() -> None:
        for _ in range(500 if way == "vfork" else 50):  # a fork copies the page tables of all that tests have loaded
            true = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE, stderr=PIPE)
            await true.communicate()

    threads = [threading.Thread(target=open_and_close, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        on_loop(main)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_no_descriptor_stays() -> None:
    async def main() -> None:
        async def one() -> None:
            true = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE, stderr=PIPE)
            await true.communicate()

        await one()
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(20):
            await one()
        while set(os.listdir("/proc/self/fd")) - before:  # noqa: ASYNC110 - pipes are closed in a later turn of the loop
            await asyncio.sleep(0.01)

    on_loop(main)
