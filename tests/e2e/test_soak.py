"""The soak in short: a dozen faults on each database. `make soak` has two hundred of them."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.soak.run import Soak

pytestmark = pytest.mark.e2e

ROUNDS = 12


@pytest.fixture
def folder():
    """A folder that PostgreSQL may look into, which runs as another user when we are root."""
    made = Path(tempfile.mkdtemp(prefix="lensmith-soak-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize(("kind", "seed"), [("sqlite", 3), ("postgres", 4)])
def test_whatever_is_killed_every_job_ends_as_an_undisturbed_one(folder, kind, seed):
    assert f"{ROUNDS} rounds" in Soak(folder, kind=kind, seed=seed).run(ROUNDS)
