"""The database itself: migrations on both, SQLite's transactions, its clock."""

import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa
from alembic import command
from sqlmodel import Session

from core.db import Database, NowS
from models import schema
from ops.migrate import alembic_config, current, head, upgrade

WRITERS, UPDATES = 4, 25


def test_the_migrations_lead_to_exactly_the_tables_of_the_models(database):
    config = alembic_config()
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.check(config)


def test_the_version_that_readyz_wants_is_the_newest_migration(database):
    assert schema.HEAD == head() == current(database)
    with database.read() as session:
        assert schema.version(session) == schema.HEAD


def test_a_database_that_was_never_migrated_has_no_version(database_url):
    database = Database(database_url)
    with database.read() as session:
        assert schema.version(session) is None
    database.close()


def test_a_migration_goes_down_and_up_again(database):
    config = alembic_config()
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    upgrade(database)
    assert current(database) == head()


def test_the_clock_is_the_databases_own_and_moves_within_a_transaction(database):
    with database.read() as session:
        first = session.execute(sa.select(NowS())).scalar_one()
        time.sleep(0.02)
        second = session.execute(sa.select(NowS())).scalar_one()
    assert abs(first - time.time()) < 5
    assert second > first


def _count_up(open_session) -> int:
    """Read, wait a little, write back, from several threads; return what the counter came to."""

    def work():
        for _ in range(UPDATES):
            with open_session() as session:
                value = session.execute(sa.text("SELECT v FROM counter")).scalar_one()
                time.sleep(0.001)
                session.execute(sa.text("UPDATE counter SET v = :v"), {"v": value + 1})

    threads = [threading.Thread(target=work) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_session() as session:
        return session.execute(sa.text("SELECT v FROM counter")).scalar_one()


@pytest.fixture
def counter(tmp_path):
    url = f"sqlite:///{tmp_path}/counter.db"
    database = Database(url)
    with database.write() as session:
        session.execute(sa.text("CREATE TABLE counter (v INTEGER)"))
        session.execute(sa.text("INSERT INTO counter VALUES (0)"))
    yield url, database
    database.close()


def test_sqlite_loses_no_update_between_concurrent_writers(counter):
    _, database = counter
    assert _count_up(database.write) == WRITERS * UPDATES


def test_the_default_that_we_do_not_use_loses_updates_silently(counter):
    """The trap itself (facts: reliability 3.5): were this to pass without our events, they could go."""
    url, _ = counter
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    class Plain(Session):
        def __exit__(self, *_):
            self.commit()
            self.close()

    assert _count_up(lambda: Plain(engine)) < WRITERS * UPDATES
    engine.dispose()


def test_two_first_starts_at_once_both_find_a_migrated_database(database_url):
    """On PostgreSQL one of them died with a unique violation in the catalogue, and said that the database was away."""
    code = f"from core.db import Database; from ops.migrate import upgrade; upgrade(Database({database_url!r}))"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=60)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    database = Database(database_url)
    assert current(database) == head()
    database.close()
