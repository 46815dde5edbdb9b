"""The schema: bring a database to the newest version, and tell whether it is there."""

from importlib.resources import files

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from core.db import Database
from core.settings import Settings
from ops.errors import CannotStart

MIGRATION_LOCK = 0x6C656E73  # any number that nobody else takes


def alembic_config() -> Config:
    """Return Alembic's configuration; the scripts travel inside the package."""
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    return config


def migrate(settings: Settings) -> str:
    """Bring the database of these settings to the newest version; return its kind (`sqlite`, `postgresql`).

    Raises:
        CannotStart: The database cannot be reached, read or opened.
    """
    try:
        database = Database(settings.resolved_database_url)
    except (SQLAlchemyError, ValueError, ImportError) as error:  # the URL itself may hold a password: do not repeat it
        raise CannotStart(
            f"LENSMITH_DATABASE_URL is no URL of a database that we know ({type(error).__name__}); "
            "write postgresql://user:password@host:5432/name, or leave it unset for SQLite."
        ) from error
    where = database.engine.url.render_as_string(hide_password=True)
    try:
        upgrade(database)
    except CommandError as error:
        raise CannotStart(f"The database {where} was made by another version of Lensmith ({error}).") from error
    except SQLAlchemyError as error:
        reason = str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]
        raise CannotStart(
            f"The database {where} cannot be used ({reason}); start it, or set LENSMITH_DATABASE_URL to one that answers."
        ) from error
    finally:
        database.close()
    return database.engine.dialect.name


def upgrade(database: Database) -> None:
    """Bring the database to the newest version, in one transaction; who comes at the same moment waits."""
    config = alembic_config()
    with database.engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def head() -> str | None:
    """Return the newest version that this code knows."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def current(database: Database) -> str | None:
    """Return the version that the database stands at."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()
