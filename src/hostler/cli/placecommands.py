"""Which commands say who is live and who waits? Their names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, speaks_to_a_server

Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")]


@speaks_to_a_server
def live(limit: Limit = 100, *, server: Server, as_json: AsJson = False) -> None:
    """The sessions that have a process, longest first."""
    address = server.address()
    from hostler.cli import places

    places.live(address, limit=limit, as_json=as_json)


@speaks_to_a_server
def waiting(limit: Limit = 100, *, server: Server, as_json: AsJson = False) -> None:
    """The sessions that wait for a process, with the reason and their place in the queue."""
    address = server.address()
    from hostler.cli import places

    places.waiting(address, limit=limit, as_json=as_json)


def register(sessions_app: typer.Typer) -> None:
    """Add them to `hostler sessions`."""
    for command in (live, waiting):
        sessions_app.command(command.__name__)(command)
