"""How long may a test take? No test may hang: at its limit it fails, and says where every thread and every task was.

`timeout` in pyproject.toml is the limit of what the suite runs; what has a marker of a slow kind has its own here,
and `@pytest.mark.timeout(seconds)` beats both. Setting up and running a test share one limit, tidying up after it gets
another: what hung in the test often hangs again there. Should nothing of Python's run any more, then the whole process
ends a minute later with the stacks on stderr, and xdist says during which test."""

from __future__ import annotations

import asyncio
import faulthandler
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from types import FrameType

import pytest
import pytest_timeout

LIMITS = {"slow": 600, "ladder": 1200, "microvm": 3600, "chaos": 0, "fuzz": 0}
"""Seconds; 0 is none: how many rounds those run is asked on the command line, and each round watches its own time."""
GRACE = 60.0
_LIMIT = pytest.StashKey[float]()
_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # nothing is captured yet


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        limits = [limit for name, limit in LIMITS.items() if item.get_closest_marker(name)]
        if limits and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(0 if 0 in limits else max(limits)))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> bool:
    item.stash[_LIMIT] = settings.timeout
    _arm(item)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    if _LIMIT in item.stash:
        _arm(item)
    return (yield)


def _arm(item: pytest.Item) -> None:
    limit = item.stash[_LIMIT]
    stopped: set[object] = set()

    def out_of_time(_signal: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        item.add_report_section("call", f"after {limit:g} s, the time limit of a test", _stacks(frame))
        loop = asyncio._get_running_loop()
        if loop is not None and not isinstance(loop, asyncio.SelectorEventLoop) and loop not in stopped:
            stopped.add(loop)  # uvloop lets nothing out that a signal's handler raises, so that is for the next time
            loop.call_soon_threadsafe(loop.stop)
            return
        pytest.fail(f"took longer than its limit of {limit:g} s")

    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, limit, GRACE)  # again and again: a task may take the first for its own
    faulthandler.dump_traceback_later(limit + 5 * GRACE, exit=True, file=item.config.stash[_STDERR])


def _stacks(interrupted: FrameType | None) -> str:
    text = io.StringIO()
    for thread in threading.enumerate():
        frame = interrupted if thread is threading.current_thread() else sys._current_frames().get(thread.ident or 0)
        print(f"~~ thread {thread.name}", "".join(traceback.format_stack(frame)), sep="\n", file=text)
    if (loop := asyncio._get_running_loop()) is not None:
        for task in asyncio.all_tasks(loop):
            task.print_stack(file=text)
            print(file=text)
    return text.getvalue()
