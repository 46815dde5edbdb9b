"""What a line is, and what a file is that holds no lines of JSON."""

import io
import json

import pytest

from ingest.issues import Rule, SourceFault
from ingest.limits import Limits
from ingest.lines import read_rows

ROWS = [{"question": "Which?", "answer": str(i)} for i in range(3)]


def rows(data):
    return list(read_rows(io.BytesIO(data), "a.jsonl", Limits()))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_line_that_is_cut_off_is_said_with_the_column_of_its_end(end):
    """The line feed went into the parser, which then spoke of column 0 of the next line."""
    line = b'{"image": "a.png", "question": "x"'
    (row,) = rows(line + end)
    assert [finding.rule for finding in row.findings] == [Rule.JSON_SYNTAX]
    assert f"at column {len(line)}." in row.findings[0].message


NO_LINES = {
    "UTF-16 without a mark": (json.dumps(ROWS[0]).encode("utf-16-le"), Rule.NOT_UTF8, "UTF-16"),
    "an array over several lines": (json.dumps(ROWS, indent=2).encode(), Rule.JSON_SYNTAX, "several lines"),
    "an array with a row on each line": (
        b"[\n" + json.dumps(ROWS[0]).encode() + b"]",
        Rule.JSON_SYNTAX,
        "several lines",
    ),
    "objects over several lines": (json.dumps(ROWS[0], indent=2).encode(), Rule.JSON_SYNTAX, "several lines"),
    "lines that end with CR": (b"\r".join(json.dumps(row).encode() for row in ROWS), Rule.JSON_SYNTAX, "carriage"),
}


@pytest.mark.parametrize("name", NO_LINES)
def test_a_file_without_lines_of_json_is_one_fault_that_says_what_it_is(name):
    data, rule, says = NO_LINES[name]
    with pytest.raises(SourceFault) as fault:
        rows(data)
    assert (fault.value.finding.rule, fault.value.file, fault.value.row) == (rule, "a.jsonl", 1)
    assert says in fault.value.finding.message


def test_an_array_on_one_line_is_a_fault_of_that_line():
    (row,) = rows(json.dumps(ROWS).encode())
    assert [finding.rule for finding in row.findings] == [Rule.NOT_AN_OBJECT]
