"""`on_bad_row: skip`: bad rows are left out, and every one of them is listed."""

import json
import tracemalloc

import pytest

from ingest.issues import Rule
from ingest.pack import packed_images
from ingest.skipped import OnBadRow, SkipLog
from tests.unit.ingest.planted import PLANTED, QA

SKIP = {"on_bad_row": OnBadRow.SKIP}


def _skipped(report):
    return {(row, group.file): set(group.rules) for group in report.skipped for row in group.rows}


def test_a_set_with_bad_rows_is_the_set_without_them(make, check):
    rows = [row for row, _, _ in PLANTED.values()]
    good, report = check(make.good_zip(20), out="good"), check(make.good_zip(20, rows=rows), **SKIP)
    assert (report.digest, report.splits) == (good.digest, {"train": 18, "validation": 2})
    assert report.rows.model_dump() == {"read": 20 + len(rows), "kept": 20, "refused": len(rows)}
    assert (report.refusal, report.num_skipped) == (None, len(rows))
    assert report.num_errors >= len(rows)


def test_every_skipped_row_is_listed_with_its_file_and_the_rules_that_it_breaks(make, check):
    report = check(
        make.zip(
            {f"images/{i}.png": make.image(i) for i in range(20)}
            | {
                "a.jsonl": make.lines([*make.rows(20), b"{", {**QA, "answer": " ", "split": "no"}]),
                "b.jsonl": make.lines([{**QA, "image": "gone.png"}, {**QA, "answer": "x"}, b"{"]),
            }
        ),
        **SKIP,
    )
    assert _skipped(report) == {
        (21, "a.jsonl"): {Rule.JSON_SYNTAX},
        (22, "a.jsonl"): {Rule.EMPTY_ANSWER, Rule.BAD_SPLIT},
        (1, "b.jsonl"): {Rule.MISSING_IMAGE},
        (3, "b.jsonl"): {Rule.JSON_SYNTAX},
    }
    assert report.rows.kept == 21


def test_rows_beyond_the_limit_on_listed_issues_are_listed_as_skipped(make, check):
    rows = [{**QA, "image": f"gone/{i}.png"} for i in range(30)]
    report = check(make.good_zip(20, rows=rows), max_kept_per_rule=5, **SKIP)
    assert len(report.issues) == 5
    assert [row for group in report.skipped for row in group.rows] == list(range(21, 51))


def test_a_bad_row_refuses_the_set_unless_it_is_to_be_skipped(make, check):
    report = check(make.good_zip(20, rows=[b"{"]))
    assert (report.digest, report.skipped, report.num_skipped) == (None, [], 0)
    assert (report.refusal.row, report.refusal.rule) == (21, Rule.JSON_SYNTAX)


@pytest.mark.parametrize("fault", ["utf-16", "damage"])
def test_a_fault_of_a_whole_file_refuses_the_set_all_the_same(fault, make, check):
    rows = make.lines([*make.rows(20), b"{"])
    data = bytearray(
        make.zip(
            {f"images/{i}.png": make.image(i) for i in range(20)}
            | {"a.jsonl": rows, "b.jsonl": json.dumps(QA).encode("utf-16") if fault == "utf-16" else make.lines([QA])}
        )
    )
    if fault == "damage":
        at = data.rfind(b"b.jsonl", 0, data.find(b"PK\x01\x02")) + len(b"b.jsonl")
        data[at : at + 20] = bytes(20)
    report = check(bytes(data), **SKIP)
    assert report.digest is None
    assert report.refusal.rule is (Rule.NOT_UTF8 if fault == "utf-16" else Rule.UNREADABLE)
    assert report.refusal.file == "b.jsonl"


def test_a_set_of_which_every_row_is_skipped_is_refused(make, check):
    report = check(make.lines([b"{]", {**QA, "answer": ""}]), **SKIP)
    assert (report.digest, report.num_skipped) == (None, 2)
    assert (report.refusal.rule, report.refusal.row) == (Rule.NO_TRAINING, None)
    assert "all 2 rows were skipped" in report.refusal.message


def test_a_set_of_which_only_validation_is_left_is_refused(make, check):
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    rows = [{**row, "split": "validation"} for row in make.rows(20)]
    bad = {**QA, "split": "train", "answer": ""}
    report = check(make.zip(files | {"a.jsonl": make.lines([*rows, bad])}), **SKIP)
    assert (report.digest, report.refusal.rule) == (None, Rule.NO_TRAINING)


def test_few_rows_are_counted_without_those_that_are_skipped(make, check):
    report = check(make.good_zip(9, rows=[b"{"] * 20), **SKIP)
    assert Rule.FEW_ROWS in report.counts.by_rule
    assert report.digest is not None


def test_an_image_that_only_a_skipped_row_shows_is_neither_stored_nor_counted(make, check, tmp_path):
    files = {"wide.png": make.image(99, size=(400, 12))}
    report = check(make.good_zip(20, rows=[{**QA, "image": "wide.png", "answer": ""}], files=files), **SKIP)
    assert report.statistics.num_images == 20
    assert report.statistics.image_long_side_px.max == 16
    stored = dict(packed_images(tmp_path / "out"))
    assert len(stored) == 20
    assert report.statistics.images_bytes == sum(map(len, stored.values()))


def test_a_file_that_only_a_skipped_row_names_is_no_unused_file(make, check):
    report = check(make.good_zip(20, rows=[{**QA, "image": "x.png", "answer": ""}], files={"x.png": b"no"}), **SKIP)
    assert Rule.UNUSED_FILES not in report.counts.by_rule


def test_very_many_skipped_rows_take_a_few_bytes_each():
    log = SkipLog()
    tracemalloc.start()
    for row in range(100_000):
        log.add([Rule.JSON_SYNTAX] if row % 2 else [Rule.EMPTY_ANSWER, Rule.BAD_SPLIT], row=row, file="a.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(log) == 100_000
    assert peak < 20 * 100_000
