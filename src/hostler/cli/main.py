"""Which commands are there? Their names, options and help; what they do is in the modules of this package.

Every command takes `--json`; the shapes are in docs/reference/cli.md.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hostler.cli.advisecommand import register as register_advise_command
from hostler.cli.budgetcommands import register as register_budget_commands
from hostler.cli.bundlecommands import register as register_bundle_commands
from hostler.cli.checkpointcommands import register as register_checkpoint_commands
from hostler.cli.compactioncommands import register as register_compaction_commands
from hostler.cli.environmentcommands import register as register_environment_commands
from hostler.cli.imagecommands import register as register_image_commands
from hostler.cli.keycommands import register as register_key_commands
from hostler.cli.limitcommands import register as register_limit_commands
from hostler.cli.options import (
    AsJson,
    ConfigFile,
    Host,
    LogLevel,
    Port,
    Rehearse,
    Server,
    SessionId,
    StateDir,
    StoreUrl,
    speaks_to_a_server,
)
from hostler.cli.options import log_level_of as _log_level
from hostler.cli.options import settings_of as _settings
from hostler.cli.placecommands import register as register_place_commands
from hostler.cli.policycommands import register as register_policy_commands
from hostler.cli.problem import WRONG, Problem
from hostler.cli.retentioncommands import register as register_retention_commands
from hostler.cli.routingcommands import register as register_routing_commands
from hostler.cli.usagecommands import register as register_usage_commands
from hostler.cli.webhookcommands import register as register_webhook_commands
from hostler.engine.sandbox_port import Technology

app = typer.Typer(
    name="hostler",
    help="Hosts Claude agents in production, on machines you own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


@app.command()
@speaks_to_a_server
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
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the session open. Default: it is archived, unless it waits.")
    ] = False,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Run one session from the terminal, on a running server.

    A session that waits for a person asks for the answers first, then the prompt is sent.

    Exit code 0 when the agent ended its turn, 1 when it did not, 130 when you interrupted it.
    """
    address = server.address()
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
@speaks_to_a_server
def sessions_list(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 20,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """The newest sessions."""
    address = server.address()
    from hostler.cli.sessions import list_sessions

    list_sessions(address, limit=limit, archived=archived, as_json=as_json)


@sessions_app.command("show")
@speaks_to_a_server
def sessions_show(session: SessionId, *, server: Server, as_json: AsJson = False) -> None:
    """One session: its status, agent and tokens."""
    address = server.address()
    from hostler.cli.sessions import show_session

    show_session(address, session, as_json=as_json)


@sessions_app.command("tail")
@speaks_to_a_server
def sessions_tail(
    session: SessionId,
    since: Annotated[int, typer.Option("--since", min=0, metavar="SEQ", help="Only events behind this sequence.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show what comes.")] = False,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """What happened in a session, and what happens."""
    address = server.address()
    from hostler.cli.sessions import tail

    tail(address, session, since=since, follow=follow, as_json=as_json)


@sessions_app.command("denials")
@speaks_to_a_server
def sessions_denials(
    session: SessionId,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="Decisions read.")] = 1_000,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """What a session was denied on the network, why, and what would allow it."""
    address = server.address()
    from hostler.cli.sessions import denials

    denials(address, session, limit=limit, as_json=as_json)


def _act(session: str, action: str, server: Server, as_json: bool) -> None:
    address = server.address()
    from hostler.cli.sessions import act

    act(address, session, action, as_json=as_json)


@sessions_app.command("preview")
@speaks_to_a_server
def sessions_preview(
    session: SessionId,
    port: Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535, help="A port that its programs listen on.")],
    minutes: Annotated[
        int, typer.Option("--minutes", metavar="N", min=1, max=10_080, help="How long the link is good for.")
    ] = 60,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Make a link to a port of a session, for a browser or a program. Whoever has the link may use it."""
    address = server.address()
    from hostler.cli.previews import preview

    preview(address, session, port, minutes=minutes, as_json=as_json)


@sessions_app.command("previews")
@speaks_to_a_server
def sessions_previews(
    session: SessionId,
    revoke: Annotated[
        str | None, typer.Option("--revoke", metavar="PREVIEW", help="Let nobody through any more (prvw_…).")
    ] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """The links to ports of a session, without their secrets."""
    address = server.address()
    from hostler.cli.previews import previews

    previews(address, session, revoke=revoke, as_json=as_json)


@sessions_app.command("interrupt")
@speaks_to_a_server
def sessions_interrupt(session: SessionId, *, server: Server, as_json: AsJson = False) -> None:
    """Stop what a session does at the next safe point."""
    _act(session, "interrupt", server, as_json)


@sessions_app.command("archive")
@speaks_to_a_server
def sessions_archive(session: SessionId, *, server: Server, as_json: AsJson = False) -> None:
    """End a session; its history stays."""
    _act(session, "archive", server, as_json)


@sessions_app.command("delete")
@speaks_to_a_server
def sessions_delete(session: SessionId, *, server: Server, as_json: AsJson = False) -> None:
    """Remove a session, its history and its files."""
    _act(session, "delete", server, as_json)


register_compaction_commands(sessions_app)
register_checkpoint_commands(sessions_app)
register_bundle_commands(sessions_app)
register_place_commands(sessions_app)


# ------------------------------------------------------------------------------------------------ commands on this host

register_key_commands(app)
register_advise_command(app)
register_policy_commands(app)
register_routing_commands(app, sessions_app)
register_budget_commands(app)
register_environment_commands(app)
register_image_commands(app)
register_webhook_commands(app)
register_retention_commands(app)
register_usage_commands(app)
register_limit_commands(app)


secrets_app = typer.Typer(
    help="See and change the master keys that seal stored secrets.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(secrets_app, name="secrets")


@secrets_app.command("status")
def secrets_status(
    state_dir: StateDir = None, config: ConfigFile = None, store_url: StoreUrl = None, as_json: AsJson = False
) -> None:
    """Which master keys there are, and how many secrets each seals."""
    from hostler.cli.secrets import status

    status(_settings(state_dir, config, store_url), as_json=as_json)


@secrets_app.command("rotate")
def secrets_rotate(
    state_dir: StateDir = None, config: ConfigFile = None, store_url: StoreUrl = None, as_json: AsJson = False
) -> None:
    """Make a new master key, and bring every secret under it. Run it again if it was interrupted."""
    from hostler.cli.secrets import rotate

    rotate(_settings(state_dir, config, store_url), as_json=as_json)


@secrets_app.command("prune")
def secrets_prune(
    state_dir: StateDir = None, config: ConfigFile = None, store_url: StoreUrl = None, as_json: AsJson = False
) -> None:
    """Remove replaced master keys that seal nothing any more, ten minutes after the rotation."""
    from hostler.cli.secrets import prune

    prune(_settings(state_dir, config, store_url), as_json=as_json)


@app.command()
def doctor(
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    attack: Annotated[
        bool, typer.Option("--attack", help="Attack this host's sandboxes and proxy instead, and keep what that shows.")
    ] = False,
    technology: Annotated[
        Technology | None, typer.Option("--technology", help="With --attack: only this isolation technology.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also connect to every upstream, with its credentials. Costs nothing there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check what isolation this host gives, and what is missing."""
    if technology is not None and not attack:
        raise Problem(
            "--technology is for --attack; without it doctor looks at all of them",
            next_command="hostler doctor --attack --technology TECHNOLOGY",
            code=WRONG,
        )
    if probe and attack:
        raise Problem("--probe is not for --attack", next_command="hostler doctor --probe", code=WRONG)
    if attack:
        from hostler.cli.attack import attack as attack_now

        raise typer.Exit(attack_now(_settings(state_dir, config, store_url), technology=technology, as_json=as_json))
    from hostler.cli.doctor import doctor as examine

    raise typer.Exit(examine(_settings(state_dir, config, store_url), probe=probe, as_json=as_json))


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
