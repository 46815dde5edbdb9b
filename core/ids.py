"""Identifiers: a prefix that names the kind, then a ULID, which sorts by time of creation."""

from enum import StrEnum

from ulid import ULID


class Prefix(StrEnum):
    """The kinds of things that have an identifier."""

    DATASET = "ds"
    UPLOAD = "upl"
    JOB = "job"
    BATCH = "batch"
    CHECKPOINT = "ckpt"
    ADAPTER = "adp"
    KEY = "key"
    WEBHOOK = "wh"
    WORKER = "wrk"
    REQUEST = "req"


def new_id(prefix: Prefix) -> str:
    """Return a fresh identifier such as `job_01kav3…` (lower case, 26 characters after the prefix)."""
    return f"{prefix}_{str(ULID()).lower()}"
