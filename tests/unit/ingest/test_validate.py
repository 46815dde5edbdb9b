import base64
import io
import json
import unicodedata
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.container import Container
from ingest.forms import CAPTION_PROMPT
from ingest.issues import Rule
from ingest.pack import packed_images
from ingest.validate import validate
from vlm.conversation import ImagePart, TextPart, read_examples

PNG_URL = "data:image/png;base64,"


def _url(data: bytes) -> str:
    return PNG_URL + base64.b64encode(data).decode()


def _clean(report):
    assert report.issues == []
    assert report.num_issues == 0
    return report


def _examples(tmp_path, out="out"):
    return read_examples(tmp_path / out)


def _parts(example):
    return [(m.role, [p.text if isinstance(p, TextPart) else "IMAGE" for p in m.content]) for m in example.messages]


def test_a_clean_zip_of_questions_has_no_issue_and_becomes_the_canonical_form(make, check, tmp_path):
    report = _clean(check(make.good_zip(20)))
    examples = _examples(tmp_path)
    assert report.rows.model_dump() == {"read": 20, "kept": 20, "refused": 0}
    assert report.splits == {"train": 18, "validation": 2}
    assert [example.row for example in examples] == list(range(1, 21))
    assert _parts(examples[3]) == [("user", ["IMAGE", "Which?"]), ("assistant", ["3"])]
    assert dict(packed_images(tmp_path / "out")).keys() == {sha256 for example in examples for sha256 in example.images}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "images.pack",
        "images.parquet",
        "records.parquet",
        "report.json",
        "sizes.json",
    ]


def test_the_report_is_written_as_it_is_returned(make, check, tmp_path):
    report = check(make.good_zip(20, rows=[b"{"]))
    document = json.loads((tmp_path / "out/report.json").read_text())
    assert document == report.model_dump(mode="json")
    assert (document["num_issues"], document["num_errors"]) == (1, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images.pack", "report.json"]


def test_a_clean_zip_of_captions_asks_the_fixed_question(make, check, tmp_path):
    rows = [{"image": f"{i}.png", "caption": f"Number {i}."} for i in range(12)]
    files = {f"{i}.png": make.image(i) for i in range(12)}
    _clean(check(make.zip(files | {"rows.jsonl": make.lines(rows)})))
    assert _parts(_examples(tmp_path)[5]) == [("user", ["IMAGE", CAPTION_PROMPT]), ("assistant", ["Number 5."])]


def test_a_clean_zip_of_conversations_keeps_turns_weights_and_the_order_of_images(make, check, tmp_path):
    def row(i):
        return {
            "images": [f"{i}.png", f"{i + 1}.png"],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And"}, {"type": "image"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "First."}], "weight": 0},
                {"role": "user", "content": "Sure?"},
                {"role": "assistant", "content": "Yes."},
            ],
            "split": "validation" if i > 20 else "train",
        }

    rows = [row(i) for i in range(0, 24, 2)]
    files = {f"{i}.png": make.image(i) for i in range(24)}
    report = _clean(check(make.zip(files | {"rows.jsonl": make.lines(rows)})))
    example = _examples(tmp_path)[1]
    assert report.splits == {"train": 11, "validation": 1}
    assert [message.weight for message in example.messages] == [1, 1, 0, 1, 1]
    assert _parts(example)[1] == ("user", ["IMAGE", "And", "IMAGE"])
    stored = dict(packed_images(tmp_path / "out"))
    assert stored[example.images[0]] == files["2.png"]
    assert stored[example.images[1]] == files["3.png"]


def test_clean_rows_without_images_are_taken_as_text(make, check, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "Yes."}]}
        for i in range(20)
    ]
    report = _clean(check(make.lines(rows)))
    assert report.splits == {"train": 18, "validation": 2}
    assert _examples(tmp_path)[0].images == ()


def test_a_clean_bare_jsonl_in_the_openai_vision_form(make, check, tmp_path):
    def row(i):
        image = {"type": "image_url", "image_url": {"url": _url(make.image(i)), "detail": "auto"}}
        user = {"role": "user", "content": [{"type": "text", "text": "What?"}, image]}
        return {"messages": [user, {"role": "assistant", "content": str(i), "weight": 1}]}

    _clean(check(make.lines([row(i) for i in range(12)])))
    assert _parts(_examples(tmp_path)[11]) == [("user", ["What?", "IMAGE"]), ("assistant", ["11"])]


def _parquet(columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_a_clean_parquet_with_images_as_hugging_face_embeds_them(make, check, tmp_path):
    images = [{"bytes": make.image(i), "path": None} for i in range(12)]
    texts = [str(i) for i in range(12)]
    report = _clean(
        check(_parquet({"image": images, "question": texts, "answer": texts, "split": [None] * 11 + ["train"]}))
    )
    assert report.container is Container.PARQUET
    assert _parts(_examples(tmp_path)[11]) == [("user", ["IMAGE", "11"]), ("assistant", ["11"])]


def test_a_clean_parquet_with_messages_and_images_as_bytes(make, check, tmp_path):
    user = {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "That."}]}
    columns = {"images": [[make.image(i)] for i in range(12)], "messages": [[user, answer]] * 12}
    _clean(check(_parquet(columns)))
    assert isinstance(_examples(tmp_path)[0].messages[0].content[0], ImagePart)


def _as_json(*texts):
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def test_json_inside_of_parquet_is_what_it_stands_for(make, check, tmp_path):
    """So `datasets` writes what Arrow has no type for: a content that is text here and a list of parts there."""
    parts = json.dumps([{"type": "image"}, {"type": "text", "text": "What?"}])
    turns = pa.StructArray.from_arrays(
        [pa.array(["user", "assistant"] * 12), _as_json(*[parts, '"That."'] * 12)], ["role", "content"]
    )
    messages = pa.ListArray.from_arrays(list(range(0, 25, 2)), turns)
    _clean(check(_parquet({"images": [[make.image(i)] for i in range(12)], "messages": messages})))
    assert _parts(_examples(tmp_path)[0]) == [("user", ["IMAGE", "What?"]), ("assistant", ["That."])]


def test_faults_in_a_parquet_are_found_at_their_row(make, check):
    images = [make.image(i) for i in range(9)] + [b"no image", None]
    texts = ["x"] * 8 + ["", "x", "x"]
    report = check(_parquet({"image": images, "question": ["?"] * 11, "answer": texts}))
    errors = [(issue.row, issue.rule, issue.pointer) for issue in report.issues if issue.severity == "error"]
    assert errors == [
        (9, Rule.EMPTY_ANSWER, "#/answer"),
        (10, Rule.UNSUPPORTED_IMAGE, "#/image"),
        (11, Rule.MISSING_FIELD, "#/image"),
    ]


@pytest.mark.parametrize("position", [0.2, 0.5, 0.8])
def test_a_damaged_parquet_is_an_issue_and_not_a_crash(make, check, position):
    data = bytearray(
        _parquet({"image": [make.image(i) for i in range(50)], "caption": [f"{i}" * 9 for i in range(50)]})
    )
    at = int(len(data) * position)
    data[at : at + 200] = b"\xff" * 200
    report = check(bytes(data), container=Container.PARQUET)
    assert report.num_errors > 0


def test_several_files_of_rows_are_read_in_the_order_of_their_names(make, check, tmp_path):
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    rows = make.rows(20)
    data = make.zip(files | {"b.jsonl": make.lines(rows[10:]), "a.jsonl": make.lines([*rows[:10], b"{"])})
    report = check(data)
    assert [(issue.file, issue.row) for issue in report.issues] == [("a.jsonl", 11)]
    assert report.rows.read == 21


def test_blank_lines_count_but_are_no_rows(make, check):
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    report = check(make.zip(files | {"a.jsonl": b"\n\r\n" + make.lines(make.rows(20)) + b"\n{\n"}))
    assert (report.rows.read, report.refusal.row) == (21, 24)


def test_a_zip_of_one_folder_finds_images_beside_its_rows(make, check):
    files = {f"digits/images/{i}.png": make.image(i) for i in range(20)}
    rows = [{**row, "image": "./" + row["image"]} for row in make.rows(20)]
    _clean(
        check(make.zip(files | {"digits/train.jsonl": make.lines(rows), "__MACOSX/digits/._train.jsonl": b"\x00\x05"}))
    )


def test_names_agree_whatever_their_unicode_form(make, check):
    files = {unicodedata.normalize("NFD", f"größe{i}.png"): make.image(i) for i in range(12)}
    rows = [{"image": unicodedata.normalize("NFC", f"größe{i}.png"), "caption": str(i)} for i in range(12)]
    _clean(check(make.zip(files | {"a.jsonl": make.lines(rows)})))


def test_utf8_names_are_found_in_a_zip_that_does_not_say_that_they_are(make, check):
    files = {f"größe{i}.png": make.image(i) for i in range(12)}
    rows = [{"image": name, "caption": name} for name in files]
    data = bytearray(make.zip(files | {"a.jsonl": make.lines(rows)}))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        headers = [info.header_offset for info in archive.infolist()]
        entry = archive.start_dir
    for header in headers:
        data[header + 7] &= ~0x08  # bit 11 of the flags
        data[entry + 9] &= ~0x08
        entry = data.find(b"PK\x01\x02", entry + 4)
    _clean(check(bytes(data)))


def test_each_distinct_image_is_stored_once(make, check, tmp_path):
    same = make.image(1)
    files = {"a.png": same, "b.png": same, "c.png": make.image(2)}
    rows = [{"image": f"{'abc'[i % 3]}.png", "caption": str(i)} for i in range(12)]
    report = check(make.zip(files | {"r.jsonl": make.lines(rows)}))
    assert report.statistics.num_images == 2
    assert len(list(packed_images(tmp_path / "out"))) == 2
    assert report.statistics.images_bytes == len(same) + len(files["c.png"])


def test_the_digest_and_the_split_do_not_depend_on_the_zip_around_the_data(make, check, tmp_path):
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    rows = make.lines(make.rows(20))
    one = check(make.zip({"train.jsonl": rows} | files), out="one")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in reversed([("other-name.jsonl", rows), *files.items()]):
            archive.writestr(zipfile.ZipInfo(name, date_time=(2001, 2, 3, 4, 5, 6)), data)
    other = check(buffer.getvalue(), out="other")
    assert one.digest == other.digest
    elsewhere = [example.model_copy(update={"file": "other-name.jsonl"}) for example in _examples(tmp_path, "one")]
    assert _examples(tmp_path, "other") == elsewhere, "only the place of a row is another"


@pytest.mark.parametrize("change", ["answer", "image", "seed", "order"])
def test_the_digest_changes_with_the_content(change, make, check):
    rows, files = make.rows(20), {f"images/{i}.png": make.image(i) for i in range(20)}
    before = check(make.zip(files | {"a.jsonl": make.lines(rows)}), out="before")
    if change == "answer":
        rows[7]["answer"] = "other"
    if change == "image":
        files["images/7.png"] = make.image(7, size=(20, 20))
    if change == "order":
        rows.reverse()
    after = check(make.zip(files | {"a.jsonl": make.lines(rows)}), out="after", seed=5 if change == "seed" else 0)
    assert before.digest != after.digest


def test_a_validation_split_of_the_user_is_kept_and_nothing_is_added(make, check, tmp_path):
    rows = make.rows(20)
    rows[3]["split"] = "validation"
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    report = _clean(check(make.zip(files | {"a.jsonl": make.lines(rows)})))
    assert report.splits == {"train": 19, "validation": 1}
    assert [example.row for example in _examples(tmp_path) if example.split == "validation"] == [4]


def test_rows_marked_train_stay_there_when_we_choose(make, check, tmp_path):
    rows = [{**row, "split": "train"} if i < 15 else row for i, row in enumerate(make.rows(20))]
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    _clean(check(make.zip(files | {"a.jsonl": make.lines(rows)})))
    chosen = [example.row for example in _examples(tmp_path) if example.split == "validation"]
    assert len(chosen) == 2
    assert min(chosen) > 15


def test_rows_that_share_an_image_go_to_the_same_split(make, check, tmp_path):
    rows = [{"image": f"{i // 4}.png", "question": str(i), "answer": "xyz"[i % 3]} for i in range(80)]
    files = {f"{i}.png": make.image(i) for i in range(20)}
    report = _clean(check(make.zip(files | {"a.jsonl": make.lines(rows)})))
    sides = {(example.images[0], example.split) for example in _examples(tmp_path)}
    assert len(sides) == 20
    assert report.splits == {"train": 72, "validation": 8}


def test_statistics_describe_the_good_rows(make, check):
    rows = [{"image": f"{i}.png", "question": "Which?", "answer": "cat" if i < 8 else "a dog"} for i in range(12)]
    files = {f"{i}.png": make.image(i, size=(10 + i, 40)) for i in range(12)}
    statistics = _clean(check(make.zip(files | {"a.jsonl": make.lines(rows)}))).statistics
    assert statistics.image_long_side_px.model_dump() == {"min": 40, "p50": 40, "p95": 40, "max": 40}
    assert statistics.image_short_side_px.model_dump() == {"min": 10, "p50": 15, "p95": 21, "max": 21}
    assert statistics.images_per_example.model_dump() == {"min": 1, "p50": 1, "p95": 1, "max": 1}
    assert statistics.question_chars.model_dump() == {"min": 6, "p50": 6, "p95": 6, "max": 6}
    assert statistics.answer_chars.model_dump() == {"min": 3, "p50": 3, "p95": 5, "max": 5}
    assert statistics.answer_chars_ratio == round(44 / (44 + 72), 4)
    assert [(label.answer, label.count) for label in statistics.labels.top] == [("cat", 8), ("a dog", 4)]


def test_progress_tells_the_rows_done_and_how_many_there_are(make, tmp_path):
    path, told = tmp_path / "upload", []
    path.write_bytes(make.good_zip(20))
    validate(path, Container.ZIP, tmp_path, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 20) for i in range(21)]


def test_progress_counts_a_last_line_without_a_line_feed(make, tmp_path):
    path, told = tmp_path / "upload", []
    path.write_bytes(make.lines([{"question": "?", "answer": str(i)} for i in range(12)]).rstrip(b"\n"))
    validate(path, Container.JSONL, tmp_path, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (12, 12)


def test_what_progress_raises_ends_the_validation_and_leaves_no_spool(make, tmp_path):
    path, out = tmp_path / "upload", tmp_path / "out"
    path.write_bytes(make.good_zip(20))
    out.mkdir()

    def stop(done: int, _total: int | None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate(path, Container.ZIP, out, on_progress=stop)
    assert [path.name for path in out.iterdir()] == ["images.pack"]


KEYS = st.sampled_from(
    [
        "image",
        "images",
        "question",
        "answer",
        "caption",
        "messages",
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "split",
        "weight",
    ]
)
WORDS = st.sampled_from(
    [
        "user",
        "assistant",
        "system",
        "image",
        "text",
        "image_url",
        "train",
        "validation",
        "a.png",
        PNG_URL,
        "data:",
        "<image>",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=6),
    max_leaves=25,
)
LINES = (
    st.dictionaries(KEYS, VALUES, max_size=6).map(lambda row: json.dumps(row).encode())
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60)
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=6))
def test_no_lines_whatsoever_crash_the_validator(make, tmp_path_factory, lines):
    folder: Path = tmp_path_factory.mktemp("fuzz")
    path = folder / "upload"
    path.write_bytes(make.zip({"a.png": make.image(), "a.jsonl": b"\n".join(lines)}))
    report = validate(path, Container.ZIP, folder)
    assert report.rows.kept + report.rows.refused == report.rows.read or report.counts.by_rule[Rule.NOT_UTF8]
    assert (report.digest is None) == (report.num_errors > 0)
