"""Which commands look after the audit log? Their names, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hostler.cli.options import AsJson, ConfigFile, Server, StateDir, settings_of, speaks_to_a_server

audit_app = typer.Typer(
    help="What happened, who did it, and whether the record of it is whole.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
_Workspace = Annotated[
    str | None, typer.Option("--workspace", metavar="WORKSPACE", help="Default: that of the API key.")
]


@audit_app.callback()
@speaks_to_a_server
def audit(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="How many at most.")] = 50,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Only these: tool, approval, egress, credential, budget, administration, integrity.",
        ),
    ] = None,
    act: Annotated[
        str | None, typer.Option("--act", metavar="ACT", help="Only these acts, such as key.create.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="ID", help="Only acts on this id.")] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="SESSION", help="Only what is about this session.")
    ] = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Who did what in the key's workspace, newest first."""
    if context.invoked_subcommand is not None:
        return
    from hostler.cli.audit import show

    filters = {"act": act, "target_id": target, "session_id": session, "kind": kind or None}
    show(server.address(), limit=limit, filters=filters, as_json=as_json)


@audit_app.command("status")
@speaks_to_a_server
def audit_status(workspace: _Workspace = None, *, server: Server, as_json: AsJson = False) -> None:
    """How far the chain of entries goes, what of it is signed, and with which public keys."""
    from hostler.cli.audit import status

    status(server.address(), workspace, as_json=as_json)


@audit_app.command("export")
@speaks_to_a_server
def audit_export(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to. Compressed if it ends in .zst.")
    ],
    workspace: _Workspace = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Write the whole log of a workspace into a file that can be verified without a server."""
    from hostler.cli.audit import export

    export(server.address(), workspace, output, force=force, as_json=as_json)


@audit_app.command("verify")
@speaks_to_a_server
def audit_verify(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="An export. Without one: what a server has now.")
    ] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option("--anchor", metavar="HASH", help="A hash that you have kept, or SEQ:HASH: it must be in the log."),
    ] = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option("--public-key", metavar="FILE", help="A public key that you trust, in hexadecimal."),
    ] = None,
    workspace: _Workspace = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Say whether a log is what was written, and if not, what is wrong and where. A file needs no server."""
    from hostler.cli.audit import verify

    address = None if file is not None else server.address()
    code = verify(file, address, workspace, anchors=anchor or (), public_keys=public_key or (), as_json=as_json)
    raise typer.Exit(code)


@audit_app.command("redact")
@speaks_to_a_server
def audit_redact(
    subject: Annotated[
        str,
        typer.Argument(metavar="SUBJECT", help="A session, the target of acts, or the name of a user."),
    ],
    workspace: _Workspace = None,
    *,
    server: Server,
    as_json: AsJson = False,
) -> None:
    """Make what is personal in entries about a subject unreadable for ever. The log stays whole."""
    from hostler.cli.audit import redact

    redact(server.address(), workspace, subject, as_json=as_json)


@audit_app.command("rotate-key")
def audit_rotate_key(state_dir: StateDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Make a new signing key on this host; the one before it signs it. A running server takes it at once."""
    from hostler.cli.audit import rotate_key

    rotate_key(settings_of(state_dir, config), as_json=as_json)
