"""Alembic: the schema's history. `python -m ops.migrate` or `lensmith migrate` applies it."""
