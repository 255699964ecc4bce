"""Which commands try lists of hosts against what happened? Their names, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, speaks_to_a_server

policy_app = typer.Typer(
    help="Try a list of hosts against what sessions did, and find the smallest that covers it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@policy_app.command("test")
@speaks_to_a_server
def policy_test(
    environment: Annotated[
        str, typer.Option("--environment", metavar="ENVIRONMENT", help="Id of the environment (env_…).")
    ],
    against: Annotated[
        str, typer.Option("--against", metavar="WINDOW", help="last-7d (m, h, d, w), or a time to begin at.")
    ] = "last-7d",
    networking: Annotated[
        Path | None,
        typer.Option("--networking", metavar="FILE", help="The changed `networking`, as JSON; - is standard input."),
    ] = None,
    hosts: Annotated[
        Path | None,
        typer.Option("--hosts", metavar="FILE", help="The changed allowed_hosts: one on a line, or a JSON array."),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option("--rules", metavar="FILE", help="The changed rules: a JSON array.")
    ] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """What another list would have blocked, and what it would have let through.

    Without a changed list, the environment's own is tried. Exit code 1 when something that was used would be blocked.
    """
    address = server.address()
    from hostler.cli.policies import changed, test

    body = changed(networking, hosts, rules)
    raise typer.Exit(test(address, environment, body, against=against, as_json=as_json))


@policy_app.command("suggest")
@speaks_to_a_server
def policy_suggest(
    session: Annotated[
        str | None, typer.Option("--session", metavar="SESSION", help="Cover what this session used (sesn_…).")
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", metavar="ENVIRONMENT", help="Cover what all its sessions used (env_…)."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="WINDOW", help="last-7d (m, h, d, w), or a time to begin at. Default: all."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="No wildcards, however many names there are.")] = False,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """The smallest list that covers what was used, as JSON for an environment's `networking`.

    What is worth knowing about it goes to standard error; with --json, the whole answer of the API is printed.
    """
    address = server.address()
    from hostler.cli.policies import suggest

    suggest(address, session, environment, against=against, fold=not exact, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add them to the program."""
    app.add_typer(policy_app, name="policy")
