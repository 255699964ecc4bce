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
    from hostler.cli.client import Address
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
    typer.Option(
        "--state-dir", metavar="FOLDER", help="State folder. Default: HOSTLER_STATE_DIR, then ~/.local/state/hostler."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Configuration file (TOML). Default: HOSTLER_CONFIG.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store-url", metavar="URL", help="Database. Default: HOSTLER_STORE__URL, then SQLite in the state folder."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Host = Annotated[
    str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on. Default: 127.0.0.1.")
]
Port = Annotated[
    int | None, typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0 takes a free one. Default: 8420.")
]
Rehearse = Annotated[bool, typer.Option("--rehearse", help="The rehearsal model answers, even if there is a key.")]
LogLevel = Annotated[str, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")]


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
    as_json: AsJson = False,
) -> None:
    """Run the server, and one demo session before your eyes."""
    from hostler.cli.serve import Served
    from hostler.cli.serve import serve as serve_now

    settings = _settings(state_dir, config, store_url, host, port, rehearse)
    raise typer.Exit(
        serve_now(settings, Served(as_json=as_json, log_level=_log_level(log_level), demo=True, once=once))
    )


# ------------------------------------------------------------------------------------------- commands against a server

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Server. Default: HOSTLER_URL, then the one of the state folder."),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY", help="Default: HOSTLER_API_KEY, then that of the state folder."),
]
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="Id of the session (sesn_…).")]


def _address(url: str | None, api_key: str | None, state_dir: Path | None) -> Address:
    from hostler.cli.client import find_address
    from hostler.config import default_state_dir

    folder = state_dir or Path(os.environ.get("HOSTLER_STATE_DIR") or default_state_dir(os.environ))
    return find_address(url, api_key, folder.expanduser())


@app.command()
def run(
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT",
            show_default=False,
            help="What the agent should do; - reads it from standard input. "
            "Can be left out with --session, to answer what the session waits for.",
        ),
    ] = "",
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Model of the agent.")] = "claude-opus-5-5",
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt of the agent.")] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option("--tool", metavar="NAME[:ask]", help="Only these tools; :ask means that you approve each call."),
    ] = None,
    env_allow_host: Annotated[
        list[str] | None,
        typer.Option("--env-allow-host", metavar="HOST", help="Host that the sandbox may reach. Default: none."),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", metavar="AGENT", help="Use this agent instead of --model, --system, --tool."),
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="SESSION", help="Go on with this session.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the session open. Default: it is archived.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Run one session from the terminal, on a running server.

    A session that waits for a person asks for the answers first, then the prompt is sent.

    Exit code 0 when the agent ended its turn, 1 when it did not, 130 when you interrupted it.
    """
    address = _address(url, api_key, state_dir)
    from hostler.cli.run import Request
    from hostler.cli.run import run as run_now

    text = sys.stdin.read() if prompt == "-" else prompt
    request = Request(
        text, model, system, tuple(tool or ()), tuple(env_allow_host or ()), agent, session, keep, as_json
    )
    raise typer.Exit(run_now(request, address))


sessions_app = typer.Typer(help="Look at sessions, follow them, end them.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sessions_app, name="sessions")


@sessions_app.command("list")
def sessions_list(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 20,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """The newest sessions."""
    address = _address(url, api_key, state_dir)
    from hostler.cli.sessions import list_sessions

    list_sessions(address, limit=limit, archived=archived, as_json=as_json)


@sessions_app.command("show")
def sessions_show(
    session: SessionId, url: Url = None, api_key: ApiKey = None, state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    """One session: its status, agent and tokens."""
    address = _address(url, api_key, state_dir)
    from hostler.cli.sessions import show_session

    show_session(address, session, as_json=as_json)


@sessions_app.command("tail")
def sessions_tail(
    session: SessionId,
    since: Annotated[int, typer.Option("--since", min=0, metavar="SEQ", help="Only events behind this sequence.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show what comes.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """What happened in a session, and what happens."""
    address = _address(url, api_key, state_dir)
    from hostler.cli.sessions import tail

    tail(address, session, since=since, follow=follow, as_json=as_json)


def _act(
    session: str, action: str, url: str | None, api_key: str | None, state_dir: Path | None, as_json: bool
) -> None:
    address = _address(url, api_key, state_dir)
    from hostler.cli.sessions import act

    act(address, session, action, as_json=as_json)


@sessions_app.command("interrupt")
def sessions_interrupt(
    session: SessionId, url: Url = None, api_key: ApiKey = None, state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    """Stop what a session does at the next safe point."""
    _act(session, "interrupt", url, api_key, state_dir, as_json)


@sessions_app.command("archive")
def sessions_archive(
    session: SessionId, url: Url = None, api_key: ApiKey = None, state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    """End a session; its history stays."""
    _act(session, "archive", url, api_key, state_dir, as_json)


@sessions_app.command("delete")
def sessions_delete(
    session: SessionId, url: Url = None, api_key: ApiKey = None, state_dir: StateDir = None, as_json: AsJson = False
) -> None:
    """Remove a session, its history and its files."""
    _act(session, "delete", url, api_key, state_dir, as_json)


# ------------------------------------------------------------------------------------------------ commands on this host

key_app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(key_app, name="key")


@key_app.command("create")
def key_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name to recognise it by.")],
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print its secret, once."""
    from hostler.cli.keys import create

    create(_settings(state_dir, config, store_url), name, as_json=as_json)


@key_app.command("list")
def key_list(
    state_dir: StateDir = None, config: ConfigFile = None, store_url: StoreUrl = None, as_json: AsJson = False
) -> None:
    """All API keys, without their secrets."""
    from hostler.cli.keys import list_all

    list_all(_settings(state_dir, config, store_url), as_json=as_json)


@key_app.command("revoke")
def key_revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key (apikey_…).")],
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key useless. A running server feels it within two seconds."""
    from hostler.cli.keys import revoke

    revoke(_settings(state_dir, config, store_url), key, as_json=as_json)


environment_app = typer.Typer(help="Keys of self-hosted environments.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(environment_app, name="environment")
environment_key_app = typer.Typer(
    help="Make, list and revoke the keys with which workers serve a self-hosted environment.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
environment_app.add_typer(environment_key_app, name="key")
EnvironmentArgument = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Id of the environment (env_…).")]


@environment_key_app.command("create")
def environment_key_create(
    environment: EnvironmentArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name to recognise it by.")],
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for workers of an environment and print its secret, once."""
    from hostler.cli.environments import create

    create(_settings(state_dir, config, store_url), environment, name, as_json=as_json)


@environment_key_app.command("list")
def environment_key_list(
    environment: EnvironmentArgument,
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """The keys of an environment, without their secrets."""
    from hostler.cli.environments import list_all

    list_all(_settings(state_dir, config, store_url), environment, as_json=as_json)


@environment_key_app.command("revoke")
def environment_key_revoke(
    environment: EnvironmentArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key (envkey_…).")],
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make an environment key useless. A running server feels it within two seconds."""
    from hostler.cli.environments import revoke

    revoke(_settings(state_dir, config, store_url), environment, key, as_json=as_json)


@app.command()
def doctor(
    state_dir: StateDir = None, config: ConfigFile = None, store_url: StoreUrl = None, as_json: AsJson = False
) -> None:
    """Check what isolation this host gives, and what is missing."""
    from hostler.cli.doctor import doctor as examine

    raise typer.Exit(examine(_settings(state_dir, config, store_url), as_json=as_json))


@app.command()
def rehearse(
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    script: Annotated[
        Path | None, typer.Option("--script", metavar="FILE", help="Script file (JSON) to follow.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the rehearsal model alone: a scripted Messages API."""
    from hostler.cli.rehearse import rehearse as rehearse_now

    rehearse_now(host, port, script, as_json=as_json)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Versions of hostler, claude, the Agent SDK and the client."""
    from hostler.cli.versions import print_versions

    print_versions(as_json=as_json)


def _print_version(wanted: bool) -> None:
    if wanted:
        from hostler.cli.versions import print_versions

        print_versions(as_json=False)
        raise typer.Exit


@app.callback()
def _every_command(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="The same as the command `version`."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point. Expected failures become a message and the next command to try, never a traceback."""
    try:
        app(prog_name="hostler")
    except Problem as problem:
        _report(problem)
        sys.exit(problem.code)
    except KeyboardInterrupt:
        sys.exit(130)
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
