"""The soak in short: every fault at least once on each database. `make soak` has two hundred rounds."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.soak.faults import deck
from tests.soak.run import Soak

pytestmark = pytest.mark.e2e


@pytest.fixture
def folder():
    """A folder that PostgreSQL may look into, which runs as another user when we are root."""
    made = Path(tempfile.mkdtemp(prefix="lensmith-soak-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize(("kind", "seed"), [("sqlite", 3), ("postgres", 4)])
def test_whatever_is_killed_every_job_ends_as_an_undisturbed_one(folder, kind, seed):
    soak = Soak(folder, kind=kind, seed=seed)
    soak.run(len(deck(soak.servers, 0, seed=seed)))
    assert set(soak.counts) == {fault.__name__ for fault in deck(soak.servers, 0, seed=seed)}
