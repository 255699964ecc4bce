"""`hostler sessions preview`: links to ports that a session's programs have opened."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from hostler.cli import terminal
from hostler.cli.client import Address, connected


def preview(address: Address, session_id: str, port: int, *, minutes: int, as_json: bool) -> None:
    """Prints the link. JSON: the preview as the API shows it."""
    body = {"port": port, "expires_in_seconds": minutes * 60}
    with connected(address) as client:
        path = f"/hostler/v1/sessions/{session_id}/previews"
        made: dict[str, Any] = client.post(path, body=body, cast_to=dict[str, Any])
    print(json.dumps(made) if as_json else made["url"])


def previews(address: Address, session_id: str, *, revoke: str | None, as_json: bool) -> None:
    """JSON: one object, `{"previews": [<preview of the API>, …]}`."""
    with connected(address) as client:
        path = f"/hostler/v1/sessions/{session_id}/previews"
        if revoke is not None:
            client.post(f"{path}/{revoke}/revoke", body={}, cast_to=dict[str, Any])
        rows: list[dict[str, Any]] = client.get(path, cast_to=dict[str, Any])["data"]
    if as_json:
        print(json.dumps({"previews": rows}))
        return
    console = terminal.out()
    if not rows:
        console.print("No previews of this session.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("preview", "port", "made", "good until"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        until = "revoked" if row["revoked_at"] else row["expires_at"][:19]
        table.add_row(row["id"], str(row["port"]), row["created_at"][:19], until)
    console.print(table)
