"""Which commands look after keys, workspaces, approvals and the audit? Their names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.auditcommands import audit_app
from hostler.cli.options import AsJson, ConfigFile, Server, StateDir, StoreUrl, settings_of, speaks_to_a_server

key_app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)
workspace_app = typer.Typer(help="Make and list workspaces.", no_args_is_help=True, rich_markup_mode=None)


@key_app.command("create")
def key_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name to recognise it by.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="SCOPE", help="read, operate or admin; each includes those before."),
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", metavar="TIME", help="Such as 30d, 12h or 90m. Default: never.")
    ] = None,
    workspace: Annotated[
        str | None, typer.Option("--workspace", metavar="WORKSPACE", help="Default: the default workspace.")
    ] = None,
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print its secret, once. Without --scope it may do everything."""
    from hostler.cli.keys import create

    create(
        settings_of(state_dir, config, store_url),
        name,
        scopes=scope or (),
        expires_in=expires_in,
        workspace=workspace,
        as_json=as_json,
    )


@key_app.command("list")
def key_list(
    state_dir: StateDir = None, config: ConfigFile = None, store_url: StoreUrl = None, as_json: AsJson = False
) -> None:
    """All API keys, without their secrets."""
    from hostler.cli.keys import list_all

    list_all(settings_of(state_dir, config, store_url), as_json=as_json)


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

    revoke(settings_of(state_dir, config, store_url), key, as_json=as_json)


@workspace_app.command("create")
def workspace_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name to recognise it by.")],
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a workspace and print its id."""
    from hostler.cli.keys import create_workspace

    create_workspace(settings_of(state_dir, config, store_url), name, as_json=as_json)


@workspace_app.command("list")
def workspace_list(
    state_dir: StateDir = None, config: ConfigFile = None, store_url: StoreUrl = None, as_json: AsJson = False
) -> None:
    """All workspaces."""
    from hostler.cli.keys import list_workspaces

    list_workspaces(settings_of(state_dir, config, store_url), as_json=as_json)


@speaks_to_a_server
def approvals(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 50,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """What waits for a person, over all sessions of the key's workspace, oldest first."""
    address = server.address()
    from hostler.cli.oversight import approvals as show

    show(address, limit=limit, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add them to the program, in this order."""
    app.add_typer(key_app, name="key")
    app.add_typer(workspace_app, name="workspace")
    app.command()(approvals)
    app.add_typer(audit_app, name="audit")
