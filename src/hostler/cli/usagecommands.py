"""Which commands show what was used and what it cost? Their names, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, speaks_to_a_server
from hostler.cli.problem import WRONG, Problem


@speaks_to_a_server
def usage(
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="WHAT",
            help="day, workspace, environment, agent, session, thread, model, upstream, purpose or tool. Up to three "
            "times. Default: day.",
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From then on: 2026-01-31, an RFC 3339 time, or 7d.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Before then; the same. Default: now.")
    ] = None,
    workspace: Annotated[
        str | None,
        typer.Option("--workspace", metavar="WORKSPACE", help="Of this one. Default: that of the key."),
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Of this agent only.")] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="ENVIRONMENT", help="Of this environment only.")
    ] = None,
    session: Annotated[str | None, typer.Option("--session", metavar="SESSION", help="Of this session only.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Of this model only, without running time.")
    ] = None,
    upstream: Annotated[
        str | None, typer.Option("--upstream", metavar="NAME", help="Of this upstream only, without running time.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="Groups at most, in their order.")
    ] = 1000,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for spreadsheets.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the cost of each group into this file.")
    ] = None,
    mismatches: Annotated[
        bool, typer.Option("--mismatches", help="Show where ledgers did not agree, newest first, instead.")
    ] = False,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """What was used, and what it cost at list price."""
    address = server.address()
    from hostler.cli.usage import Asked, show, show_mismatches

    if as_json and as_csv:
        raise Problem("--json and --csv are two forms; ask for one", next_command="hostler usage --csv", code=WRONG)
    if mismatches:
        others = {
            "--by": by, "--since": since, "--until": until, "--agent": agent, "--environment": environment,
            "--model": model, "--upstream": upstream, "--csv": as_csv, "--plot": plot,
        }  # fmt: skip
        for option in (option for option, given in others.items() if given):
            raise Problem(
                f"--mismatches is another list: {option} doesn't go with it; only --workspace, --session, --limit "
                "and --json do",
                next_command="hostler usage --mismatches",
                code=WRONG,
            )
        show_mismatches(address, workspace, session, limit=limit, as_json=as_json)
        return
    filters = {
        "workspace_id": workspace,
        "agent_id": agent,
        "environment_id": environment,
        "session_id": session,
        "model": model,
        "upstream": upstream,
    }
    asked = Asked(tuple(by or ("day",)), since, until, filters, limit)
    show(address, asked, as_json=as_json, as_csv=as_csv, plot=plot)


@speaks_to_a_server
def prices(*, server: Server, as_json: AsJson = False) -> None:
    """The list prices that the server counts with, and where they are from."""
    address = server.address()
    from hostler.cli.usage import show_prices

    show_prices(address, as_json=as_json)


def register(app: typer.Typer) -> None:
    app.command("usage")(usage)
    app.command("prices")(prices)
