"""The database: engines, transactions and the database's own clock.

SQLite is opened in WAL mode, and every writing transaction begins with `BEGIN IMMEDIATE`: SQLAlchemy's default lost 500
of 600 concurrent read-modify-write updates without an error (docs/adr/0002). Reading sessions use a plain `BEGIN`, so
they never wait for a writer.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from threading import RLock
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.expression import FunctionElement
from sqlmodel import Session, SQLModel

BUSY_TIMEOUT_S = 30
WAL_RETRY_S = 0.02

# What a database raises that is away, busy or broken. A mistake of ours (a constraint, a type) is none of them.
# (`InternalError`: a server that became read-only after a failover.)
DATABASE_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError)

# As many connections as SQLAlchemy allows by default, but each is kept: what it has beyond five is opened and closed for
# each use, which under load cost more than the use.
_POOL: dict[str, Any] = {"pool_size": 15, "max_overflow": 0}

# A connection whose other end is gone or hangs is given up within half a minute, not when the kernel thinks so.
_POSTGRES = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "options": "-c statement_timeout=30000",
}


class NowS(FunctionElement[float]):
    """The database's clock, seconds since 1970, at this very moment (not at the start of the transaction)."""

    type = sa.Double()
    inherit_cache = True


@compiles(NowS, "sqlite")
def _now_sqlite(_element: NowS, _compiler: Any, **_kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(NowS, "postgresql")
def _now_postgresql(_element: NowS, _compiler: Any, **_kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Aware UTC on the Python side on every database (SQLite keeps no time zone)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Convert to UTC before it is stored."""
        if value is None:
            return None
        assert value.tzinfo is not None, "a naive datetime was about to be stored"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Give back an aware UTC value."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """One engine per process, and the only two ways to open a session."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._writer = _make_engine(url)
        self._reader = self._writer.execution_options(lensmith_read_only=True)
        # SQLite has one writer; who waits for it in its own queue sleeps up to 0.1 s at a time, also when it is free.
        self._turn: AbstractContextManager[object] = RLock() if url.startswith("sqlite") else nullcontext()

    @property
    def engine(self) -> Engine:
        """Return the engine, for Alembic and for tests."""
        return self._writer

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a session in one writing transaction; commit at the end, roll back on an error.

        Keep it short, and never wait for the network inside it.
        """
        with self._turn, Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Yield a session for reading only; nothing that it holds is written."""
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            yield session

    def close(self) -> None:
        """Close every connection."""
        self._writer.dispose()


def insert(session: Session, table: type[SQLModel], *rows: dict[str, Any]) -> None:
    """Insert rows, given with every column, past the unit of work: it and the objects cost as much again as the statement."""
    session.connection().execute(_insert_of(table), list(rows))


def values_of(row: SQLModel) -> dict[str, Any]:
    """Return the columns of a row that no session knows, for `insert`."""
    return {name: getattr(row, name) for name in type(row).model_fields}


@cache
def _insert_of(table: type[SQLModel]) -> sa.Insert:
    return sa.insert(table.metadata.tables[str(table.__tablename__)])


def _make_engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **_POOL)
        event.listen(engine, "connect", _open_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return sa.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1),
        pool_pre_ping=True,
        connect_args=_POSTGRES,
        **_POOL,
    )


def _open_sqlite(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we begin transactions ourselves
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_S * 1000}", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to WAL, once for good; SQLite does not wait for its busy timeout where two do so at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("lensmith_read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


class StrEnumType(sa.TypeDecorator[Any]):
    """A `StrEnum` kept as text; what comes out is the enum again, so nobody compares bare strings."""

    impl = sa.String(32)
    cache_ok = True

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """Store the value's text, after a look that it is one of the enum."""
        return None if value is None else self.enum(value).value

    def process_result_value(self, value: str | None, _dialect: Dialect) -> StrEnum | None:
        """Give the enum back."""
        return None if value is None else self.enum(value)
