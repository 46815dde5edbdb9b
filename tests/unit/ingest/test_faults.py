"""Each fault is planted behind twenty good rows, and must be the only error, at its row and pointer."""

import base64
import json

import pytest

from ingest.issues import Rule, Severity
from tests.unit.ingest.planted import PLANTED, PNG_URL, QA, with_url


@pytest.fixture(scope="module")
def bad_files(make):
    return {
        "bad/empty.png": b"",
        "bad/cut.png": make.image(size=(200, 200))[:-60],
        "bad/cut.jpg": make.image(size=(200, 200), kind="JPEG")[:-200],
        "bad/a.gif": make.image(kind="GIF"),
        "bad/text.png": b"not an image",
        "bad/bomb.png": make.image(size=(6000, 6000), mode="1"),
        "bad/huge.png": make.image(size=(20000, 20000), mode="1"),
        "bad/long.png": make.image(size=(8193, 20), mode="1"),
        "bad/fat.png": bytes(11 * 1024 * 1024),
        "bad/small.png": make.image(size=(7, 100)),
    }


def _errors(report):
    return [
        (issue.row, issue.file, issue.rule, issue.pointer)
        for issue in report.issues
        if issue.severity is Severity.ERROR
    ]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_at_its_row_and_pointer(name, make, bad_files, check):
    row, rule, pointer = PLANTED[name]
    used = [row.get("image"), *row.get("images", [])] if isinstance(row, dict) else []
    files = {path: data for path, data in bad_files.items() if path in used}
    report = check(make.good_zip(20, rows=[row], files=files))
    assert _errors(report) == [(21, "train.jsonl", rule, pointer)]
    assert report.rows.model_dump() == {"read": 21, "kept": 20, "refused": 1}
    assert report.digest is None
    issue = report.refusal
    assert issue.message.endswith(".")
    assert issue.fix.endswith(".")


def test_all_faults_of_a_file_are_reported_in_one_pass(make, bad_files, check):
    rows = [row for row, _, _ in PLANTED.values()]
    report = check(make.good_zip(20, rows=rows, files=bad_files))
    expected = [(21 + i, "train.jsonl", rule, pointer) for i, (_, rule, pointer) in enumerate(PLANTED.values())]
    assert _errors(report) == expected
    assert report.num_errors == len(PLANTED)
    assert report.rows.model_dump() == {"read": 20 + len(rows), "kept": 20, "refused": len(rows)}


def test_all_faults_of_one_row_are_reported(make, check):
    row = {"image": "nowhere.png", "question": "<image> Which?", "answer": " ", "split": "test", "note": 1}
    report = check(make.good_zip(20, rows=[row]))
    assert {(issue.rule, issue.pointer) for issue in report.issues} == {
        (Rule.MISSING_IMAGE, "#/image"),
        (Rule.RESERVED_TOKEN, "#/question"),
        (Rule.EMPTY_ANSWER, "#/answer"),
        (Rule.BAD_SPLIT, "#/split"),
        (Rule.IGNORED_FIELD, "#/note"),
    }


def test_of_one_rule_the_first_are_listed_and_all_are_counted(make, check):
    rows = [{**QA, "image": f"gone/{i}.png"} for i in range(30)]
    report = check(make.good_zip(20, rows=rows), max_kept_per_rule=5)
    assert [issue.row for issue in report.issues] == [21, 22, 23, 24, 25]
    assert report.counts.by_rule[Rule.MISSING_IMAGE] == 30
    assert (report.num_errors, report.rows.refused) == (30, 30)


def test_a_syntax_error_names_its_column(make, check):
    report = check(make.good_zip(20, rows=[b'{"image": "a.png" "answer": "7"}']))
    assert "expected `,` or `}` at column 19." in report.refusal.message


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("images/3.PNG", "images/3.png"),
        ("3.png", "images/3.png"),
        ("images\\3.png", "images/3.png"),
        ("image/12.png", "images/12.png"),
        ("images/1500.jpg", "images/1500.png"),
    ],
)
def test_a_missing_image_is_named_with_the_nearest_name(path, nearest, make, check):
    files = {f"images/{number:04}.png": b"" for number in range(1600)}  # more than are compared letter by letter
    issue = check(make.good_zip(20, rows=[{**QA, "image": path}], files=files)).refusal
    assert json.dumps(path).replace("\\\\", "\\") in issue.message
    assert nearest in issue.fix


def test_a_broken_image_is_reported_at_every_row_that_names_it(make, bad_files, check):
    rows = [{**QA, "image": "bad/cut.png"}] * 3
    report = check(make.good_zip(20, rows=rows, files={"bad/cut.png": bad_files["bad/cut.png"]}))
    assert [issue.row for issue in report.issues if issue.rule is Rule.CORRUPT_IMAGE] == [21, 22, 23]


def test_a_bare_jsonl_that_names_a_file_is_told_where_the_image_must_be(make, check):
    issue = check(make.lines([QA] * 10)).refusal
    assert (issue.row, issue.file, issue.rule, issue.pointer) == (1, None, Rule.MISSING_IMAGE, "#/image")
    assert "data: URL" in issue.fix


def test_a_line_over_the_limit_is_reported_and_the_next_is_read(make, check):
    rows = [{**QA, "answer": "x" * 5000}, {**QA, "answer": 7}]
    report = check(make.good_zip(20, rows=rows), max_line_bytes=2000)
    assert [(row, rule) for row, _, rule, _ in _errors(report)] == [(21, Rule.LINE_TOO_LONG), (22, Rule.WRONG_TYPE)]


def test_a_line_of_very_many_objects_is_an_issue_and_not_the_end_of_the_process(make, check):
    """26 MiB of empty objects took 700 MiB, and then the parser aborted the process without a word."""
    rows = [b'{"a":[' + b"{}," * 200_000 + b"{}]}", {**QA, "answer": 7}]
    report = check(make.good_zip(20, rows=rows))
    assert [(row, rule) for row, _, rule, _ in _errors(report)] == [(21, Rule.LINE_TOO_LONG), (22, Rule.WRONG_TYPE)]


def test_a_file_in_utf16_is_named_as_such_and_not_as_a_hundred_bad_lines(make, check):
    data = json.dumps(QA).encode("utf-16") * 3
    report = check(make.zip({"train.jsonl": data, "images/0.png": make.image()}))
    assert [(issue.rule, issue.row) for issue in report.issues] == [(Rule.NOT_UTF8, 1)]
    assert "UTF-16" in report.issues[0].message


def test_a_file_without_rows_is_refused(make, check):
    report = check(make.zip({"train.jsonl": b"\n\n"}))
    assert [issue.rule for issue in report.issues] == [Rule.NO_ROWS]


def test_control_characters_of_a_user_never_reach_a_message_as_they_are(make, check):
    row = {"evil\r\n\x1b[31m\u2028": 1, "image": "a\x00b"}
    issue = check(make.good_zip(20, rows=[row])).refusal
    assert issue.message.isprintable()
    assert "\\x1b" in issue.message


def test_of_a_row_with_too_many_images_only_as_many_as_allowed_are_looked_at(make, check):
    report = check(make.good_zip(20, rows=[{**QA, "image": ["gone.png"] * 500}]))
    assert report.counts.by_rule == {Rule.MISSING_IMAGE: 10, Rule.TOO_MANY_IMAGES: 1}


def test_too_many_rows_end_the_reading(make, check):
    report = check(make.good_zip(20), max_rows=15)
    assert [(issue.rule, issue.row) for issue in report.issues] == [(Rule.TOO_MUCH_DATA, 16)]


def test_images_beyond_the_limit_on_bytes_end_the_reading(make, check):
    rows = [with_url(PNG_URL + base64.b64encode(make.image(i, size=(64, 64))).decode()) for i in range(50)]
    report = check(make.lines(rows), max_total_bytes=4096)
    assert report.refusal.rule is Rule.TOO_MUCH_DATA
    assert report.digest is None


def test_a_set_with_nothing_to_train_on_is_refused(make, check):
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    rows = [{**row, "split": "validation"} for row in make.rows(20)]
    report = check(make.zip(files | {"train.jsonl": make.lines(rows)}))
    assert [(issue.rule, issue.row) for issue in report.issues] == [(Rule.NO_TRAINING, None)]
    assert (report.digest, report.splits) == (None, None)
