"""Does the database have the schema of this program, and how does it get it?

Migrations run in one transaction that no second process can be in at the same time, so a half-migrated schema is
never seen. A schema from the future is refused: an older program would write rows that the newer one does not expect.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import HostlerError

HEAD = "0020"
"""The revision that this program works with: the last one in `migrations/versions`."""

_LOCK = 0x686F73746C6572  # "hostler"


class SchemaMismatch(HostlerError):
    """The schema of this database is not the one that this program works with."""


def ensure_schema(connection: Connection, *, migrate: bool) -> None:
    """Bring the schema to HEAD inside the caller's transaction, or raise SchemaMismatch and change nothing."""
    found = current_revision(connection)
    if found == HEAD:
        return
    if not migrate:
        raise SchemaMismatch(f"the database has schema {found or 'none'}, this program needs {HEAD}: run the migration")
    if connection.dialect.name == "postgresql":
        # Held until the transaction ends. On SQLite, BEGIN IMMEDIATE has already shut everybody else out.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        if current_revision(connection) == HEAD:
            return
    upgrade(connection)


def current_revision(connection: Connection) -> str | None:
    """The revision that the database is at; None for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(connection: Connection) -> None:
    """Run every migration that is missing, inside the caller's transaction."""
    # Alembic takes a third of a second to import, and a start with a current schema does not need it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    found = current_revision(connection)
    if found is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(found)
        except CommandError as error:
            raise SchemaMismatch(
                f"the database has schema {found}, which this version of Hostler does not know (its own is {HEAD}): "
                "it was written by a newer Hostler. Start that one, or restore a backup from before the upgrade."
            ) from error
    command.upgrade(config, HEAD)
