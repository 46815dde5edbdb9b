"""Alembic's entry: migrate the database of `LENSMITH_DATABASE_URL`, or of the connection that the caller passes."""

from typing import Any

from alembic import context
from sqlalchemy.engine import Connection
from sqlmodel import SQLModel

import models.adapter
import models.checkpoint
import models.dataset
import models.event
import models.idempotency
import models.job
import models.memory_limit
import models.upload
import models.work
import models.worker  # noqa: F401 - importing registers the tables
from core.db import Database, StrEnumType, UtcDateTime
from core.settings import settings


def _render(kind: str, item: Any, _autogen: Any) -> str | bool:
    """Write plain SQLAlchemy types into migrations, so that they do not depend on our code."""
    if kind == "type" and isinstance(item, StrEnumType):
        return f"sa.String(length={item.impl_instance.length})"
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        render_item=_render,
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    database = Database(settings().resolved_database_url)
    with database.engine.begin() as opened:
        _run(opened)
    database.close()
