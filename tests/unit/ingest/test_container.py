import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import Invalid
from ingest.container import Container, sniff


def _refusal(data: bytes, filename: str | None = None) -> Invalid:
    with pytest.raises(Invalid) as caught:
        sniff(io.BytesIO(data), filename)
    assert caught.value.errors[0].pointer == "#/file"
    assert "Traceback" not in caught.value.detail
    return caught.value


def test_a_zip_with_rows_is_a_zip_and_the_stream_is_left_at_its_start(make):
    stream = io.BytesIO(make.good_zip())
    assert sniff(stream) is Container.ZIP
    assert stream.tell() == 0


def test_json_lines_are_jsonl_also_after_a_byte_order_mark():
    assert sniff(io.BytesIO(b'{"a": 1}\n')) is Container.JSONL
    assert sniff(io.BytesIO(b'\xef\xbb\xbf\n {"a": 1}\n')) is Container.JSONL


def test_a_line_that_is_no_json_is_left_to_validation_when_the_name_says_jsonl():
    assert sniff(io.BytesIO(b"hello\n"), "train.JSONL") is Container.JSONL
    assert "first line" in _refusal(b"hello\n", "train.txt").detail


def test_parquet_is_known_by_both_its_ends():
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    assert sniff(io.BytesIO(sink.getvalue())) is Container.PARQUET
    assert "cut off" in _refusal(sink.getvalue()[:-3]).detail


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b" \n\n", "white space"),
        (b"7z\xbc\xaf\x27\x1c\x00", "7z"),
        (b"\x89PNG\r\n\x1a\n", "PNG image"),
        (b"\xff\xd8\xff\xe0", "JPEG image"),
        (b"%PDF-1.7", "PDF"),
        (b"<!doctype html><html>", "HTML"),
        (b'[{"a": 1}]', "JSON array"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ('{"a": 1}'.encode("utf-16-be"), "binary"),
        (b"\x00\x01\x02", "binary"),
        (b"PK\x07\x08rest", "split over several files"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_refused_with_what_it_is_and_what_is_taken(data, says):
    detail = _refusal(data, "data.jsonl").detail
    assert says in detail
    assert "Taken are" in detail


def test_looking_at_a_container_imports_neither_pillow_nor_pyarrow_nor_torch():
    code = (
        "import sys, io, ingest.container as c; c.sniff(io.BytesIO(b'{}'));"
        "print([m for m in ('PIL', 'pyarrow', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_validation_never_imports_torch():
    code = (
        "import sys, ingest.run, ingest.parquet, ingest.archive;"
        "print([m for m in ('torch', 'transformers', 'trl', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
