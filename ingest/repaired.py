"""A validated data set as an upload without faults: what was mended stays mended, what was refused is not there.

Uploaded again, it has no errors and nothing to mend, and its digest is the same.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from core.errors import FailureCode, WorkFailed
from ingest.images import mime_of
from vlm.conversation import IMAGES_FOLDER, Example, Message, each_example, read_image_names

ROWS_FILE = "data.jsonl"
_SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


def members(folder: Path, read_image: Callable[[str], Iterator[bytes]]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield the names and the bytes of the files: every image once, then the rows, which name them.

    Args:
        folder: holds `records.parquet`.
        read_image: returns the bytes of the image with a sha256.

    Raises:
        WorkFailed: an image is not what its name says.
    """
    names: dict[str, str] = {}
    for sha256 in sorted(read_image_names(folder)):
        chunks = read_image(sha256)
        first = next(chunks, b"")
        names[sha256] = f"{IMAGES_FOLDER}/{sha256}.{_SUFFIXES.get(mime_of(first) or '', 'bin')}"
        yield names[sha256], _verified(sha256, chain([first], chunks))
    yield ROWS_FILE, (_line(example, names) for example in each_example(folder))


def _verified(sha256: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != sha256:
        raise WorkFailed(
            FailureCode.STORAGE,
            f"The stored image {sha256} is damaged.",
            remedy="Upload the data set again; check the disk or the object store.",
        )


def _line(example: Example, names: dict[str, str]) -> bytes:
    row = {
        "images": [names[sha256] for sha256 in example.images],
        "messages": [_message(message) for message in example.messages],
        "split": example.split,
    }
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _message(message: Message) -> dict[str, object]:
    said: dict[str, object] = message.model_dump(mode="json")
    if message.role != "assistant":
        del said["weight"]  # only answers have one
    return said
