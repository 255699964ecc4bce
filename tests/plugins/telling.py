"""What does a run of the tests say about itself while it runs, and when it is ended from outside?

A failure is printed when it happens, not only at the end: a log that is cut off still has it. On SIGTERM (that is what
a limit of time sends) the run says which tests are running and since when, each process says where it stands, and
fixtures are torn down as after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import pytest
from _pytest.terminal import TerminalReporter

_STACK = 12


class Chronicle:
    """Kept by the one process that has the terminal; with xdist that is not a process that runs tests."""

    def __init__(self, terminal: TerminalReporter) -> None:
        self._terminal = terminal
        self._running: dict[str, float] = {}
        self._began = time.monotonic()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.failed:
            return
        terminal = self._terminal
        terminal.ensure_newline()
        terminal.section(f"{report.when} failed after {time.monotonic() - self._began:.0f} s", sep="!", red=True)
        terminal.line(f"{report.nodeid}\n{report.longreprtext}")
        for name, content in report.sections:
            terminal.section(name, sep="-")
            terminal.line(content)
        terminal.flush()

    def running(self) -> Iterator[str]:
        """One line for each test, the one that has run for longest first."""
        now = time.monotonic()
        yield f"ended after {now - self._began:.0f} s"
        for nodeid, since in sorted(self._running.items(), key=lambda item: item[1]):
            yield f"running for {now - since:.0f} s: {nodeid}"


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = None if hasattr(config, "workerinput") else config.pluginmanager.get_plugin("terminalreporter")
    chronicle = Chronicle(terminal) if terminal is not None else None
    if chronicle is not None:
        config.pluginmanager.register(chronicle, "hostler-chronicle")
    # What a test writes is kept back by pytest, so what is said while it runs needs a way of its own.
    said = os.fdopen(os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2), "w", errors="replace")
    config.add_cleanup(said.close)

    def end(number: int, frame: FrameType | None) -> NoReturn:
        name = signal.Signals(number).name
        if chronicle is not None:
            said.write("".join(f"{name}: {line}\n" for line in chronicle.running()))
        said.write(_where_this_process_stands())
        said.flush()
        raise KeyboardInterrupt(name)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _where_this_process_stands() -> str:
    """Frames of our own code and of the standard library, of every thread and every task."""
    said = io.StringIO()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for number, frame in sys._current_frames().items():
        stack = [entry for entry in traceback.extract_stack(frame) if "/site-packages/" not in entry.filename]
        print(f"process {os.getpid()}, {names.get(number, number)}:", file=said)
        said.writelines(traceback.format_list(stack[-_STACK:]))
    with suppress(RuntimeError):  # no loop runs
        for task in asyncio.all_tasks():
            task.print_stack(limit=_STACK, file=said)
    return said.getvalue()
