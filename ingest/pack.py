"""The images of a validation, one behind the other in one file: creating a file for each takes longer than decoding it."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

PACK_FILE = "images.pack"
INDEX_FILE = "images.parquet"

_SCHEMA = pa.schema([("sha256", pa.binary(32)), ("start", pa.uint64()), ("size_bytes", pa.uint64())])
_BATCH = 10_000

Entry = tuple[bytes, int, int]  # sha256, where it starts, its size in bytes


def write_index(folder: Path, entries: Iterable[Entry]) -> None:
    """Write which images of the pack belong to the data set, and where in it they lie."""
    rest = iter(entries)
    with pq.ParquetWriter(folder / INDEX_FILE, _SCHEMA) as index:
        while batch := list(islice(rest, _BATCH)):
            columns = map(pa.array, zip(*batch, strict=True), _SCHEMA.types)
            index.write_batch(pa.record_batch(list(columns), schema=_SCHEMA))


def packed_images(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the sha256 and the bytes of each image of the data set, one at a time."""
    with (folder / PACK_FILE).open("rb") as pack, pq.ParquetFile(folder / INDEX_FILE) as index:
        for batch in index.iter_batches(batch_size=_BATCH):
            for entry in batch.to_pylist():
                yield entry["sha256"].hex(), _read(pack, entry["start"], entry["size_bytes"])


def _read(pack: IO[bytes], start: int, size_bytes: int) -> bytes:
    pack.seek(start)
    return pack.read(size_bytes)
