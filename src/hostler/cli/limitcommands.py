"""Which commands show and set rate limits on the road to the model? Their names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, speaks_to_a_server

limits_app = typer.Typer(
    help="Rate limits on the road to the model: what is left of them, who waits, and setting them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Workspace = Annotated[
    str | None,
    typer.Option("--workspace", metavar="WORKSPACE", help="Of this workspace. Default: that of the key."),
]
_PER_MINUTE = "a minute: a number, or none."


@limits_app.command("show")
@speaks_to_a_server
def limits_show(workspace: Workspace = None, *, server: Server, as_json: AsJson = False) -> None:
    """Every limit, how much of it is left, where it comes from, and who waits.

    Limits of upstreams are shown with an admin key of the default workspace only. Who waits is said of the server that
    answers.
    """
    address = server.address()
    from hostler.cli.limits import show

    show(address, workspace, as_json=as_json)


@limits_app.command("set")
@speaks_to_a_server
def limits_set(
    requests: Annotated[str | None, typer.Option("--requests", metavar="N", help=f"Requests {_PER_MINUTE}")] = None,
    input_tokens: Annotated[
        str | None,
        typer.Option(
            "--input-tokens", metavar="N", help=f"Tokens of prompts, without those read from a cache, {_PER_MINUTE}"
        ),
    ] = None,
    output_tokens: Annotated[
        str | None, typer.Option("--output-tokens", metavar="N", help=f"Tokens of answers {_PER_MINUTE}")
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", metavar="AGENT", help="Of this agent. Default: of the workspace as a whole."),
    ] = None,
    workspace: Workspace = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Limit a workspace, or one of its agents. What is left out stays as it is.

    Limits of a workspace need an admin key of the default workspace, those of an agent one of its own.
    """
    address = server.address()
    from hostler.cli.limits import set_limits

    wanted = {"requests": requests, "input_tokens": input_tokens, "output_tokens": output_tokens}
    set_limits(address, wanted, agent, workspace, as_json=as_json)


def register(app: typer.Typer) -> None:
    app.add_typer(limits_app, name="limits")
