import hashlib

import pytest

from core.errors import WorkFailed
from ingest.repaired import members
from vlm.conversation import Example, Message, TextPart, write_examples


@pytest.fixture
def folder(tmp_path, make):
    """A table of one row about one image; the image lies beside it."""
    data = make.image()
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / sha256).write_bytes(data)
    turns = (Message(role="assistant", content=(TextPart(text="7"),)),)
    write_examples(tmp_path, iter([Example(row=1, split="train", messages=turns, images=(sha256,))]))
    return tmp_path


def _written(folder, change=lambda data: data):
    read = members(folder, lambda sha256: iter([change((folder / sha256).read_bytes())]))
    return {name: b"".join(chunks) for name, chunks in read}


def test_an_image_is_written_under_its_digest_and_its_kind(folder):
    names = list(_written(folder))
    assert names[0].startswith("images/")
    assert names[0].endswith(".png")
    assert names[1:] == ["data.jsonl"]


def test_an_image_that_is_not_what_its_name_says_ends_the_writing(folder):
    with pytest.raises(WorkFailed, match="is damaged"):
        _written(folder, change=lambda data: data[:-1])
