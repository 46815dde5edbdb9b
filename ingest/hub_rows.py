"""The rows of a data set of the Hub, written to one Parquet file; only its child imports this."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Image, List
from datasets.utils.file_utils import xopen

from ingest.hub_faults import faulty, is_strange
from ingest.limits import MIB, Limits

_GROUP_BYTES = 32 * MIB  # of a row group, which is in memory when it is written
_THREADS = 16  # pictures that are files of their own take a question each
_MAX_PICTURE_BYTES = Limits().max_image_bytes + 1  # one more, so that validation says that it is too large

Split = tuple[Any, str | None]


def write_rows(
    splits: list[Split], target: Path, *, prefix: str, max_bytes: int, batch_rows: int, check: Callable[[], None]
) -> int:
    """Write every row of some splits, and return how many there are.

    Args:
        splits: streams of `datasets`, each with what its rows get as their `split`; None: no such column.
        target: the file.
        prefix: how the paths of the repository's own files begin; others stay paths, and are not read.
        max_bytes: of the file.
        batch_rows: how many are in hand at once.
        check: asked after every few rows; it raises when the work should stop.

    Raises:
        WorkFailed: the file grows too large, or rows differ in their columns.
    """
    num_rows, writer = 0, None
    with target.open("wb") as out:
        try:
            for group in _groups(_tables(splits, prefix, batch_rows, check)):
                writer = writer or pq.ParquetWriter(out, group.schema, compression="zstd")
                writer.write_table(_as(writer.schema, group))
                num_rows += group.num_rows
                if out.tell() > max_bytes:
                    raise faulty(
                        f"has more than {max_bytes:,} bytes.",
                        "Name one split or configuration of it, or have the operator raise LENSMITH_MAX_UPLOAD_BYTES.",
                    )
        finally:
            if writer is not None:
                writer.close()
    return num_rows


def _tables(splits: list[Split], prefix: str, batch_rows: int, check: Callable[[], None]) -> Iterator[pa.Table]:
    for stream, label in splits:
        features = stream.features
        rows = stream if features is None else stream.decode(enable=False)
        for table in rows.with_format("arrow").iter(batch_size=batch_rows):
            check()
            if table.num_rows:
                yield _labelled(_plain(table, features or {}, prefix), label)


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join tables up to the size of a row group."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table if not waiting else _as(waiting[0].schema, table))
        if sum(one.nbytes for one in waiting) >= _GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_tables(waiting)


def _as(schema: pa.Schema, table: pa.Table) -> pa.Table:
    if table.schema.names != schema.names:
        raise faulty(
            f"has rows with the columns {', '.join(schema.names)} and rows with {', '.join(table.schema.names)}.",
            "Name one split or configuration of it.",
        )
    return table.cast(schema)


def _plain(table: pa.Table, features: Any, prefix: str) -> pa.Table:
    """Return a table as another program reads it: pictures as their bytes, labels as their names, no metadata."""
    for index, name in enumerate(table.column_names):
        column = table.column(name)
        match features.get(name):
            case Image():
                column = _pictures(column, prefix, is_list=False)
            case List(feature=Image()):
                column = _pictures(column, prefix, is_list=True)
            case ClassLabel(names=names):
                column = pa.array(
                    [names[i] if i is not None and 0 <= i < len(names) else None for i in column.to_pylist()],
                    pa.string(),
                )
        table = table.set_column(index, name, column)
    return table.replace_schema_metadata(None)


def _pictures(column: pa.ChunkedArray, prefix: str, *, is_list: bool) -> pa.Array | pa.ChunkedArray:
    """Return a column whose pictures that lie in files of the repository are replaced by what is in these files."""
    cells: list[Any] = column.to_pylist()
    pictures = [picture for cell in cells for picture in (cell or () if is_list else [cell])]
    wanted = [picture for picture in pictures if _is_a_file(picture, prefix)]
    if not wanted:
        return column
    with ThreadPoolExecutor(_THREADS) as pool:
        for picture, data in zip(wanted, pool.map(_read, [picture["path"] for picture in wanted]), strict=True):
            picture.update(bytes=data, path=picture["path"].partition("::")[0].rpartition("/")[2])
    return pa.array(cells, column.type)


def _is_a_file(picture: Any, prefix: str) -> bool:
    return (
        picture is not None
        and picture["bytes"] is None
        and picture["path"] is not None
        and not is_strange(picture["path"], prefix)
    )


def _read(path: str) -> bytes:
    with xopen(path, "rb") as stream:
        data: bytes = stream.read(_MAX_PICTURE_BYTES)
        return data


def _labelled(table: pa.Table, label: str | None) -> pa.Table:
    if label is None:
        return table
    if "split" in table.column_names:  # the Hub's own says more than a column of the same name
        table = table.drop_columns(["split"])
    return table.append_column("split", pa.array([label] * table.num_rows, pa.string()))
