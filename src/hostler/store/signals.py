"""Who hears of a commit? A unit of work raises a signal; whoever listens for it is called once the transaction is done.

A signal says "look", never what changed: the listener reads that from the database. It is a hint, lost when the
process dies between commit and call, so a listener also looks by itself now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import Connection

_KEY = "hostler.signals"


def raise_signal(conn: Connection, name: str) -> None:
    """Call the listeners of `name` after the commit of this unit of work. Once, however often it is raised."""
    raised = conn.info.get(_KEY)
    if raised is not None:
        raised.add(name)


class Signals:
    """The listeners of one open database."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Callable[[], None]]] = {}

    def on(self, name: str, listener: Callable[[], None]) -> None:
        """`listener` is called in the loop of the database. It must return at once."""
        self._listeners.setdefault(name, []).append(listener)

    @staticmethod
    def collect(conn: Connection, into: set[str]) -> None:
        """Signals of the unit of work that begins now go to `into`; those of an attempt that failed are forgotten."""
        into.clear()
        conn.info[_KEY] = into

    def send(self, names: Collection[str]) -> None:
        for name in names:
            for listener in self._listeners.get(name, ()):
                listener()
