"""Parquet with embedded images, as Hugging Face writes it: a struct of `bytes` and `path`, or plain bytes."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from ingest.columns import escape
from ingest.issues import Finding, Rule, SourceFault, shown
from ingest.limits import Limits
from ingest.sources import RowsOnly, SourceRow

_BATCH_ROWS = 16  # 16 rows of ten 10 MiB images still fit into the child's address space
_ERRORS = (pa.ArrowException, ValueError, TypeError, OSError, OverflowError)


class ParquetSource(RowsOnly):
    """A Parquet file; its rows count from 1."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        super().__init__("a Parquet file")
        try:
            self._file = pq.ParquetFile(stream, pre_buffer=False, arrow_extensions_enabled=True)
            metadata = self._file.metadata
            declared = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        except _ERRORS as error:
            raise SourceFault(_unreadable(error)) from error
        if declared > limits.max_total_bytes:
            raise SourceFault(
                Finding(
                    rule=Rule.TOO_MUCH_DATA,
                    message=f"the file unpacks to {declared:,} bytes; at most {limits.max_total_bytes:,} are taken.",
                    fix="Split it into several data sets.",
                )
            )
        _refuse_twins(pa.struct(list(self._file.schema_arrow)))

    def count_rows(self) -> int:
        """Return the number of rows that the footer declares."""
        return int(self._file.metadata.num_rows)

    def rows(self) -> Iterator[SourceRow]:
        """Yield every row as the object that its JSON form would be; columns that are null are left out."""
        number = 0
        try:
            decode = _decoder(pa.struct(list(self._file.schema_arrow)))
            for batch in self._file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                for value in batch.to_pylist():
                    decoded = _without_nulls(decode(value))
                    number += 1
                    yield SourceRow(row=number, file=None, value=decoded)
        except _ERRORS as error:
            raise SourceFault(_unreadable(error), row=number + 1) from error


def _refuse_twins(kind: pa.DataType, pointer: str = "#") -> None:
    """Raise `SourceFault` when two columns, or two fields inside of one, have the same name: either could be meant."""
    if pa.types.is_struct(kind):
        counts = Counter(field.name for field in kind)
        for field in kind:
            at = f"{pointer}/{escape(field.name)}"
            if counts[field.name] > 1:
                what = "columns" if pointer == "#" else "fields"
                message = f"several {what} have the name {shown(field.name)}, and nothing says which is meant."
                fix = "Rename one of them or leave it out, and write the file again."
                raise SourceFault(Finding(rule=Rule.UNREADABLE, pointer=at, message=message, fix=fix))
            _refuse_twins(field.type, at)
    elif pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        _refuse_twins(kind.value_type, pointer)


def _decoder(kind: pa.DataType) -> Callable[[Any], Any]:
    """Return what reads values of a type: text that Parquet says is JSON becomes what it stands for."""
    if isinstance(kind, pa.JsonType):
        return lambda value: value if value is None else from_json(value)
    if pa.types.is_struct(kind):
        fields = {field.name: _decoder(field.type) for field in kind}
        wanted = {name: decode for name, decode in fields.items() if decode is not _same}
        if wanted:
            return lambda row: row and row | {name: decode(row[name]) for name, decode in wanted.items()}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        decode = _decoder(kind.value_type)
        if decode is not _same:
            return lambda items: items and [decode(item) for item in items]
    return _same


def _same(value: Any) -> Any:
    return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _unreadable(error: Exception) -> Finding:
    return Finding(
        rule=Rule.UNREADABLE,
        message=f"the Parquet file cannot be read ({type(error).__name__}): it is cut off or damaged.",
        fix="Write the file again and upload it again.",
    )
