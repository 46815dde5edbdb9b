"""Each fault is planted behind twenty good rows, and must be the only error, at its row and pointer."""

import base64
import json

import pytest

from ingest.issues import Rule, Severity

IMAGE = {"image": "images/0.png"}
QA = {**IMAGE, "question": "Which?", "answer": "7"}
USER = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}
ANSWER = {"role": "assistant", "content": "7"}
PNG_URL = "data:image/png;base64,"


def chat(*messages, images=("images/0.png",), **more):
    return {"images": list(images), "messages": list(messages), **more}


def with_url(url):
    image = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [image, {"type": "text", "text": "Which?"}]}, ANSWER]}


PLANTED = {
    "a line that is no JSON": (b'{"image": "a.png", "question": }', Rule.JSON_SYNTAX, "#"),
    "a line cut off": (b'{"image": "a.png"', Rule.JSON_SYNTAX, "#"),
    "not a number": (b'{"image": "a.png", "caption": NaN}', Rule.JSON_SYNTAX, "#"),
    "single quotes": (b"{'image': 'a.png'}", Rule.JSON_SYNTAX, "#"),
    "two objects on a line": (b'{"a": 1}{"b": 2}', Rule.JSON_SYNTAX, "#"),
    "nesting without end": (b'{"a":' * 5000, Rule.JSON_SYNTAX, "#"),
    "a lone surrogate": (b'{"image": "\\ud800"}', Rule.JSON_SYNTAX, "#"),
    "bytes of Latin-1": (b'{"caption": "caf\xe9"}', Rule.NOT_UTF8, "#"),
    "an array": (b"[1, 2]", Rule.NOT_AN_OBJECT, "#"),
    "a string": (b'"x"', Rule.NOT_AN_OBJECT, "#"),
    "unknown keys": ({"img": "a.png", "label": "7"}, Rule.UNKNOWN_FORM, "#"),
    "no keys": ({}, Rule.UNKNOWN_FORM, "#"),
    "no answer": ({**IMAGE, "question": "Which?"}, Rule.MISSING_FIELD, "#/answer"),
    "no question": ({**IMAGE, "answer": "7"}, Rule.MISSING_FIELD, "#/question"),
    "no image": ({"question": "Which?", "answer": "7"}, Rule.MISSING_FIELD, "#/image"),
    "no image for a caption": ({"caption": "A cat."}, Rule.MISSING_FIELD, "#/image"),
    "a number for an answer": ({**QA, "answer": 7}, Rule.WRONG_TYPE, "#/answer"),
    "null for a caption": ({**IMAGE, "caption": None}, Rule.WRONG_TYPE, "#/caption"),
    "an image that is no image field": ({**QA, "image": 12}, Rule.WRONG_TYPE, "#/image"),
    "an image in a list that is none": ({**QA, "image": ["images/0.png", {"a": 1}]}, Rule.WRONG_TYPE, "#/image/1"),
    "an empty list of images": ({**QA, "image": []}, Rule.MISSING_FIELD, "#/image"),
    "image and images": ({**QA, "images": ["images/0.png"]}, Rule.WRONG_TYPE, "#/image"),
    "messages that are no list": (chat() | {"messages": "hi"}, Rule.WRONG_TYPE, "#/messages"),
    "empty messages": (chat(images=()), Rule.EMPTY_MESSAGES, "#/messages"),
    "a turn that is no object": (chat(USER, "7", ANSWER), Rule.WRONG_TYPE, "#/messages/1"),
    "an unknown role": (chat(USER, {**ANSWER, "role": "gpt"}), Rule.BAD_ROLE, "#/messages/1/role"),
    "a missing role": (chat(USER, {"content": "7"}), Rule.BAD_ROLE, "#/messages/1/role"),
    "a missing content": (chat(USER, {"role": "assistant"}), Rule.MISSING_FIELD, "#/messages/1/content"),
    "a content that is a number": (chat(USER, {**ANSWER, "content": 7}), Rule.WRONG_TYPE, "#/messages/1/content"),
    "an unknown part": (
        chat(USER, {"role": "assistant", "content": [{"type": "audio"}]}),
        Rule.UNKNOWN_PART,
        "#/messages/1/content/0",
    ),
    "a text part without text": (
        chat(USER, {"role": "assistant", "content": [{"type": "text"}]}),
        Rule.WRONG_TYPE,
        "#/messages/1/content/0/text",
    ),
    "an image_url without url": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER]},
        Rule.WRONG_TYPE,
        "#/messages/0/content/0/image_url",
    ),
    "no assistant turn": (chat(USER), Rule.NO_ANSWER, "#/messages"),
    "an empty answer": ({**QA, "answer": "  "}, Rule.EMPTY_ANSWER, "#/answer"),
    "an empty assistant turn": (chat(USER, {**ANSWER, "content": ""}), Rule.EMPTY_ANSWER, "#/messages/1/content"),
    "an empty user turn": (
        chat({"role": "user", "content": ""}, ANSWER, images=()),
        Rule.EMPTY_TURN,
        "#/messages/0/content",
    ),
    "a system turn that is not first": (
        chat(USER, {"role": "system", "content": "Be brief."}, ANSWER),
        Rule.ROLE_ORDER,
        "#/messages/1",
    ),
    "an answer before the question": (chat(ANSWER, USER, ANSWER), Rule.ROLE_ORDER, "#/messages/0"),
    "a weight of two": (chat(USER, {**ANSWER, "weight": 2}), Rule.BAD_WEIGHT, "#/messages/1/weight"),
    "a weight that is true": (chat(USER, {**ANSWER, "weight": True}), Rule.BAD_WEIGHT, "#/messages/1/weight"),
    "a weight on a user turn": (chat({**USER, "weight": 1}, ANSWER), Rule.BAD_WEIGHT, "#/messages/0/weight"),
    "only weights of zero": (chat(USER, {**ANSWER, "weight": 0}), Rule.NOTHING_TO_LEARN, "#/messages"),
    "a split that is none": ({**QA, "split": "val"}, Rule.BAD_SPLIT, "#/split"),
    "a split that is null": ({**QA, "split": None}, Rule.BAD_SPLIT, "#/split"),
    "an image in an assistant turn": (
        chat(
            {"role": "user", "content": "Draw."},
            {"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "7"}]},
        ),
        Rule.IMAGE_OUTSIDE_USER,
        "#/messages/1/content/0",
    ),
    "an image in a system turn": (
        chat({"role": "system", "content": [{"type": "image"}]}, {"role": "user", "content": "Which?"}, ANSWER),
        Rule.IMAGE_OUTSIDE_USER,
        "#/messages/0/content/0",
    ),
    "more places than images": (chat(USER, ANSWER, images=()), Rule.PLACEHOLDER_COUNT, "#/images"),
    "more images than places": (chat(USER, ANSWER, images=["images/0.png"] * 2), Rule.PLACEHOLDER_COUNT, "#/images"),
    "too many images": ({**QA, "image": [f"images/{i}.png" for i in range(11)]}, Rule.TOO_MANY_IMAGES, "#/image"),
    "<image> in a text": ({**QA, "question": "<image>Which?"}, Rule.RESERVED_TOKEN, "#/question"),
    "<fake_token_around_image>": ({**QA, "answer": "7<fake_token_around_image>"}, Rule.RESERVED_TOKEN, "#/answer"),
    "<end_of_utterance>": (
        chat(USER, {**ANSWER, "content": "7<end_of_utterance>"}),
        Rule.RESERVED_TOKEN,
        "#/messages/1/content",
    ),
    "<row_1_col_1>": (
        chat({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "<row_1_col_1>"}]}, ANSWER),
        Rule.RESERVED_TOKEN,
        "#/messages/0/content/1/text",
    ),
    "the assistant twice in a row": (chat(USER, ANSWER, ANSWER), Rule.ROLE_ORDER, "#/messages/2"),
    "<image> in two parts": (
        chat(
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": "<ima"}, {"type": "text", "text": "ge>"}],
            },
            ANSWER,
        ),
        Rule.RESERVED_TOKEN,
        "#/messages/0/content",
    ),
    "a NUL in a text": ({**QA, "answer": "7\x00"}, Rule.NUL_CHARACTER, "#/answer"),
    "a missing image": ({**QA, "image": "images/00.png"}, Rule.MISSING_IMAGE, "#/image"),
    "a path that leaves the zip": ({**QA, "image": "../../etc/passwd"}, Rule.MISSING_IMAGE, "#/image"),
    "an absolute path": ({**QA, "image": "/etc/passwd"}, Rule.MISSING_IMAGE, "#/image"),
    "rows for an image": ({**QA, "image": "train.jsonl"}, Rule.MISSING_IMAGE, "#/image"),
    "an image on the network": ({**QA, "image": "https://example.com/a.png"}, Rule.REMOTE_IMAGE, "#/image"),
    "an image_url on the network": (
        with_url("http://127.0.0.1/a.png"),
        Rule.REMOTE_IMAGE,
        "#/messages/0/content/0/image_url/url",
    ),
    "a file: URL": ({**QA, "image": "file:///etc/passwd"}, Rule.REMOTE_IMAGE, "#/image"),
    "a data: URL without base64": (
        with_url("data:image/png,abc"),
        Rule.BAD_DATA_URL,
        "#/messages/0/content/0/image_url/url",
    ),
    "damaged base64": (with_url(PNG_URL + "abc$"), Rule.BAD_BASE64, "#/messages/0/content/0/image_url/url"),
    "base64 that is no ASCII": (with_url(PNG_URL + "äöü="), Rule.BAD_BASE64, "#/messages/0/content/0/image_url/url"),
    "base64 of text": (with_url(PNG_URL + "aGVsbG8="), Rule.UNSUPPORTED_IMAGE, "#/messages/0/content/0/image_url/url"),
    "no base64 at all": (with_url(PNG_URL), Rule.CORRUPT_IMAGE, "#/messages/0/content/0/image_url/url"),
    "an empty image": ({**QA, "image": "bad/empty.png"}, Rule.CORRUPT_IMAGE, "#/image"),
    "a truncated image": ({**QA, "image": "bad/cut.png"}, Rule.CORRUPT_IMAGE, "#/image"),
    "a truncated JPEG": ({**QA, "image": "bad/cut.jpg"}, Rule.CORRUPT_IMAGE, "#/image"),
    "a GIF": ({**QA, "image": "bad/a.gif"}, Rule.UNSUPPORTED_IMAGE, "#/image"),
    "text named PNG": (chat(USER, ANSWER, images=["bad/text.png"]), Rule.UNSUPPORTED_IMAGE, "#/images/0"),
    "a decompression bomb": ({**QA, "image": "bad/bomb.png"}, Rule.IMAGE_TOO_LARGE, "#/image"),
    "a bomb beyond Pillow's own bound": ({**QA, "image": "bad/huge.png"}, Rule.IMAGE_TOO_LARGE, "#/image"),
    "a side that is too long": ({**QA, "image": "bad/long.png"}, Rule.IMAGE_TOO_LARGE, "#/image"),
    "a file that is too large": ({**QA, "image": "bad/fat.png"}, Rule.IMAGE_TOO_LARGE, "#/image"),
    "a side that is too short": ({**QA, "image": "bad/small.png"}, Rule.IMAGE_TOO_SMALL, "#/image"),
}


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


class TestWarnings:
    """What does not refuse the data set."""

    def found(self, report):
        assert report.digest is not None
        return [(issue.rule, issue.row, issue.pointer) for issue in report.issues]

    def test_few_rows(self, make, check):
        assert self.found(check(make.good_zip(9))) == [(Rule.FEW_ROWS, None, "#"), (Rule.NO_VALIDATION, None, "#")]

    def test_a_byte_order_mark(self, make, check):
        files = {f"images/{i}.png": make.image(i) for i in range(20)}
        data = make.zip(files | {"train.jsonl": b"\xef\xbb\xbf" + make.lines(make.rows(20))})
        assert self.found(check(data)) == [(Rule.BOM, 1, "#")]

    def test_a_byte_order_mark_alone_on_its_line_is_no_row(self, make, check):
        files = {f"images/{i}.png": make.image(i) for i in range(20)}
        report = check(make.zip(files | {"train.jsonl": b"\xef\xbb\xbf\n" + make.lines(make.rows(20))}))
        assert self.found(report) == [(Rule.BOM, 1, "#")]
        assert report.rows.model_dump() == {"read": 20, "kept": 20, "refused": 0}

    def test_a_duplicate_example(self, make, check):
        report = check(make.good_zip(20, rows=[{**QA, "answer": "0"}]))
        assert self.found(report) == [(Rule.DUPLICATE_EXAMPLE, 21, "#")]
        assert 'row 1 of "train.jsonl"' in report.issues[0].message

    def test_an_image_in_both_splits(self, make, check):
        rows = [{**QA, "split": "train"}, {**QA, "answer": "8", "split": "validation"}]
        assert self.found(check(make.good_zip(20, rows=rows))) == [(Rule.SPLIT_LEAK, 22, "#/split")]

    @pytest.mark.parametrize("first", [None, "validation"])
    def test_a_row_without_a_split_leaks_into_validation_as_well_as_one_that_says_train(self, make, check, first):
        """To mark the validation rows alone is the usual way; then nothing told that an image was on both sides."""
        second = "validation" if first is None else None
        splits = [{"split": split} if split else {} for split in (first, second)]
        pair = [{**QA, "image": "shared.png", "answer": str(i), **split} for i, split in enumerate(splits)]
        report = check(make.good_zip(20, rows=pair, files={"shared.png": make.image(99)}))
        assert self.found(report) == [(Rule.SPLIT_LEAK, 22, "#/split")]

    def test_a_field_that_is_not_used_is_said_once(self, make, check):
        rows = [{**row, "id": i} for i, row in enumerate(make.rows(20))]
        files = {f"images/{i}.png": make.image(i) for i in range(20)}
        data = make.zip(files | {"train.jsonl": make.lines(rows)})
        assert self.found(check(data)) == [(Rule.IGNORED_FIELD, 1, "#/id")]

    def test_a_field_of_a_text_part_that_is_not_used_is_said(self, make, check):
        content = [{"type": "image"}, {"type": "text", "text": "Which?", "cache_control": {}}]
        report = check(make.good_zip(20, rows=[chat({"role": "user", "content": content}, ANSWER)]))
        assert self.found(report) == [(Rule.IGNORED_FIELD, 21, "#/messages/0/content/1/cache_control")]

    def test_what_stands_on_both_sides_of_an_image_is_no_token(self, make, check):
        content = [{"type": "text", "text": "<ima"}, {"type": "image"}, {"type": "text", "text": "ge>"}]
        assert self.found(check(make.good_zip(20, rows=[chat({"role": "user", "content": content}, ANSWER)]))) == []

    def test_of_very_many_fields_that_are_not_used_some_are_named(self, make, check):
        rows = [{**row, **{f"f{i}": 0 for i in range(50)}} for row in make.rows(20)]
        files = {f"images/{i}.png": make.image(i) for i in range(20)}
        report = check(make.zip(files | {"a.jsonl": make.lines(rows)}), max_kept_per_rule=10)
        assert report.counts.by_rule == {Rule.IGNORED_FIELD: 11}
        assert "more" not in report.issues[8].message

    def test_the_pointer_of_an_endless_key_is_short(self, make, check):
        report = check(make.good_zip(20, rows=[{**QA, "answer": "x", "k" * 1_000_000: 1}]))
        assert [issue.rule for issue in report.issues] == [Rule.IGNORED_FIELD]
        assert len(report.model_dump_json()) < 10_000

    def test_a_note_is_said_at_the_first_row_also_while_later_rows_are_begun(self, make, check):
        turned = make.image(
            kind="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
        )
        rows = [{**QA, "image": "turned.jpg"}, with_url("data:image/jpeg;base64," + base64.b64encode(turned).decode())]
        report = check(make.good_zip(20, rows=rows, files={"turned.jpg": turned}))
        assert (Rule.IMAGE_ROTATED, 21, "#/image") in self.found(report)
        assert report.counts.by_rule[Rule.IMAGE_ROTATED] == 1

    def test_a_key_is_escaped_in_its_pointer(self, make, check):
        report = check(make.good_zip(20, rows=[{**QA, "a/b~c": 1, "answer": "x"}]))
        assert self.found(report) == [(Rule.IGNORED_FIELD, 21, "#/a~1b~0c")]

    def test_the_detail_that_openai_knows_is_said_to_be_the_jobs(self, make, check):
        row = with_url("data:image/png;base64," + base64.b64encode(make.image(99)).decode())
        row["messages"][0]["content"][0]["image_url"]["detail"] = "low"
        report = check(
            make.good_zip(
                20, rows=[row, row | {"messages": [*row["messages"], {"role": "user", "content": "And?"}, ANSWER]}]
            )
        )
        assert self.found(report) == [(Rule.IGNORED_FIELD, 21, "#/messages/0/content/0/image_url/detail")]
        assert "image.split" in report.issues[0].fix

    def test_a_last_turn_without_answer(self, make, check):
        row = chat(USER, ANSWER, {"role": "user", "content": "And now?"})
        assert self.found(check(make.good_zip(20, rows=[row]))) == [(Rule.UNANSWERED_TURN, 21, "#/messages/2")]

    def test_a_media_type_that_is_not_that_of_the_bytes(self, make, check):
        row = with_url("data:image/jpeg;base64," + base64.b64encode(make.image(99)).decode())
        report = check(make.good_zip(20, rows=[row]))
        assert self.found(report) == [(Rule.MIME_MISMATCH, 21, "#/messages/0/content/0/image_url/url")]

    def test_files_that_no_row_names(self, make, check):
        report = check(make.good_zip(20, files={"notes.txt": b"hello"}))
        assert self.found(report) == [(Rule.UNUSED_FILES, None, "#")]

    def test_rows_that_all_share_one_image_cannot_be_split(self, make, check):
        rows = [{**QA, "answer": str(i)} for i in range(20)]
        data = make.zip({"images/0.png": make.image(), "train.jsonl": make.lines(rows)})
        assert self.found(check(data)) == [(Rule.NO_VALIDATION, None, "#")]
