"""Parquet: a bad cell costs its row, an unused column nothing, and large rows no more memory than a few of them."""

import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.container import Container
from ingest.issues import Rule
from ingest.limits import MIB, Limits
from ingest.options import Options
from ingest.parquet import ParquetSource
from ingest.skipped import OnBadRow
from ingest.validate import validate
from tests.conftest import run_python

NUM_ROWS = 40
BAD = 31
NO_UTF8 = "\udcff"  # stands for a byte that is no UTF-8


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


def text(*values):
    """Return a column of text; what Parquet calls text is checked by nobody who writes it."""
    return pa.array([value.encode(errors="surrogateescape") for value in values], pa.binary()).view(pa.string())


def captions(*, bad=None):
    return text(*(bad if bad and row == BAD else f"c{row}" for row in range(1, NUM_ROWS + 1)))


def as_json(*texts):
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def images(make, count=NUM_ROWS):
    return [make.image(number) for number in range(count)]


def places(report):
    return [(issue.row, issue.rule, issue.pointer) for issue in report.issues]


def test_a_text_that_is_no_utf8_is_told_at_its_row_and_column_and_costs_no_other(make, check):
    """One cell of row 31 refused the file at row 17 as cut off or damaged, also where bad rows were to be skipped."""
    table = {"image": images(make), "caption": captions(bad=f"ab{NO_UTF8}")}
    report = check(table)
    assert places(report) == [(BAD, Rule.NOT_UTF8, "#/caption")]
    assert "byte 0xff at position 3" in report.refusal.message
    report = check(table, skip=True)
    assert (report.refusal, report.rows.kept) == (None, NUM_ROWS - 1)
    assert [(skipped.rules, skipped.rows) for skipped in report.skipped] == [([Rule.NOT_UTF8], [BAD])]


def test_json_that_is_none_is_told_at_its_row_and_costs_no_other(make, check):
    cells = ['"A square."'] * NUM_ROWS
    cells[BAD - 1] = '"'
    report = check({"image": images(make), "caption": as_json(*cells)}, skip=True)
    assert places(report) == [(BAD, Rule.JSON_SYNTAX, "#/caption")]
    assert report.rows.kept == NUM_ROWS - 1


def test_a_bad_cell_deep_inside_is_told_with_its_place(check):
    contents = text(*["What?", "That."] * 2, "What?", NO_UTF8)
    turns = pa.StructArray.from_arrays([text(*["user", "assistant"] * 3), contents], ["role", "content"])
    messages = pa.ListArray.from_arrays([0, 2, 4, 6], turns)
    report = check({"messages": messages}, skip=True)
    assert (3, Rule.NOT_UTF8, "#/messages/1/content") in places(report)
    assert report.rows.kept == 2


def test_bad_json_deep_inside_is_told_with_its_place(check):
    contents = as_json('"What?"', json.dumps([{"type": "text", "text": "That."}]), '"What?"', "That.")
    turns = pa.StructArray.from_arrays([text(*["user", "assistant"] * 2), contents], ["role", "content"])
    messages = pa.ListArray.from_arrays([0, 2, 4], turns)
    report = check({"messages": messages}, skip=True)
    assert (2, Rule.JSON_SYNTAX, "#/messages/1/content") in places(report)
    assert report.rows.kept == 1


def test_a_value_that_nobody_can_read_is_told_at_its_row(make, check):
    there = pa.array([0] * NUM_ROWS, pa.timestamp("us", tz="Mars/Base"))
    report = check({"image": images(make), "caption": there})
    assert places(report)[0] == (1, Rule.WRONG_TYPE, "#/caption")
    assert "timestamp[us, tz=Mars/Base]" in report.refusal.message


@pytest.mark.parametrize(
    "unused",
    [
        text(*["x"] * (NUM_ROWS - 1), NO_UTF8),
        as_json(*["no JSON"] * NUM_ROWS),
        pa.array([0] * NUM_ROWS, pa.timestamp("us", tz="Mars/Base")),
        pa.array([2**62] * NUM_ROWS, pa.timestamp("us")),
    ],
    ids=["text", "JSON", "time zone", "time"],
)
def test_what_stands_in_a_column_that_nobody_uses_is_never_read(make, check, unused):
    report = check({"note/1": unused, "image": images(make), "caption": captions()})
    assert places(report) == [(1, Rule.IGNORED_FIELD, "#/note~11")]
    assert (report.refusal, report.rows.kept) == (None, NUM_ROWS)


def test_a_field_whose_name_is_mapped_away_is_not_read_either(make, check):
    table = {"caption": captions(bad=NO_UTF8), "label": captions(), "image": images(make)}
    report = check(table, columns={"caption": "label"})
    assert places(report) == [(1, Rule.IGNORED_FIELD, "#/caption")]


def test_a_file_of_other_columns_is_told_which_they_are(check):
    report = check({"img_path": ["a.png"] * 2, "label": ["x"] * 2})
    assert places(report)[0] == (1, Rule.UNKNOWN_FORM, "#")
    assert 'it has "img_path", "label".' in report.issues[0].message
    assert report.rows.read == 2


def test_two_columns_of_one_name_are_refused_by_it(make, check):
    """The last won without a word."""
    table = pa.Table.from_arrays([pa.array(images(make)), captions(), captions()], ["image", "caption", "caption"])
    report = check(table)
    assert (report.refusal.rule, report.refusal.pointer) == (Rule.UNREADABLE, "#/caption")
    assert 'several columns have the name "caption"' in report.refusal.message
    assert "Rename" in report.refusal.fix


def test_two_fields_of_one_name_inside_of_a_column_are_refused_as_well(make, check):
    turns = pa.StructArray.from_arrays([text("user"), text("Hi"), text("Ho")], ["role", "content", "content"])
    report = check({"images": [[make.image()]], "messages": pa.ListArray.from_arrays([0, 1], turns)})
    assert (report.refusal.rule, report.refusal.pointer) == (Rule.UNREADABLE, "#/messages/content")


def test_two_columns_of_one_name_that_nobody_uses_are_one_that_is_ignored(make, check):
    table = pa.Table.from_arrays(
        [pa.array(images(make)), captions(), captions(), captions()], ["image", "caption", "note", "note"]
    )
    assert places(check(table)) == [(1, Rule.IGNORED_FIELD, "#/note")]


def large(num_rows, row_bytes, **how):
    """Return a file of rows with ten pictures each, in one row group and with small pages."""
    rows = [[os.urandom(row_bytes // 10) for _ in range(10)] for _ in range(num_rows)]
    out = io.BytesIO()
    pages = {"use_dictionary": False, "write_batch_size": 1, "data_page_size": 64 * 1024} | how
    pq.write_table(pa.table({"images": rows, "caption": ["x"] * num_rows}), out, **pages)
    out.seek(0)
    return out


def test_of_large_rows_only_a_few_are_in_memory_at_once():
    """Sixteen rows of ten pictures of 10 MiB, a legal file, were read in one piece, which the child's bound forbids."""
    row_bytes = 8 * MIB
    before = pa.total_allocated_bytes()
    source = ParquetSource(large(12, row_bytes), Limits(), {"images", "caption"})
    peak = max(pa.total_allocated_bytes() - before for _ in source.rows())
    assert row_bytes / 2 < peak < 6 * row_bytes


_BOUNDED = """
import os, pathlib, resource
from ingest.limits import MIB, Limits
from ingest.issues import SourceFault
from ingest.parquet import ParquetSource
mapped = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 96 * MIB, resource.RLIM_INFINITY))
with open(os.environ["TABLE"], "rb") as stream:
    try:
        print(sum(1 for row in ParquetSource(stream, Limits(), {"images", "caption"}).rows()), "rows")
    except SourceFault as fault:
        print(fault.row, fault.finding.rule, fault.finding.fix)
"""


def test_a_file_is_read_that_is_larger_than_memory(tmp_path):
    (tmp_path / "a.parquet").write_bytes(large(16, 8 * MIB).read())
    done = run_python(_BOUNDED, TABLE=str(tmp_path / "a.parquet"))
    assert done.stdout == "16 rows\n", done.stderr


def test_what_does_not_fit_into_memory_is_not_called_damage(tmp_path):
    (tmp_path / "a.parquet").write_bytes(large(16, 8 * MIB, write_batch_size=1024).read())  # in one page
    done = run_python(_BOUNDED, TABLE=str(tmp_path / "a.parquet"))
    assert done.stdout.startswith("1 too_much_data "), done.stderr
    assert "row groups" in done.stdout
