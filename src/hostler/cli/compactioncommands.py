"""Which commands shorten long conversations and read what was before? Their names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hostler.cli.options import AsJson, Server, SessionId, speaks_to_a_server
from hostler.cli.problem import WRONG, Problem


def register(sessions: typer.Typer) -> None:
    """Add them to `hostler sessions`."""

    @sessions.command("compact")
    @speaks_to_a_server
    def sessions_compact(
        session: SessionId,
        instructions: Annotated[
            str | None,
            typer.Option("--instructions", metavar="TEXT", help="What the summary is to look at."),
        ] = None,
        wait: Annotated[bool, typer.Option("--wait", help="Until it has its end.")] = False,
        *,
        server: Server,
        as_json: AsJson = False,
    ) -> None:
        """Archive a session's conversation, and go on with a summary of it.

        It begins when no turn runs. Exit code 1 with --wait when nothing was compacted.
        """
        address = server.address()
        from hostler.cli.compactions import compact

        raise typer.Exit(compact(address, session, instructions=instructions, wait=wait, as_json=as_json))

    @sessions.command("compactions")
    @speaks_to_a_server
    def sessions_compactions(
        session: SessionId,
        limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 20,
        *,
        server: Server,
        as_json: AsJson = False,
    ) -> None:
        """How a session's conversation was shortened, and when it is next."""
        address = server.address()
        from hostler.cli.compactions import compactions

        compactions(address, session, limit=limit, as_json=as_json)

    @sessions.command("archives")
    @speaks_to_a_server
    def sessions_archives(
        session: SessionId,
        archive: Annotated[
            str | None, typer.Option("--archive", metavar="ARCHIVE", help="Show what is in this one (arch_…).")
        ] = None,
        search: Annotated[
            str | None, typer.Option("--search", metavar="WORDS", help="Show entries that hold these words.")
        ] = None,
        limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="How many at most.")] = 100,
        *,
        server: Server,
        as_json: AsJson = False,
    ) -> None:
        """What a session's conversation was before it was compacted."""
        if archive is not None and search is not None:
            raise Problem(
                "--archive and --search are two questions; ask one",
                next_command=f"hostler sessions archives {session} --search WORDS",
                code=WRONG,
            )
        address = server.address()
        from hostler.cli.compactions import archives, entries

        if archive is None and search is None:
            archives(address, session, limit=limit, as_json=as_json)
        else:
            entries(address, session, archive=archive, search=search, limit=limit, as_json=as_json)
