"""Which commands say which model answers, why, and what other rules would cost? Their names, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, SessionId, speaks_to_a_server
from hostler.cli.problem import WRONG, Problem

routing_app = typer.Typer(
    help="Rules that choose the model of each request: try them, and compare what they cost.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@routing_app.command("explain")
@speaks_to_a_server
def routing_explain(
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="AGENT", help="Whose rules and model count (agent_…).")
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option("--rules", metavar="FILE", help="Rules to try instead of the agent's, as JSON; - is stdin."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="That the request names. Default: the agent's.")
    ] = None,
    thread: Annotated[str, typer.Option("--thread", metavar="THREAD", help="main or sub_agent.")] = "main",
    agent_type: Annotated[
        str | None, typer.Option("--agent-type", metavar="TYPE", help="Of the sub-agent, such as Explore.")
    ] = None,
    purpose: Annotated[
        str, typer.Option("--purpose", metavar="PURPOSE", help="turn, compaction or auxiliary.")
    ] = "turn",
    size: Annotated[int, typer.Option("--bytes", metavar="N", min=0, help="Size of the request's body.")] = 0,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="A pair of the session's metadata.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Such as 2026-10-07T22:30:00Z. Default: now.")
    ] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Which model would answer a request, by which rule, and why not by another. Asks no model."""
    if agent is None and model is None:
        wrong = "say whose request it is with --agent, or which model it names with --model"
        raise Problem(wrong, next_command="hostler routing explain --model claude-opus-5-5", code=WRONG)
    address = server.address()
    from hostler.cli.routing import explain, rules_of, tags_of

    body = {
        "agent_id": agent,
        "routing": None if rules is None else rules_of(rules),
        "model": model,
        "thread": thread,
        "agent_type": agent_type,
        "purpose": purpose,
        "bytes": size,
        "tags": tags_of(tag or []),
        "at": at,
    }
    explain(address, {name: value for name, value in body.items() if value is not None}, as_json=as_json)


@routing_app.command("compare")
@speaks_to_a_server
def routing_compare(
    rules: Annotated[
        list[Path], typer.Option("--rules", metavar="FILE", help="A set of rules, as JSON; repeat it for another one.")
    ],
    since: Annotated[
        str, typer.Option("--since", metavar="WINDOW", help="last-7d (m, h, d, w), or a time to begin at.")
    ] = "last-7d",
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="AGENT", help="Only this agent's requests (agent_…).")
    ] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """What sets of rules would have cost for the requests that were made, at list prices and for the same tokens."""
    address = server.address()
    from hostler.cli.routing import compare, rules_of

    body = {"sets": [rules_of(file) for file in rules], "since": since}
    if agent is not None:
        body["agent_id"] = agent
    compare(address, body, [str(file) for file in rules], as_json=as_json)


def register(app: typer.Typer, sessions: typer.Typer) -> None:
    """Add them to the program, and one to `hostler sessions`."""
    app.add_typer(routing_app, name="routing")

    @sessions.command("requests")
    @speaks_to_a_server
    def sessions_requests(
        session: SessionId,
        limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 50,
        *,
        server: Server,
        as_json: AsJson = False,
    ) -> None:
        """Each model request of a session: which model answered, by which rule, and what it cost. Newest first."""
        address = server.address()
        from hostler.cli.routing import requests

        requests(address, session, limit=limit, as_json=as_json)
