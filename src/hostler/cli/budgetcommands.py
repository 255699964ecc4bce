"""Which commands look after budgets? Their names, options and help."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, speaks_to_a_server

budget_app = typer.Typer(
    help="Limit what an agent, or the whole workspace, may cost: make, list and change budgets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
BudgetArgument = Annotated[str, typer.Argument(metavar="BUDGET", help="Id of the budget (bdgt_…).")]
WarnAt = Annotated[
    list[int] | None,
    typer.Option(
        "--warn-at", metavar="PERCENT", min=1, max=100, help="Tell webhooks when so much is used. Repeatable."
    ),
]


class Period(Enum):
    month = "month"
    total = "total"


@budget_app.command("create")
@speaks_to_a_server
def budget_create(
    dollars: Annotated[str, typer.Argument(metavar="DOLLARS", help="The limit in US dollars, such as 50 or 12.50.")],
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="AGENT", help="Of this agent (agent_…). Default: the workspace.")
    ] = None,
    period: Annotated[
        Period, typer.Option("--period", help="For each calendar month (UTC), or for all from now on.")
    ] = Period.month,
    warn_at: WarnAt = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Make a budget. Needs a key with the scope admin."""
    address = server.address()
    from hostler.cli.budgets import create

    create(address, dollars, agent=agent, period=period.value, warn_at=warn_at or (), as_json=as_json)


@budget_app.command("list")
@speaks_to_a_server
def budget_list(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 50,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """The budgets of the key's workspace and its agents, newest first, with what is used of them."""
    address = server.address()
    from hostler.cli.budgets import list_all

    list_all(address, limit=limit, as_json=as_json)


@budget_app.command("show")
@speaks_to_a_server
def budget_show(budget: BudgetArgument, *, server: Server, as_json: AsJson = False) -> None:
    """One budget: what is spent, what may be spent, and how many sessions wait for it."""
    address = server.address()
    from hostler.cli.budgets import show

    show(address, budget, as_json=as_json)


@budget_app.command("change")
@speaks_to_a_server
def budget_change(
    budget: BudgetArgument,
    dollars: Annotated[
        str | None, typer.Option("--limit", metavar="DOLLARS", help="The new limit in US dollars.")
    ] = None,
    warn_at: WarnAt = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Change the limit or the warnings. Sessions that wait for the budget go on when there is room for them."""
    address = server.address()
    from hostler.cli.budgets import change

    change(address, budget, dollars, warn_at=warn_at, as_json=as_json)


@budget_app.command("remove")
@speaks_to_a_server
def budget_remove(budget: BudgetArgument, *, server: Server, as_json: AsJson = False) -> None:
    """Remove a budget: nothing is limited by it any more, and sessions that wait for it go on."""
    address = server.address()
    from hostler.cli.budgets import remove

    remove(address, budget, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add them to the program."""
    app.add_typer(budget_app, name="budget")
