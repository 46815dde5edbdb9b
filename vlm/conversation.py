"""Examples as every family of model takes them: a conversation and its images, and the table that stores them.

Torch-free. `ingest` writes the table, `training` reads it; neither knows the other.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

RECORDS_FILE = "records.parquet"
IMAGES_FOLDER = "images"

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # the line of the source, from 1
        ("file", pa.string()),  # that holds the line, where the upload has several
        ("split", pa.string()),  # train or validation
        ("messages", pa.string()),  # JSON of `list[Message]`
        ("images", pa.list_(pa.string())),  # sha256 of each image, in order of appearance
    ]
)

Row = dict[str, object]  # of the table, one value per column

Split = Literal["train", "validation"]
Role = Literal["system", "user", "assistant"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Part):
    """A run of text."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(_Part):
    """The place of the next image of the example."""

    type: Literal["image"] = "image"


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Part):
    """One turn of a conversation. An assistant turn of weight 0 is context and carries no loss."""

    role: Role
    content: tuple[Part, ...]
    weight: Literal[0, 1] = 1

    @property
    def text(self) -> str:
        """Return the turn's text, its parts joined."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


class Example(_Part):
    """One row: where it came from, its conversation, and the sha256 of each image in order of appearance."""

    row: int
    file: str | None = None
    split: Split
    messages: tuple[Message, ...]
    images: tuple[str, ...]


def as_chat(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    """Return messages in the form that `processor.apply_chat_template` takes."""
    return [{"role": m.role, "content": [part.model_dump() for part in m.content]} for m in messages]


def write_examples(folder: Path, examples: Iterator[Example], *, batch_size: int = 1000) -> int:
    """Write `records.parquet` in batches and return the number of rows."""
    return write_rows(folder, map(_to_row, examples), batch_size=batch_size)


def write_rows(folder: Path, rows: Iterable[Row], *, batch_size: int = 1000) -> int:
    """Write `records.parquet` from rows of its own form (`SCHEMA`), in batches, and return their number."""
    written = 0
    with pq.ParquetWriter(folder / RECORDS_FILE, SCHEMA) as writer:
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) == batch_size:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
                written += len(batch)
                batch = []
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
    return written + len(batch)


def read_examples(folder: Path, *, split: Split | None = None) -> list[Example]:
    """Read `records.parquet`, all of it or one split, in stored order."""
    rows = pq.read_table(folder / RECORDS_FILE, schema=SCHEMA).to_pylist()
    return [as_example(row) for row in rows if split is None or row["split"] == split]


def each_example(folder: Path) -> Iterator[Example]:
    """Yield the rows of `records.parquet` in stored order, without holding the table."""
    with pq.ParquetFile(folder / RECORDS_FILE) as table:
        for batch in table.iter_batches():
            yield from map(as_example, batch.to_pylist())


def _to_row(example: Example) -> Row:
    messages = json.dumps([m.model_dump(mode="json") for m in example.messages], ensure_ascii=False, sort_keys=True)
    return example.model_dump(include={"row", "file", "split"}) | {"messages": messages, "images": list(example.images)}


def as_example(row: Row) -> Example:
    """Return a row of the table as it was written."""
    return Example.model_validate({**row, "messages": json.loads(str(row["messages"]))})


def read_image_names(folder: Path) -> set[str]:
    """Return the sha256 of every image that the table names."""
    column = pq.read_table(folder / RECORDS_FILE, columns=["images"])["images"]
    return {name for names in column.to_pylist() for name in names}
