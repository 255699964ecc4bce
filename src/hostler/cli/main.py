"""Which commands are there? Their names, options and help; what they do is in the modules of this package.

Every command takes `--json`; the shapes are in docs/reference/cli.md.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hostler.cli.problem import WRONG, Problem

if TYPE_CHECKING:
    from hostler.config import Settings

app = typer.Typer(
    name="hostler",
    help="Hosts Claude agents in production, on machines you own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StateDir = Annotated[
    Path | None,
    typer.Option("--state-dir", help="State folder. Default: HOSTLER_STATE_DIR, then ~/.local/state/hostler."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (TOML). Default: HOSTLER_CONFIG.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store-url", help="Database. Default: HOSTLER_STORE__URL, then SQLite in the state folder."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on. Default: 127.0.0.1.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one. Default: 8420.")]
Rehearse = Annotated[bool, typer.Option("--rehearse", help="The rehearsal model answers, even if there is a key.")]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]


def _settings(
    state_dir: Path | None,
    config: Path | None,
    store_url: str | None = None,
    host: str | None = None,
    port: int | None = None,
    rehearse: bool = False,
) -> Settings:
    from hostler.config import load
    from hostler.domain.errors import InvalidRequest

    try:
        return load(
            file=config,
            state_dir=None if state_dir is None else str(state_dir),
            store__url=store_url,
            server__host=host,
            server__port=port,
            model__rehearse=rehearse or None,
        )
    except InvalidRequest as error:
        raise Problem(error.message, next_command="hostler serve --help", code=WRONG) from error


def _log_level(name: str) -> str:
    if name not in ("debug", "info", "warning", "error"):
        raise Problem(f"--log-level {name!r} is none", next_command="--log-level debug|info|warning|error", code=WRONG)
    return name


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    rehearse: Rehearse = False,
    log_level: LogLevel = "info",
    as_json: AsJson = False,
) -> None:
    """Run the server: API, worker and model road in one process.

    The first SIGTERM or SIGINT lets running turns end; the second ends at once.
    """
    from hostler.cli.serve import Served
    from hostler.cli.serve import serve as serve_now

    settings = _settings(state_dir, config, store_url, host, port, rehearse)
    raise typer.Exit(serve_now(settings, Served(as_json=as_json, log_level=_log_level(log_level))))


@app.command()
def start(
    once: Annotated[bool, typer.Option("--once", help="Stop after the demo; its result is the exit code.")] = False,
    host: Host = None,
    port: Port = None,
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    rehearse: Rehearse = False,
    log_level: LogLevel = "warning",
) -> None:
    """Run the server, and one demo session before your eyes."""
    from hostler.cli.serve import Served
    from hostler.cli.serve import serve as serve_now

    settings = _settings(state_dir, config, store_url, host, port, rehearse)
    raise typer.Exit(serve_now(settings, Served(log_level=_log_level(log_level), demo=True, once=once)))


def main() -> None:
    """The entry point. Expected failures become a message and the next command to try, never a traceback."""
    try:
        app(prog_name="hostler")
    except Problem as problem:
        _report(problem)
        sys.exit(problem.code)
    except BrokenPipeError:
        # Whoever read the output has gone; nothing more can be said, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _report(problem: Problem) -> None:
    from hostler.cli.terminal import plain

    if "--json" in sys.argv[1:]:
        error = {"message": problem.message, "next": problem.next_command}
        print(json.dumps({"type": "error", "error": error}), file=sys.stderr)
        return
    print(f"hostler: {plain(problem.message)}", file=sys.stderr)
    print(f"  try: {problem.next_command}", file=sys.stderr)


if __name__ == "__main__":
    main()
