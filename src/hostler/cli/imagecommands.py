"""Which commands look after the base image, and what is installed on it? Their names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.environmentcommands import EnvironmentArgument, environment_app
from hostler.cli.options import AsJson, ConfigFile, StateDir, StoreUrl, settings_of

image_app = typer.Typer(
    help="The base image that environments' packages are installed on, and that containers and machines run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@image_app.command("build")
def image_build(
    again: Annotated[
        bool, typer.Option("--again", help="Also when there is one already: for newer versions of its packages.")
    ] = False,
    state_dir: StateDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Build the base image from Debian packages, as root. Takes about a minute; does nothing when it is there."""
    from hostler.cli.images import build

    build(settings_of(state_dir, config), again=again, as_json=as_json)


@image_app.command("list")
def image_list(state_dir: StateDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """The images of this host, and what was installed on them for environments."""
    from hostler.cli.images import list_all

    list_all(settings_of(state_dir, config), as_json=as_json)


@image_app.command("remove")
def image_remove(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="Digest of the image, or how it begins.")],
    state_dir: StateDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove an image and what was installed on it. No server may use the state folder meanwhile."""
    from hostler.cli.images import remove

    remove(settings_of(state_dir, config), digest, as_json=as_json)


@environment_app.command("build")
def environment_build(
    environment: EnvironmentArgument,
    state_dir: StateDir = None,
    config: ConfigFile = None,
    store_url: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Install an environment's packages on this host now, so that its first session need not wait."""
    from hostler.cli.images import build_environment

    build_environment(settings_of(state_dir, config, store_url), environment, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add them to the program."""
    app.add_typer(image_app, name="image")
