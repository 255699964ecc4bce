"""Which commands go back in a session, and fork it? Their names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, SessionId, speaks_to_a_server

CheckpointId = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Id of the checkpoint (ckpt_…).")]


@speaks_to_a_server
def checkpoints(
    session: SessionId,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 20,
    delete: Annotated[
        str | None, typer.Option("--delete", metavar="CHECKPOINT", help="Remove this one instead of showing them.")
    ] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """The points of a session to go back to, newest first."""
    address = server.address()
    from hostler.cli import checkpoints as acts

    if delete is not None:
        acts.delete(address, session, delete, as_json=as_json)
    else:
        acts.show(address, session, limit=limit, as_json=as_json)


@speaks_to_a_server
def checkpoint(
    session: SessionId,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="A name to recognise it by.")] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Keep the point at which a session is, to go back there or to fork from there. Between two turns."""
    address = server.address()
    from hostler.cli import checkpoints as acts

    acts.take(address, session, name, as_json=as_json)


@speaks_to_a_server
def rewind(
    session: SessionId,
    checkpoint: CheckpointId,
    force: Annotated[
        bool, typer.Option("--force", help="Restore memories that others have changed since, too.")
    ] = False,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Take a session back to a checkpoint: conversation, files and memories. The point that it leaves is kept.

    Exit code 1 when memories were left because others have changed them.
    """
    address = server.address()
    from hostler.cli import checkpoints as acts

    raise typer.Exit(acts.rewind(address, session, checkpoint, force=force, as_json=as_json))


@speaks_to_a_server
def fork(
    session: SessionId,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="CHECKPOINT", help="Begin there. Default: where it is now.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", metavar="TITLE", help="Default: that of the session.")] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Make a new session that begins where another one is, or was. That one stays as it is."""
    address = server.address()
    from hostler.cli import checkpoints as acts

    acts.fork(address, session, checkpoint, title, as_json=as_json)


@speaks_to_a_server
def diff(
    session: SessionId,
    before: Annotated[
        str | None, typer.Option("--from", metavar="CHECKPOINT", help="Id of a checkpoint. Default: the newest.")
    ] = None,
    after: Annotated[
        str, typer.Option("--to", metavar="POINT", help="A checkpoint, a fork of the session (sesn_…), or now.")
    ] = "now",
    path: Annotated[
        str | None, typer.Option("--path", metavar="FILE", help="Show how this file differs, as workspace/notes.md.")
    ] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """What was said, which files and memories changed, and what was used, between two points of a session."""
    address = server.address()
    from hostler.cli import checkpoints as acts

    acts.diff(address, session, before, after, path, as_json=as_json)


def register(sessions_app: typer.Typer) -> None:
    """Add them to `hostler sessions`."""
    for command in (checkpoints, checkpoint, rewind, fork, diff):
        sessions_app.command(command.__name__)(command)
