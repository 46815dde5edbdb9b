"""The schema's version, as the database tells it."""

import sqlalchemy as sa
from sqlmodel import Session

HEAD = "0006"  # the newest migration; a test holds it against the scripts


def probe(session: Session) -> None:
    """Ask the database for anything at all."""
    session.execute(sa.select(sa.literal(1)))


def version(session: Session) -> str | None:
    """Return the version that the database stands at; None when it has never been migrated."""
    if not sa.inspect(session.connection()).has_table("alembic_version"):
        return None
    row = session.execute(sa.text("SELECT version_num FROM alembic_version")).first()
    return None if row is None else str(row[0])
