"""`python -m benchmarks.service.bare`: FastAPI and SQLAlchemy, and nothing else: one row for each `POST /rows`.

It uses the driver, the pragmas and the transactions of `core.db`, because SQLite as it comes neither keeps up with 50 clients nor
keeps what they write. What it lacks is all the rest: keys, rules, a log, a queue, a gate, metrics, request ids.
"""

import sys
from datetime import datetime
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from api.connection import Connection
from core.clock import utc_now
from core.db import Database, UtcDateTime
from core.process import die_with_parent


class _Base(DeclarativeBase):
    pass


class Row(_Base):
    """What a request leaves."""

    __tablename__ = "row"

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    base_model: Mapped[str] = mapped_column(sa.String(500))
    dataset: Mapped[str] = mapped_column(sa.String(64))
    hyperparameters: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class RowCreate(BaseModel):
    """The body."""

    base_model: str
    dataset: str
    hyperparameters: dict[str, Any]


class RowRead(RowCreate):
    """The answer."""

    id: str
    created_at: datetime


def make_app(database: Database) -> FastAPI:
    """Return the application."""
    app = FastAPI()

    @app.post("/rows", status_code=202)
    def create(body: RowCreate) -> RowRead:
        row = Row(id=uuid4().hex, created_at=utc_now(), **body.model_dump())
        with Session(database.engine, expire_on_commit=False) as session, session.begin():
            session.add(row)
        return RowRead(id=row.id, created_at=row.created_at, **body.model_dump())

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    """Serve on the given port, with the settings of `api.main`."""
    die_with_parent()
    database = Database(sys.argv[1])
    _Base.metadata.create_all(database.engine)
    uvicorn.run(
        make_app(database),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        log_config=None,
        access_log=False,
        http=Connection,
        server_header=False,
    )


if __name__ == "__main__":
    main()
