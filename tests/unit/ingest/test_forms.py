"""Rows by other names: `{image, text}`, and a mapping of columns whose names stand in every pointer and sentence."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Invalid
from ingest.columns import FIELDS, Columns, parse_columns
from ingest.forms import CAPTION_PROMPT, read_form
from ingest.issues import Rule
from ingest.options import Options
from ingest.validate import validate
from vlm.conversation import TextPart, read_examples

SIMPLE = {"image": "img_path", "question": "prompt", "answer": "label"}


@pytest.fixture
def check_columns(make, tmp_path):
    """Return a function that validates rows, beside twenty images, under a mapping."""

    def run(rows, columns, *, out="out"):
        from ingest.container import Container

        path, folder = tmp_path / f"{out}.zip", tmp_path / out
        files = {f"images/{i}.png": make.image(i) for i in range(20)}
        path.write_bytes(make.zip(files | {"train.jsonl": make.lines(rows)}))
        folder.mkdir()
        return validate(path, Container.ZIP, folder, Options(columns=columns or {}))

    return run


def renamed(rows, columns):
    return [{columns.get(key, key): value for key, value in row.items()} for row in rows]


def found(report):
    return [(issue.rule, issue.row, issue.pointer) for issue in report.issues]


def test_an_image_with_a_text_asks_the_fixed_question(make, check, tmp_path):
    rows = [{"image": f"{i}.png", "text": f"Number {i}."} for i in range(12)]
    files = {f"{i}.png": make.image(i) for i in range(12)}
    assert check(make.zip(files | {"rows.jsonl": make.lines(rows)})).issues == []
    messages = read_examples(tmp_path / "out")[5].messages
    texts = [part.text for message in messages for part in message.content if isinstance(part, TextPart)]
    assert texts == [CAPTION_PROMPT, "Number 5."]


@pytest.mark.parametrize(
    ("row", "columns", "missed", "is_told"),
    [
        ({"file_name": "images/0.png", "caption": "x"}, {}, "#/image", True),
        ({"image": "images/0.png", "question": "Which?", "label": "7"}, {}, "#/answer", True),
        ({"file_name": "images/0.png", "caption": "x"}, {"image": "img_path"}, "#/img_path", False),
        ({"image": "images/0.png", "question": "Which?"}, {"answer": "label"}, "#/label", False),
    ],
)
def test_a_field_that_may_have_another_name_is_missed_with_the_way_to_map_it(
    check_columns, row, columns, missed, is_told
):
    """Such as `file_name`, of Hugging Face's folders of pictures: 'Add "image"' was all that was said."""
    issues = check_columns([row], columns).issues
    issue = next(issue for issue in issues if issue.rule is Rule.MISSING_FIELD)
    assert issue.pointer == missed
    assert ("let `columns` say which of your names stands for it" in issue.fix) is is_told


def test_a_text_beside_a_caption_is_not_used_and_that_is_said(make, check_columns):
    rows = [{"image": row["image"], "caption": row["answer"], "text": "x"} for row in make.rows(20)]
    assert found(check_columns(rows, {})) == [(Rule.IGNORED_FIELD, 1, "#/text")]


def test_mapped_columns_give_the_digest_of_the_plain_ones(make, check, check_columns):
    report = check_columns(renamed(make.rows(20), SIMPLE), SIMPLE)
    assert report.issues == []
    assert report.digest == check(make.good_zip(20), out="plain").digest


def test_mapped_messages_images_and_split_are_read(check_columns):
    columns = {"images": "pictures", "messages": "chat", "split": "part"}
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}
    rows = [
        {
            "pictures": [f"images/{i}.png"],
            "chat": [user, {"role": "assistant", "content": str(i)}],
            "part": "validation" if i > 15 else "train",
        }
        for i in range(20)
    ]
    report = check_columns(rows, columns)
    assert (report.issues, report.splits) == ([], {"train": 16, "validation": 4})


def test_columns_of_a_parquet_are_mapped_as_well(make, tmp_path):
    from ingest.container import Container

    sink = io.BytesIO()
    images = [{"bytes": make.image(i), "path": None} for i in range(12)]
    pq.write_table(pa.table({"picture": images, "label": [str(i) for i in range(12)]}), sink)
    (tmp_path / "a.parquet").write_bytes(sink.getvalue())
    columns = {"image": "picture", "caption": "label"}
    assert validate(tmp_path / "a.parquet", Container.PARQUET, tmp_path, Options(columns=columns)).issues == []


USER, ANSWER = {"role": "user", "content": "Which?"}, {"role": "assistant", "content": "7"}
IMAGE = {"img_path": "images/0.png"}
CHAT = {"messages": "a/chat", "images": "pics", "split": "part"}
PLANTED = {
    "no answer": (SIMPLE, {**IMAGE, "prompt": "?"}, Rule.MISSING_FIELD, "#/label", '"label"'),
    "no image": (SIMPLE, {"prompt": "?", "label": "7"}, Rule.MISSING_FIELD, "#/img_path", '"img_path"'),
    "nothing of a caption": (
        {"image": "img_path", "caption": "label"},
        {**IMAGE, "note": 1},
        Rule.MISSING_FIELD,
        "#/label",
        '"label"',
    ),
    "an empty answer": (SIMPLE, {**IMAGE, "prompt": "?", "label": ""}, Rule.EMPTY_ANSWER, "#/label", "empty"),
    "a number": (SIMPLE, {**IMAGE, "prompt": "?", "label": 7}, Rule.WRONG_TYPE, "#/label", "a number"),
    "a token": (SIMPLE, {**IMAGE, "prompt": "<image>", "label": "7"}, Rule.RESERVED_TOKEN, "#/prompt", "<image>"),
    "a missing file": (
        SIMPLE,
        {"img_path": ["images/0.png", "no.png"], "prompt": "?", "label": "7"},
        Rule.MISSING_IMAGE,
        "#/img_path/1",
        "no.png",
    ),
    "no list of turns": (CHAT, {"a/chat": "hi"}, Rule.WRONG_TYPE, "#/a~1chat", '"a/chat"'),
    "empty turns": (CHAT, {"a/chat": []}, Rule.EMPTY_MESSAGES, "#/a~1chat", '"a/chat"'),
    "no turns": (CHAT, {"pics": []}, Rule.MISSING_FIELD, "#/a~1chat", '"a/chat"'),
    "no assistant": (CHAT, {"a/chat": [USER]}, Rule.NO_ANSWER, "#/a~1chat", "assistant"),
    "no weight": (CHAT, {"a/chat": [USER, {**ANSWER, "weight": 0}]}, Rule.NOTHING_TO_LEARN, "#/a~1chat", "weight"),
    "an empty turn": (
        CHAT,
        {"a/chat": [USER, {**ANSWER, "content": ""}]},
        Rule.EMPTY_ANSWER,
        "#/a~1chat/1/content",
        "empty",
    ),
    "an image too many": (
        CHAT,
        {"pics": ["images/0.png"], "a/chat": [USER, ANSWER]},
        Rule.PLACEHOLDER_COUNT,
        "#/pics",
        "lists 1",
    ),
    "a bad split": (CHAT, {"a/chat": [USER, ANSWER], "part": "test"}, Rule.BAD_SPLIT, "#/part", '"test"'),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_is_told_in_the_users_own_names(name, make, check_columns):
    columns, row, rule, pointer, says = PLANTED[name]
    report = check_columns(
        [*renamed(make.rows(20), SIMPLE), row], {**SIMPLE, **columns} if "caption" not in columns else columns
    )
    errors = [issue for issue in report.issues if issue.severity == "error" and issue.row == 21]
    assert [(issue.rule, issue.pointer) for issue in errors] == [(rule, pointer)]
    assert says in errors[0].message


def test_a_leak_is_told_by_the_users_name_of_the_split(make, check_columns):
    pair = [{"image": "images/0.png", "question": "Which?", "answer": str(i)} for i in range(2)]
    rows = [{**pair[0], "part": "train"}, {**pair[1], "part": "validation"}, *make.rows(20)[1:]]
    assert found(check_columns(rows, {"split": "part"})) == [(Rule.SPLIT_LEAK, 2, "#/part")]


def test_a_column_of_ours_that_another_replaces_is_a_field_that_is_not_used(make, check_columns):
    rows = [{**row, "label": row["answer"], "answer": 99} for row in make.rows(20)]
    assert found(check_columns(rows, {"answer": "label"})) == [(Rule.IGNORED_FIELD, 1, "#/answer")]


def test_a_column_stands_for_one_field_only(make, check_columns):
    rows = [{"image": row["image"], "answer": "Which?", "label": row["answer"]} for row in make.rows(20)]
    assert check_columns(rows, {"question": "answer", "answer": "label"}).issues == []


def test_a_mapped_field_decides_the_form_before_any_other(make, check_columns, tmp_path):
    rows = [{**row, "label": f"A {row['answer']}."} for row in make.rows(20)]
    report = check_columns(rows, {"caption": "label"})
    assert {issue.pointer for issue in report.issues} == {"#/question", "#/answer"}
    assert read_examples(tmp_path / "out")[3].messages[1].content[0].text == "A 3."


def test_a_column_that_no_row_has_is_a_warning_and_not_silence(make, check_columns):
    report = check_columns(make.rows(20), {"split": "subset"})
    assert found(report) == [(Rule.UNUSED_COLUMN, None, "#/subset")]
    assert report.digest is not None


def test_a_mapping_is_parsed_as_it_is_written():
    every = {field: f"my {field}" for field in FIELDS}
    assert parse_columns(json.dumps(every)) == every
    assert parse_columns("{}") == {}


@pytest.mark.parametrize(
    ("text", "pointer", "says"),
    [
        ("{", "#/columns", "not JSON"),
        ("[" * 100_000, "#/columns", "not JSON"),
        ("[]", "#/columns", "no JSON object"),
        ('{"img": "a"}', "#/columns/img", "The fields are image, images"),
        ('{"a/b": "a"}', "#/columns/a~1b", "no field"),
        ('{"image": 7}', "#/columns/image", "name of a column"),
        ('{"image": ""}', "#/columns/image", "name of a column"),
        ('{"image": "a\\u0000"}', "#/columns/image", "control character"),
        (json.dumps({"image": "x" * 201}), "#/columns/image", "1 to 200"),
        ('{"question": "a", "answer": "a"}', "#/columns/answer", "stands for the question already"),
    ],
    ids=lambda value: value[:20],
)
def test_a_wrong_mapping_is_refused_at_its_pointer(text, pointer, says):
    with pytest.raises(Invalid) as caught:
        parse_columns(text)
    (error,) = caught.value.errors
    assert error.pointer == pointer
    assert says in error.detail


def test_every_wrong_entry_of_a_mapping_is_told():
    with pytest.raises(Invalid, match="and 1 more") as caught:
        parse_columns('{"img": "a", "image": 7}')
    assert [error.pointer for error in caught.value.errors] == ["#/columns/img", "#/columns/image"]


WORDS = st.sampled_from([*FIELDS, "label", "a/b", "", "user", "text"])
VALUES = st.recursive(
    WORDS | st.none() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(row=st.dictionaries(WORDS, VALUES), mapping=st.dictionaries(st.sampled_from(FIELDS), WORDS.filter(bool)))
def test_any_row_under_any_mapping_is_read_or_refused_but_never_crashes(row, mapping):
    findings = []
    draft = read_form(row, findings, Columns(mapping))
    assert draft is not None or [finding.rule for finding in findings] == [Rule.UNKNOWN_FORM]
