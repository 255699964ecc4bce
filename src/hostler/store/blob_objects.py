"""Under which name does the object store have the bytes of a blob?"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.store.tables_homes import blob_objects as at


def name_of(conn: Connection, sha256: str) -> str | None:
    """None: the object store doesn't have it."""
    found: str | None = conn.execute(sa.select(at.c.object_name).where(at.c.sha256 == sha256)).scalar()
    return found


def renew(conn: Connection, now: float, sha256: str) -> bool:
    """Somebody needs it again: it is as young as if it had just come. False: it isn't there."""
    return conn.execute(at.update().where(at.c.sha256 == sha256).values(put_at=now)).rowcount == 1


def note(conn: Connection, now: float, sha256: str, name: str) -> bool:
    """It is there under this name. False: another server was quicker, with another name, which counts."""
    if renew(conn, now, sha256):
        return False
    try:
        with conn.begin_nested():
            conn.execute(at.insert().values(sha256=sha256, object_name=name, put_at=now))
    except IntegrityError:
        return not renew(conn, now, sha256)
    return True


def oldest(conn: Connection, before: float, after: str, limit: int) -> list[str]:
    """Digests of those that were put before that moment, in order, from the one after `after` on."""
    query = sa.select(at.c.sha256).where(at.c.put_at < before, at.c.sha256 > after)
    return list(conn.execute(query.order_by(at.c.sha256).limit(limit)).scalars())


def drop(conn: Connection, before: float, sha256s: Collection[str]) -> Sequence[str]:
    """Forgets those that nobody has put since `before`; gives their names, whose objects go next."""
    gone = at.delete().where(at.c.sha256.in_(sorted(sha256s)), at.c.put_at < before).returning(at.c.object_name)
    return list(conn.execute(gone).scalars()) if sha256s else []


def known(conn: Connection, names: Collection[str]) -> set[str]:
    """Those of the names that a blob has."""
    query = sa.select(at.c.object_name).where(at.c.object_name.in_(sorted(names)))
    return set(conn.execute(query).scalars()) if names else set()
