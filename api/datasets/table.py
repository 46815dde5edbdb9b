"""The table of a ready data set as the API reads it: a local copy, never whole in memory.

A copy is a folder in the cache of the data directory, named by data set and digest: two data sets of the same digest may
have their rows elsewhere. It holds the table and, sorted, the sha256 of every picture that the table names.
"""

import shutil
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.cache import CacheFolder
from core.ids import Prefix, new_id
from core.storage import Storage
from models.dataset import Dataset
from vlm.conversation import RECORDS_FILE, Example, Split, as_example

NAMES_FILE = "images.sha256"
DIGEST_BYTES = 32
MAX_SCANNED_ROWS = 100_000  # for one page; a rare match in millions of rows must not hold a thread for minutes
_LIGHT = ["row", "file", "split", "images"]  # the columns without the texts

Place = tuple[str | None, int]  # file and row


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which examples are wanted; None of everything is all of them."""

    split: Split | None = None
    places: frozenset[Place] | None = None
    min_chars: int | None = None
    max_chars: int | None = None
    num_images: int | None = None

    def among(self, rows: pa.Table) -> Iterator[int]:
        """Yield the offsets of the rows that everything but their texts speaks for."""
        mask = pc.is_valid(rows["row"])
        if self.split is not None:
            mask = pc.and_(mask, pc.equal(rows["split"], self.split))
        if self.num_images is not None:
            mask = pc.and_(mask, pc.equal(pc.list_value_length(rows["images"]), self.num_images))
        for offset in pc.indices_nonzero(mask).to_pylist():
            if self.places is None or (rows["file"][offset].as_py(), rows["row"][offset].as_py()) in self.places:
                yield offset

    def fits(self, num_chars: int) -> bool:
        """Tell whether answers of this length are wanted."""
        return (self.min_chars or 0) <= num_chars and (self.max_chars is None or num_chars <= self.max_chars)


class Table:
    """The local copy of one table."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of(cls, dataset: Dataset, *, cache: CacheFolder, storage: Storage) -> "Table":
        """Return the copy, brought here on first use and made whole under a temporary name."""
        assert dataset.digest is not None
        target = _place(dataset, cache)
        if not cache.use(target):
            temporary = target.with_name(f"{target.name}.{new_id(Prefix.REQUEST)}")
            try:
                temporary.mkdir()
                storage.fetch(dataset.records_key(dataset.digest), temporary / RECORDS_FILE)
                (temporary / NAMES_FILE).write_bytes(_sorted_names(temporary / RECORDS_FILE).tobytes())
                _settle(temporary, target)
                cache.add(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return cls(target)

    @staticmethod
    def forget(dataset: Dataset, *, cache: CacheFolder) -> None:
        """Remove the copy of a data set's table from this machine, if there is one."""
        shutil.rmtree(_place(dataset, cache), ignore_errors=True)

    def page(self, wanted: Wanted, *, start: int, limit: int) -> tuple[list[Example], int | None]:
        """Return up to `limit` examples from the position `start` on, and the position to go on at; None at the end.

        There may be fewer, also none, with a position to go on at: one page reads at most `MAX_SCANNED_ROWS`.
        """
        found: list[Example] = []
        with pq.ParquetFile(self._folder / RECORDS_FILE) as table:
            stop = start + MAX_SCANNED_ROWS
            for group, first in _groups(table.metadata, start):
                if first >= stop:
                    return found, first
                for offset, example in _examples(table, group, wanted, skip=max(0, start - first)):
                    found.append(example)
                    if len(found) == limit:
                        following = first + offset + 1
                        return found, following if following < table.metadata.num_rows else None
        return found, None

    def names_image(self, sha256: str) -> bool:
        """Tell whether an example has this picture."""
        path, wanted = self._folder / NAMES_FILE, bytes.fromhex(sha256)
        with path.open("rb") as names:

            def name_at(index: int) -> bytes:
                names.seek(index * DIGEST_BYTES)
                return names.read(DIGEST_BYTES)

            place = bisect_left(range(path.stat().st_size // DIGEST_BYTES), wanted, key=name_at)
            return name_at(place) == wanted


def _place(dataset: Dataset, cache: CacheFolder) -> Path:
    return cache.folder / f"{dataset.id}-{dataset.digest}"


def num_answer_chars(example: Example) -> int:
    """Return the characters of the answers that are learned from."""
    return sum(len(turn.text) for turn in example.messages if turn.role == "assistant" and turn.weight)


def _groups(metadata: pq.FileMetaData, start: int) -> Iterator[tuple[int, int]]:
    """Yield each row group that ends behind `start`, with the position of its first row."""
    first = 0
    for group in range(metadata.num_row_groups):
        num_rows = metadata.row_group(group).num_rows
        if first + num_rows > start:
            yield group, first
        first += num_rows


def _examples(table: pq.ParquetFile, group: int, wanted: Wanted, *, skip: int) -> Iterator[tuple[int, Example]]:
    """Yield the wanted examples of a row group with their offsets in it; the texts are read only where one is."""
    light = table.read_row_group(group, columns=_LIGHT)
    texts = None
    for offset in wanted.among(light):
        if offset < skip:
            continue
        if texts is None:
            texts = table.read_row_group(group, columns=["messages"])["messages"]
        row = light.slice(offset, 1).to_pylist()[0]
        example = as_example(row | {"messages": texts[offset].as_py()})
        if wanted.fits(num_answer_chars(example)):
            yield offset, example


def _sorted_names(path: Path) -> npt.NDArray[np.bytes_]:
    """Return the sha256 of every picture, each once; 32 bytes each, and not the whole column at once."""
    names = [np.empty(0, dtype=f"S{DIGEST_BYTES}")]
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(columns=["images"]):
            digests = bytes.fromhex("".join(pc.unique(batch["images"].flatten()).to_pylist()))
            names.append(np.frombuffer(digests, dtype=f"S{DIGEST_BYTES}"))
    return np.unique(np.concatenate(names))


def _settle(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.exists():  # else another request was faster; its folder holds the same bytes
            raise
