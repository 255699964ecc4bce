"""How does Alembic run a migration here? On the connection, and in the transaction, of its caller (`store.migrate`)."""

from __future__ import annotations

from alembic import context

from hostler.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
