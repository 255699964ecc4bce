"""Which commands look after environments, and keys of self-hosted ones? Their names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.options import AsJson, ConfigFile, Server, StateDir, StoreUrl, settings_of, speaks_to_a_server

environment_app = typer.Typer(
    help="Environments, their packages, and keys of self-hosted ones.", no_args_is_help=True, rich_markup_mode=None
)
environment_key_app = typer.Typer(
    help="Make, list and revoke the keys with which workers serve a self-hosted environment.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
environment_app.add_typer(environment_key_app, name="key")
EnvironmentArgument = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Id of the environment (env_…).")]


@environment_app.command("list")
@speaks_to_a_server
def environment_list(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 100,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """The newest environments, and how they host their sessions."""
    address = server.address()
    from hostler.cli.environmentlist import list_environments

    list_environments(address, limit=limit, archived=archived, as_json=as_json)


@environment_key_app.command("create")
def environment_key_create(
    environment: EnvironmentArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name to recognise it by.")],
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for workers of an environment and print its secret, once."""
    from hostler.cli.environments import create

    create(settings_of(state_dir, config, store_url), environment, name, as_json=as_json)


@environment_key_app.command("list")
def environment_key_list(
    environment: EnvironmentArgument,
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """The keys of an environment, without their secrets."""
    from hostler.cli.environments import list_all

    list_all(settings_of(state_dir, config, store_url), environment, as_json=as_json)


@environment_key_app.command("revoke")
def environment_key_revoke(
    environment: EnvironmentArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key (envkey_…).")],
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make an environment key useless. A running server feels it within two seconds."""
    from hostler.cli.environments import revoke

    revoke(settings_of(state_dir, config, store_url), environment, key, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add them to the program."""
    app.add_typer(environment_app, name="environment")
