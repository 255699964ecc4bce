"""Which commands look after webhook endpoints? Their names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, speaks_to_a_server

webhook_app = typer.Typer(
    help="Tell a URL of yours what happens: make, list and try webhook endpoints.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
EndpointArgument = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Id of the endpoint (whep_…).")]


@webhook_app.command("create")
@speaks_to_a_server
def webhook_create(
    target: Annotated[str, typer.Argument(metavar="URL", help="Where deliveries are sent: https://…")],
    event: Annotated[
        list[str] | None,
        typer.Option("--event", metavar="TYPE", help="An event to tell, such as session.idled. Default: all."),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="A name to recognise it by.")] = "",
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Make a webhook endpoint and print its signing secret, once. Needs a key with the scope admin."""
    address = server.address()
    from hostler.cli.webhooks import create

    create(address, target, events=event or (), name=name, as_json=as_json)


@webhook_app.command("list")
@speaks_to_a_server
def webhook_list(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 50,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """The webhook endpoints of the key's workspace, newest first, without their secrets."""
    address = server.address()
    from hostler.cli.webhooks import list_all

    list_all(address, limit=limit, as_json=as_json)


@webhook_app.command("test")
@speaks_to_a_server
def webhook_test(
    endpoint: EndpointArgument,
    event: Annotated[
        str | None, typer.Option("--event", metavar="TYPE", help="Which event to pretend. Default: the first it wants.")
    ] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Send a pretended event once, now, and say how it went. Fails when the endpoint did not take it."""
    address = server.address()
    from hostler.cli.webhooks import test

    test(address, endpoint, event=event, as_json=as_json)


@webhook_app.command("deliveries")
@speaks_to_a_server
def webhook_deliveries(
    endpoint: EndpointArgument,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 50,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """What was sent to an endpoint, and how that went, newest first."""
    address = server.address()
    from hostler.cli.webhooks import deliveries

    deliveries(address, endpoint, limit=limit, as_json=as_json)


@webhook_app.command("rotate")
@speaks_to_a_server
def webhook_rotate(
    endpoint: EndpointArgument,
    grace_seconds: Annotated[
        int,
        typer.Option(
            "--grace-seconds", metavar="N", min=0, help="How long deliveries are signed with the old secret too."
        ),
    ] = 86_400,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Give an endpoint a new signing secret and print it, once."""
    address = server.address()
    from hostler.cli.webhooks import rotate

    rotate(address, endpoint, grace_seconds=grace_seconds, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add them to the program."""
    app.add_typer(webhook_app, name="webhook")
