"""Ten thousand rows with two hundred planted faults of every kind: those are found, and nothing else."""

import random

import pytest

from ingest.issues import Severity
from ingest.skipped import OnBadRow
from tests.unit.ingest.planted import PLANTED

NUM_ROWS, NUM_FAULTS, NUM_IMAGES = 10_000, 200, 20
KINDS = [planted for planted in PLANTED.values() if "bad/" not in str(planted[0])]


@pytest.fixture
def planted(make):
    """Return the upload, and the row, rule and pointer of each fault in it."""
    places = sorted(random.Random(7).sample(range(1, NUM_ROWS + 1), NUM_FAULTS))
    faults = {place: KINDS[i % len(KINDS)] for i, place in enumerate(places)}
    files = {f"images/{i}.png": make.image(i) for i in range(NUM_IMAGES)}
    rows = [
        faults[i][0]
        if i in faults
        else {"image": f"images/{i % NUM_IMAGES}.png", "question": f"{i}?", "answer": str(i)}
        for i in range(1, NUM_ROWS + 1)
    ]
    return make.zip(files | {"a.jsonl": make.lines(rows)}), [(place, *faults[place][1:]) for place in places]


@pytest.mark.parametrize("on_bad_row", OnBadRow)
def test_of_ten_thousand_rows_exactly_the_two_hundred_faulty_ones_are_reported(on_bad_row, planted, check):
    data, expected = planted
    report = check(data, on_bad_row=on_bad_row)
    assert len(KINDS) > 60
    found = [(i.row, i.rule, i.pointer) for i in report.issues if i.severity is Severity.ERROR]
    assert found == expected
    assert (report.num_errors, report.rows.kept) == (NUM_FAULTS, NUM_ROWS - NUM_FAULTS)
    assert {issue.row for issue in report.issues} == {row for row, _, _ in expected}
    skipped = sorted(row for group in report.skipped for row in group.rows)
    assert skipped == ([row for row, _, _ in expected] if on_bad_row is OnBadRow.SKIP else [])
