"""Which commands take a session to another installation? Their names, options and help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, SessionId, speaks_to_a_server

BundleFile = Annotated[Path, typer.Argument(metavar="FILE", help="A bundle, as `hostler sessions export` writes it.")]
Digest = Annotated[
    str | None, typer.Option("--digest", metavar="SHA256", help="Refuse any other bundle than that with this digest.")
]


class Part(StrEnum):
    """What may be left out."""

    WORKSPACE = "workspace"
    FILES = "files"
    ARCHIVES = "archives"


@speaks_to_a_server
def export(
    session: SessionId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: SESSION.tar.zst here.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="CHECKPOINT", help="As it was there. Default: as it is now.")
    ] = None,
    without: Annotated[
        list[Part] | None,
        typer.Option(
            "--without", help="Leave out the workspace, attached files and outputs, or archives of compactions."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Write a session to a file: conversation, events, files. No secrets. Between two turns, or at a checkpoint."""
    address = server.address()
    from hostler.cli import bundles as acts

    target = output or Path(f"{session}.tar.zst")
    acts.export(
        address, session, target, checkpoint, [part.value for part in without or ()], force=force, as_json=as_json
    )


@speaks_to_a_server
def take_in(
    file: BundleFile,
    create: Annotated[
        bool, typer.Option("--create", help="Make the agent and the environment that the bundle describes.")
    ] = False,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="AGENT", help="Go on with this agent of yours.")
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", metavar="ENVIRONMENT", help="Go on in this environment of yours.")
    ] = None,
    vault: Annotated[
        list[str] | None,
        typer.Option("--vault", metavar="OLD=NEW", help="Your vault in place of one of the session's; OLD= for none."),
    ] = None,
    memory_store: Annotated[
        list[str] | None,
        typer.Option("--memory-store", metavar="OLD=NEW", help="The same for memory stores."),
    ] = None,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="Keep the ids of the session and its events. They must be free.")
    ] = False,
    title: Annotated[str | None, typer.Option("--title", metavar="TITLE", help="Default: that of the session.")] = None,
    digest: Digest = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Make a session of a bundle. It sleeps until the next message, and goes on with conversation and files."""
    address = server.address()
    from hostler.cli import bundles as acts

    wanted: dict[str, str | list[str] | None] = {
        "create": "true" if create else None,
        "keep_ids": "true" if keep_ids else None,
        "agent": agent,
        "environment": environment,
        "title": title,
        "digest": digest,
        "vault": acts.replaced("--vault", vault or []),
        "memory_store": acts.replaced("--memory-store", memory_store or []),
    }
    acts.take_in(address, file, wanted, as_json=as_json)


def verify_bundle(file: BundleFile, digest: Digest = None, as_json: AsJson = False) -> None:
    """Say whether a file is a whole and unchanged bundle, and what is in it. Needs no server."""
    from hostler.cli import bundles as acts

    acts.verify(file, digest, as_json=as_json)


def register(sessions_app: typer.Typer) -> None:
    """Add them to `hostler sessions`."""
    sessions_app.command("export")(export)
    sessions_app.command("import")(take_in)
    sessions_app.command("verify-bundle")(verify_bundle)
