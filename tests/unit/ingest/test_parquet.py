"""Parquet: what is said of a table that cannot be meant."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.container import Container
from ingest.issues import Rule
from ingest.options import Options
from ingest.skipped import OnBadRow
from ingest.validate import validate

NUM_ROWS = 40


@pytest.fixture
def check(tmp_path):
    """Return a function that writes a table and validates the file; `skip` leaves bad rows out."""

    def run(table, *, skip=False, columns=None):
        folder = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), tmp_path / "a.parquet")
        options = Options(on_bad_row=OnBadRow.SKIP if skip else OnBadRow.FAIL, columns=columns or {})
        return validate(tmp_path / "a.parquet", Container.PARQUET, folder, options)

    return run


def captions():
    return pa.array([f"c{row}" for row in range(NUM_ROWS)])


def images(make, count=NUM_ROWS):
    return [make.image(number) for number in range(count)]


def test_two_columns_of_one_name_are_refused_by_it(make, check):
    """The last won without a word."""
    table = pa.Table.from_arrays([pa.array(images(make)), captions(), captions()], ["image", "caption", "caption"])
    report = check(table)
    assert (report.refusal.rule, report.refusal.pointer) == (Rule.UNREADABLE, "#/caption")
    assert 'several columns have the name "caption"' in report.refusal.message
    assert "Rename" in report.refusal.fix


def test_two_fields_of_one_name_inside_of_a_column_are_refused_as_well(make, check):
    turns = pa.StructArray.from_arrays(
        [pa.array([value]) for value in ("user", "Hi", "Ho")], ["role", "content", "content"]
    )
    report = check({"images": [[make.image()]], "messages": pa.ListArray.from_arrays([0, 1], turns)})
    assert (report.refusal.rule, report.refusal.pointer) == (Rule.UNREADABLE, "#/messages/content")
