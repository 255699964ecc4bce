"""Who hears of a commit? A unit of work raises a signal or tells news; whoever listens is called once it is committed.

Both say "look", never what is there now: the listener reads that from the database. Signals reach the listeners of
this process and, on PostgreSQL, those of every other one; news is for the others only, because whoever writes tells
their own process themselves. It travels with the transaction: what is rolled back is told to nobody. Still it is a
hint, which a process without a connection does not hear, so a listener also looks by itself now and then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.ids import new_id

CHANNEL: Final = "hostler"
"""PostgreSQL's name for where servers hear each other. A channel belongs to one database."""

_KEY = "hostler.signals"
_FORM = 1
_LONGEST = 7_900
"""Bytes of one notification; PostgreSQL takes less than 8,000."""

About = Literal["session", "deleted", "queue", "signal"]


@dataclass(frozen=True, slots=True)
class News:
    """What other servers are told of one commit. Names and numbers only, no content."""

    about: About
    """`session`: events were added, or input came. `deleted`: the session is gone. `queue`: work waits in a
    self-hosted environment. `signal`: a signal was raised."""
    subject: str
    """The id of the session or of the environment; the name of the signal."""
    first: int = 1
    last: int = 0
    """Numbers of the events that were added; none: `last` is less than `first`."""
    wanted: bool = False
    """Whether the session's worker should look."""
    waiting: tuple[str, ...] = ()
    """Ids of input that was accepted and is not in the log yet."""

    def to_text(self, sender: str) -> str:
        """One notification. Ids of waiting input that have no room are left out: it shows when it is recorded."""
        waiting = list(self.waiting)
        while True:
            text = json.dumps(
                [_FORM, sender, self.about, self.subject, self.first, self.last, self.wanted, waiting],
                separators=(",", ":"),
            )
            if len(text) <= _LONGEST or not waiting:
                return text
            del waiting[-1 - len(waiting) // 8 :]


def news_of(text: str) -> tuple[str, News] | None:
    """The sender and the news. None: not written by this version of this program."""
    try:
        form, sender, about, subject, first, last, wanted, waiting = json.loads(text)
        plain = form == _FORM and about in get_args(About) and all(isinstance(id_, str) for id_ in waiting)
    except (ValueError, TypeError):
        return None
    if not (plain and isinstance(subject, str) and isinstance(first, int) and isinstance(last, int)):
        return None
    return str(sender), News(about, subject, first, last, wanted is True, tuple(waiting))


@dataclass(slots=True)
class Raised:
    """What one unit of work has to say."""

    sender: str | None
    """Who tells the others. None: there are no others."""
    names: set[str] = field(default_factory=set)
    news: list[News] = field(default_factory=list)

    def begin(self, conn: Connection) -> None:
        """What this unit of work says goes here; what an attempt said that failed is forgotten."""
        self.names.clear()
        self.news.clear()
        conn.info[_KEY] = self

    def flush(self, conn: Connection) -> None:
        """At the end of the unit of work: give the transaction what no other statement took along."""
        if self.sender is None:
            return
        news = dict.fromkeys([*self.news, *(News("signal", name) for name in sorted(self.names))])
        if news:
            calls = [sa.func.pg_notify(CHANNEL, one.to_text(self.sender)) for one in news]
            conn.execute(sa.select(*(call.label(f"n{n}") for n, call in enumerate(calls)))).close()


def raise_signal(conn: Connection, name: str) -> None:
    """Call the listeners of `name` after the commit of this unit of work. Once, however often it is raised."""
    raised: Raised | None = conn.info.get(_KEY)
    if raised is not None:
        raised.names.add(name)


def tell(conn: Connection, news: News) -> None:
    """Let the other servers know after the commit of this unit of work. Costs a statement at its end."""
    raised: Raised | None = conn.info.get(_KEY)
    if raised is not None and raised.sender is not None:
        raised.news.append(news)


def notification(conn: Connection, news: News) -> str | None:
    """The same for a statement that can take the text along, as the payload of `pg_notify`. None: nobody is told."""
    raised: Raised | None = conn.info.get(_KEY)
    return None if raised is None or raised.sender is None else news.to_text(raised.sender)


class Signals:
    """The listeners of one open database. `shared`: other processes may have it open too."""

    def __init__(self, *, shared: bool = False) -> None:
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self.sender = new_id("server") if shared else None

    def on(self, name: str, listener: Callable[[], None]) -> None:
        """`listener` is called in the loop of the database. It must return at once."""
        self._listeners.setdefault(name, []).append(listener)

    def raised(self) -> Raised:
        """For one unit of work."""
        return Raised(self.sender)

    def send(self, names: Collection[str]) -> None:
        for name in names:
            for listener in self._listeners.get(name, ()):
                listener()

    def send_all(self) -> None:
        """Whatever was raised elsewhere may have been missed."""
        self.send(list(self._listeners))
