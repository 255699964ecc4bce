"""`hostler serve` and `hostler start`: run the whole server until a signal, and say what it is.

`start` also plays one demo session. The demo is a process of its own, a client like any other; it is started first,
so that it loads while the server loads.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostler.cli import terminal, words
from hostler.cli.clientfile import ClientFile, read_client_file, write_client_file
from hostler.cli.logs import write_logs
from hostler.cli.problem import FAILED, WRONG, Problem, spelled

if TYPE_CHECKING:
    from hostler.compose import Hostler
    from hostler.config import Settings

log = logging.getLogger("hostler.cli")

LOCAL_KEY = "local"


@dataclass(frozen=True, slots=True)
class Served:
    """How serving is shown."""

    as_json: bool = False
    log_level: str = "info"
    demo: bool = False
    once: bool = False


def serve(settings: Settings, how: Served) -> int:
    """Serve until a signal (or, with `once`, until the demo is over). The exit code of the command."""
    as_json = how.as_json if settings.logs.format == "auto" else settings.logs.format == "json"
    write_logs(how.log_level, as_json=as_json, secrets=settings.secrets_known)
    demo = _start_demo() if how.demo else None
    try:
        return _serve(settings, how, demo)
    finally:
        if demo is not None:
            _end(demo)


def _serve(settings: Settings, how: Served, demo: subprocess.Popen[str] | None) -> int:
    from hostler.domain.errors import HostlerError, InvalidRequest
    from hostler.engine.sandbox_port import SandboxUnavailable
    from hostler.event_loop import new_event_loop

    command = "hostler start" if how.demo else "hostler serve"
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_run(settings, how, demo))
    except asyncio.CancelledError:  # told to stop while it started
        from hostler.compose.terminable import TERMINATED

        return TERMINATED
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, SandboxUnavailable):
            raise Problem(f"this host can't give a sandbox: {cause}", next_command="hostler doctor") from error
        if isinstance(cause, InvalidRequest):
            raise Problem(cause.message, next_command=_after(cause.message, command), code=WRONG) from error
        if isinstance(cause, HostlerError):
            raise Problem(cause.message, next_command="hostler doctor") from error
        raise


def _cause(error: Exception) -> Exception:
    """What is inside groups of one; task groups wrap whatever passes them."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _after(message: str, command: str) -> str:
    if "hostler key create" in message:
        return "hostler key create my-app"
    if "--port" in message:
        return f"{command} --port 0   (takes a free port)"
    if "--state-dir" in message:
        return f"{command} --state-dir another-folder"
    return f"{command} --help"


async def _run(settings: Settings, how: Served, demo: subprocess.Popen[str] | None) -> int:
    task = asyncio.current_task()
    assert task is not None
    # Until `until_signal` listens: what a start has made by then is taken down, as with SIGINT.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    gc.disable()  # importing makes very many objects that stay
    from hostler.compose import running, until_signal

    gc.enable()
    async with running(settings) as hostler:
        client = await _client_file(hostler)
        _announce(hostler, client, how)
        log.info(
            "serving",
            extra={"base_url": hostler.base_url, "rehearsal": hostler.rehearsing, "state_dir": str(settings.state_dir)},
        )
        for what in hostler.swept:
            log.warning("left_over_removed", extra={"what": what})
        code = FAILED if how.once else 0
        async with asyncio.TaskGroup() as tasks:
            signalled = tasks.create_task(until_signal(hostler, lambda live: _say_draining(settings, how, live)))
            if demo is not None:
                playing = tasks.create_task(_play(demo, client, how))
                await asyncio.wait((signalled, playing), return_when=asyncio.FIRST_COMPLETED)
                if playing.done():
                    code = playing.result()
                    _after_demo(how, code)
                else:
                    _end(demo)
            if how.once:
                signalled.cancel()
            else:
                code = 0
                await asyncio.wait((signalled,))
        log.info("stopping", extra={"sessions": hostler.worker.live()})
    log.info("stopped")
    if how.demo and not how.as_json:
        terminal.out().print("Stopped.", style="dim")
    return code


# ------------------------------------------------------------------------------------------------ what is left behind


async def _client_file(hostler: Hostler) -> ClientFile:
    """The file for commands on this machine, with the key of last time if it still opens anything."""
    from hostler.compose import create_key

    state_dir = hostler.settings.state_dir
    known = read_client_file(state_dir)
    secret = known.api_key if known is not None else ""
    if not secret or not await _opens(hostler, secret):
        _, secret = await create_key(hostler.database, LOCAL_KEY)
    content = ClientFile(_reachable(hostler.base_url), secret)
    write_client_file(state_dir, content)
    return content


async def _opens(hostler: Hostler, secret: str) -> bool:
    from hostler.domain.errors import Unauthenticated
    from hostler.store.keys import find_key

    database = hostler.database
    try:
        return await database.read(lambda c: find_key(c, database.now(c), secret)) is not None
    except Unauthenticated:  # revoked or expired since
        return False


def _reachable(base_url: str) -> str:
    """A server on every address is reached by this machine's commands over loopback."""
    return base_url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


# --------------------------------------------------------------------------------------------------- what is said


def _announce(hostler: Hostler, client: ClientFile, how: Served) -> None:
    settings = hostler.settings
    if how.as_json:
        print(json.dumps(_facts(hostler, settings.state_dir)), flush=True)
        return
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("base URL", client.base_url if how.demo else hostler.base_url)
    if how.demo:
        table.add_row("API key", client.api_key)
    table.add_row("model", words.model(settings, rehearsing=hostler.rehearsing))
    table.add_row("isolation", words.isolation(hostler.label))
    for promise in hostler.label.missing:
        table.add_row("", f"missing: {promise}")
    table.add_row("state folder", str(settings.state_dir))
    if not how.demo:
        table.add_row(
            "API key",
            f"in {settings.state_dir / 'client.json'}; make others with: {spelled('hostler key create NAME')}",
        )
    console = terminal.out()
    console.print("\nHostler is serving.", style="bold")
    console.print(table)
    console.print()
    sys.stdout.flush()


def _say_draining(settings: Settings, how: Served, live: int) -> None:
    """`start` shows no such log lines, and a person who pressed Ctrl-C should not wait without knowing for what."""
    if how.demo and not how.as_json and live:
        seconds = f"{settings.worker.drain_seconds:g}"
        said = f"\nStopping when the running turns have ended, in {seconds} s at most. Ctrl-C again: at once."
        terminal.out().print(said, style="dim")
        sys.stdout.flush()


def _facts(hostler: Hostler, state_dir: Path) -> dict[str, Any]:
    return {
        "type": "serving",
        "base_url": hostler.base_url,
        "model": {
            "rehearsal": hostler.rehearsing,
            "base_url": None if hostler.settings.upstreams else hostler.settings.model.base_url,
            "upstreams": [{"name": upstream.name, "kind": upstream.kind} for upstream in hostler.settings.upstreams],
        },
        "isolation": words.isolation_facts(hostler.label),
        "state_dir": str(state_dir),
    }


# ------------------------------------------------------------------------------------------------------- the demo


def _start_demo() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "hostler.cli.demo"], stdin=subprocess.PIPE, text=True)


async def _play(demo: subprocess.Popen[str], client: ClientFile, how: Served) -> int:
    """Tell the demo where the server is, and wait for its end."""
    assert demo.stdin is not None
    try:
        where = {"base_url": client.base_url, "api_key": client.api_key, "json": how.as_json}
        demo.stdin.write(json.dumps(where) + "\n")
        demo.stdin.close()
    except BrokenPipeError:
        log.debug("demo_ended_early")
    return await asyncio.to_thread(demo.wait)


def _end(demo: subprocess.Popen[str]) -> None:
    if demo.poll() is None:
        demo.terminate()
        try:
            demo.wait(timeout=5)
        except subprocess.TimeoutExpired:
            demo.kill()
            demo.wait()


def _after_demo(how: Served, code: int) -> None:
    if how.as_json:
        return
    console = terminal.out()
    if code != 0:
        console.print("The demo session did not end well (see above).", style="bold red")
    if how.once:
        return
    console.print("Next:", style="bold")
    for command in (
        'hostler run "Write a haiku about sandboxes into haiku.txt"',
        "hostler sessions list",
        "hostler doctor",
    ):
        console.print(f"  {spelled(command)}")
    console.print("\nServing until Ctrl-C.\n", style="dim")
    sys.stdout.flush()
