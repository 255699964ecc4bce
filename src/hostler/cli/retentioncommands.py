"""Which commands show how much is kept, and remove what is over? Their names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, speaks_to_a_server

retention_app = typer.Typer(
    help="What is removed after a while: see it, try it, do it now.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Workspace = Annotated[
    str | None,
    typer.Option("--workspace", metavar="WORKSPACE", help="Of this workspace. Default: that of the key."),
]


@retention_app.command("show")
@speaks_to_a_server
def retention_show(workspace: Workspace = None, *, server: Server, as_json: AsJson = False) -> None:
    """What is removed after how many days."""
    address = server.address()
    from hostler.cli.retention import show

    show(address, workspace, as_json=as_json)


@retention_app.command("set")
@speaks_to_a_server
def retention_set(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Its name, as hostler retention show has it.")],
    days: Annotated[
        str, typer.Argument(metavar="DAYS", help="A number, never, or default (what the server's settings say).")
    ],
    workspace: Workspace = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Have a workspace keep something for longer or shorter than others. Needs an admin key of the default one."""
    address = server.address()
    from hostler.cli.retention import set_days

    set_days(address, policy, days, workspace, as_json=as_json)


@retention_app.command("run")
@speaks_to_a_server
def retention_run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    workspace: Workspace = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Remove what is over now, and say what it was. Needs a key with the scope admin.

    Exit code 1 when the run has not come to its end.
    """
    address = server.address()
    from hostler.cli.retention import run

    raise typer.Exit(run(address, workspace, dry_run=dry_run, as_json=as_json))


@retention_app.command("history")
@speaks_to_a_server
def retention_history(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="How many at most.")] = 20,
    workspace: Workspace = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """When something was removed, and what; the newest first."""
    address = server.address()
    from hostler.cli.retention import history

    history(address, workspace, limit=limit, as_json=as_json)


@speaks_to_a_server
def storage(
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Count now. Default: what was counted last, with its time.")
    ] = False,
    workspace: Workspace = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """How much is kept of everything that grows, and how near its limits that is."""
    address = server.address()
    from hostler.cli.retention import storage as show_storage

    show_storage(address, workspace, fresh=fresh, as_json=as_json)


def register(app: typer.Typer) -> None:
    app.add_typer(retention_app, name="retention")
    app.command("storage")(storage)
