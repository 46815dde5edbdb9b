"""Take a row, or a sample, from the table of examples without holding the rest of it. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlm.conversation import SCHEMA, Example, as_example

_ROW = SCHEMA.get_field_index("row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What was found.

    Attributes:
        examples: Every example of this row, each of another file of the upload. Else empty.
        first_row: The lowest row of the table; 0 when the table is empty.
        last_row: The highest.
    """

    examples: tuple[Example, ...]
    first_row: int
    last_row: int


def look_up(stream: IO[bytes], row: int) -> Lookup:
    """Return the examples of a row, in stored order.

    Reads the footer, and of the table only the groups of rows whose range holds `row`, one at a time.

    Args:
        stream: `records.parquet`, to seek and read in.
        row: As in `Example.row`.
    """
    with pq.ParquetFile(stream) as table:
        ranges = [_range(table, group) for group in range(table.num_row_groups)]
        examples = tuple(
            example
            for group, (first, last) in enumerate(ranges)
            if first <= row <= last
            for example in _examples(table, group, row)
        )
    return Lookup(
        examples=examples,
        first_row=min((first for first, _ in ranges), default=0),
        last_row=max((last for _, last in ranges), default=0),
    )


def sample(stream: IO[bytes], at_most: int) -> Iterator[Example]:
    """Yield examples taken evenly from the table, all of them when there are no more than `at_most`.

    One group of rows is in memory at a time, and a group of which nothing is taken is not read.
    """
    with pq.ParquetFile(stream) as table:
        num_rows, start = table.metadata.num_rows, 0
        taken = min(at_most, num_rows)
        places = [index * num_rows // taken for index in range(taken)]
        for group in range(table.num_row_groups):
            end = start + table.metadata.row_group(group).num_rows
            inside = [place - start for place in places if start <= place < end]
            if inside:
                yield from map(as_example, table.read_row_group(group).take(inside).to_pylist())
            start = end


def _range(table: pq.ParquetFile, group: int) -> tuple[int, int]:
    statistics = table.metadata.row_group(group).column(_ROW).statistics
    if statistics is not None and statistics.has_min_max:
        return int(statistics.min), int(statistics.max)
    found = pc.min_max(table.read_row_group(group, columns=["row"])["row"]).as_py()
    return int(found["min"]), int(found["max"])


def _examples(table: pq.ParquetFile, group: int, row: int) -> Iterator[Example]:
    for found in table.read_row_group(group).filter(pc.field("row") == row).to_pylist():
        yield as_example(found)
