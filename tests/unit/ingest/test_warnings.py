"""What a data set is warned of and not refused for."""

import base64

import pytest

from ingest.issues import Rule
from tests.unit.ingest.planted import ANSWER, QA, USER, chat, with_url


def found(report):
    assert report.digest is not None
    return [(issue.rule, issue.row, issue.pointer) for issue in report.issues]


def test_few_rows(make, check):
    assert found(check(make.good_zip(9))) == [(Rule.FEW_ROWS, None, "#"), (Rule.NO_VALIDATION, None, "#")]


def test_a_byte_order_mark(make, check):
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    data = make.zip(files | {"train.jsonl": b"\xef\xbb\xbf" + make.lines(make.rows(20))})
    assert found(check(data)) == [(Rule.BOM, 1, "#")]


def test_a_byte_order_mark_alone_on_its_line_is_no_row(make, check):
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    report = check(make.zip(files | {"train.jsonl": b"\xef\xbb\xbf\n" + make.lines(make.rows(20))}))
    assert found(report) == [(Rule.BOM, 1, "#")]
    assert report.rows.model_dump() == {"read": 20, "kept": 20, "refused": 0}


def test_a_duplicate_example(make, check):
    report = check(make.good_zip(20, rows=[{**QA, "answer": "0"}]))
    assert found(report) == [(Rule.DUPLICATE_EXAMPLE, 21, "#")]
    assert 'row 1 of "train.jsonl"' in report.issues[0].message


def test_an_image_in_both_splits(make, check):
    rows = [{**QA, "split": "train"}, {**QA, "answer": "8", "split": "validation"}]
    assert found(check(make.good_zip(20, rows=rows))) == [(Rule.SPLIT_LEAK, 22, "#/split")]


@pytest.mark.parametrize("first", [None, "validation"])
def test_a_row_without_a_split_leaks_into_validation_as_well_as_one_that_says_train(make, check, first):
    """To mark the validation rows alone is the usual way; then nothing told that an image was on both sides."""
    second = "validation" if first is None else None
    splits = [{"split": split} if split else {} for split in (first, second)]
    pair = [{**QA, "image": "shared.png", "answer": str(i), **split} for i, split in enumerate(splits)]
    report = check(make.good_zip(20, rows=pair, files={"shared.png": make.image(99)}))
    assert found(report) == [(Rule.SPLIT_LEAK, 22, "#/split")]


def test_a_field_that_is_not_used_is_said_once(make, check):
    rows = [{**row, "id": i} for i, row in enumerate(make.rows(20))]
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    data = make.zip(files | {"train.jsonl": make.lines(rows)})
    assert found(check(data)) == [(Rule.IGNORED_FIELD, 1, "#/id")]


def test_a_field_of_a_text_part_that_is_not_used_is_said(make, check):
    content = [{"type": "image"}, {"type": "text", "text": "Which?", "cache_control": {}}]
    report = check(make.good_zip(20, rows=[chat({"role": "user", "content": content}, ANSWER)]))
    assert found(report) == [(Rule.IGNORED_FIELD, 21, "#/messages/0/content/1/cache_control")]


def test_what_stands_on_both_sides_of_an_image_is_no_token(make, check):
    content = [{"type": "text", "text": "<ima"}, {"type": "image"}, {"type": "text", "text": "ge>"}]
    assert found(check(make.good_zip(20, rows=[chat({"role": "user", "content": content}, ANSWER)]))) == []


def test_of_very_many_fields_that_are_not_used_some_are_named(make, check):
    rows = [{**row, **{f"f{i}": 0 for i in range(50)}} for row in make.rows(20)]
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    report = check(make.zip(files | {"a.jsonl": make.lines(rows)}), max_kept_per_rule=10)
    assert report.counts.by_rule == {Rule.IGNORED_FIELD: 11}
    assert "more" not in report.issues[8].message


def test_the_pointer_of_an_endless_key_is_short(make, check):
    report = check(make.good_zip(20, rows=[{**QA, "answer": "x", "k" * 1_000_000: 1}]))
    assert [issue.rule for issue in report.issues] == [Rule.IGNORED_FIELD]
    assert len(report.model_dump_json()) < 10_000


def test_a_note_is_said_at_the_first_row_also_while_later_rows_are_begun(make, check):
    turned = make.image(kind="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    rows = [{**QA, "image": "turned.jpg"}, with_url("data:image/jpeg;base64," + base64.b64encode(turned).decode())]
    report = check(make.good_zip(20, rows=rows, files={"turned.jpg": turned}))
    assert (Rule.IMAGE_ROTATED, 21, "#/image") in found(report)
    assert report.counts.by_rule[Rule.IMAGE_ROTATED] == 1


def test_a_key_is_escaped_in_its_pointer(make, check):
    report = check(make.good_zip(20, rows=[{**QA, "a/b~c": 1, "answer": "x"}]))
    assert found(report) == [(Rule.IGNORED_FIELD, 21, "#/a~1b~0c")]


def test_the_detail_that_openai_knows_is_said_to_be_the_jobs(make, check):
    row = with_url("data:image/png;base64," + base64.b64encode(make.image(99)).decode())
    row["messages"][0]["content"][0]["image_url"]["detail"] = "low"
    report = check(
        make.good_zip(
            20, rows=[row, row | {"messages": [*row["messages"], {"role": "user", "content": "And?"}, ANSWER]}]
        )
    )
    assert found(report) == [(Rule.IGNORED_FIELD, 21, "#/messages/0/content/0/image_url/detail")]
    assert "image.split" in report.issues[0].fix


def test_a_last_turn_without_answer(make, check):
    row = chat(USER, ANSWER, {"role": "user", "content": "And now?"})
    assert found(check(make.good_zip(20, rows=[row]))) == [(Rule.UNANSWERED_TURN, 21, "#/messages/2")]


def test_a_media_type_that_is_not_that_of_the_bytes(make, check):
    row = with_url("data:image/jpeg;base64," + base64.b64encode(make.image(99)).decode())
    report = check(make.good_zip(20, rows=[row]))
    assert found(report) == [(Rule.MIME_MISMATCH, 21, "#/messages/0/content/0/image_url/url")]


def test_files_that_no_row_names(make, check):
    report = check(make.good_zip(20, files={"notes.txt": b"hello"}))
    assert found(report) == [(Rule.UNUSED_FILES, None, "#")]


def test_rows_that_all_share_one_image_cannot_be_split(make, check):
    rows = [{**QA, "answer": str(i)} for i in range(20)]
    data = make.zip({"images/0.png": make.image(), "train.jsonl": make.lines(rows)})
    assert found(check(data)) == [(Rule.NO_VALIDATION, None, "#")]
