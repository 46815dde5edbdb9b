"""Time: aware UTC everywhere.

Leases never use this clock: they are kept on the database's (`core.db.NowS`).
"""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)
