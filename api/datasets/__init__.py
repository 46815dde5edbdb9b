"""Data sets: upload, validation's outcome, the report."""
