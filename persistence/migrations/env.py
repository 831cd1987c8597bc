"""Alembic's entry: runs the migrations on the connection that ``persistence.migrate`` opened.

The connection belongs to an asyncio engine and is inside a transaction already, so that all migrations of a run
succeed together or leave nothing.
"""

from alembic import context

from persistence.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    on_version_apply=context.config.attributes["on_version_apply"],
)
with context.begin_transaction():
    context.run_migrations()
