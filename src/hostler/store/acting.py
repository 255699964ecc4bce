"""In whose name does a unit of work run? What a request's transaction can say of who asked for it.

The API sets `domain.principals.ACTING` for each request; `Database.write` puts it where the unit of work finds it, in
whatever thread that runs.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from hostler.domain.principals import Actor

_KEY: Final = "hostler.acting"
SERVER: Final = Actor("server", "hostler")
"""Nobody asked for it: it followed."""


def begin(conn: Connection, actor: Actor | None) -> None:
    """What runs on this connection from now on is asked for by `actor`; None: by nobody."""
    conn.info[_KEY] = actor


def acting(conn: Connection) -> Actor:
    """Who asked for the unit of work in hand."""
    found: Actor | None = conn.info.get(_KEY)
    return SERVER if found is None else found
