"""Which command picks a hosting pattern? Its options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, speaks_to_a_server


@speaks_to_a_server
def advise(
    together: Annotated[
        bool | None,
        typer.Option("--together/--no-together", help="Several agents work in the same files at the same time."),
    ] = None,
    returns: Annotated[
        bool | None, typer.Option("--return/--no-return", help="Somebody comes back to a session after its task.")
    ] = None,
    always: Annotated[
        bool | None,
        typer.Option("--always/--no-always", help="It is at work, or answers at once, while nobody writes to it."),
    ] = None,
    reply_seconds: Annotated[
        int | None,
        typer.Option("--reply-seconds", metavar="N", min=1, help="How soon people usually answer the agent."),
    ] = None,
    create: Annotated[
        str | None, typer.Option("--create", metavar="NAME", help="Make the environment, under this name.")
    ] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Pick a hosting pattern with three questions, and print the environment that has it.

    What the options don't answer is asked for at the terminal.
    """
    from hostler.cli.advise import ask, show
    from hostler.cli.advise import create as make

    given = {"together": together, "return": returns, "always": always}
    advice = ask({name: said for name, said in given.items() if said is not None}, reply_seconds)
    if create is None:
        show(advice, "my-environment", as_json=as_json)
    else:
        make(server.address(), advice, create, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add it to the program."""
    app.command()(advise)
