"""Parquet with embedded images, as Hugging Face writes it: a struct of `bytes` and `path`, or plain bytes."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from ingest.columns import escape
from ingest.issues import Finding, Rule, SourceFault, shown
from ingest.limits import MIB, Limits
from ingest.sources import RowsOnly, SourceRow

# Rows are read in batches of about so many bytes, by the average of the fullest row group. A row of ten 10 MiB images
# takes 0.4 GB while it is put together; sixteen of them at once were more than the child's address space.
_BATCH_BYTES = 16 * MIB
_BATCH_ROWS = 16  # at most; 256 are 15 % faster, for rows of nothing but text
_ERRORS = (pa.ArrowException, ValueError, TypeError, OSError, OverflowError)


class ParquetSource(RowsOnly):
    """A Parquet file; its rows count from 1."""

    def __init__(self, stream: IO[bytes], limits: Limits, names: Collection[str]) -> None:
        """Take a file, and the names of the columns that may be used.

        Other columns are not read, for what nobody uses need not be whole: rows have their names without their values.
        """
        super().__init__("a Parquet file")
        try:
            # Column chunks are read as a stream, page by page, not each in one piece.
            self._file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=MIB, arrow_extensions_enabled=True)
            schema, metadata = self._file.schema_arrow, self._file.metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        except _ERRORS as error:
            raise SourceFault(_unreadable(error)) from error
        declared = sum(group.total_byte_size for group in groups)
        if declared > limits.max_total_bytes:
            raise SourceFault(
                Finding(
                    rule=Rule.TOO_MUCH_DATA,
                    message=f"the file unpacks to {declared:,} bytes; at most {limits.max_total_bytes:,} are taken.",
                    fix="Split it into several data sets.",
                )
            )
        row_bytes = max((group.total_byte_size // group.num_rows for group in groups if group.num_rows > 0), default=0)
        self._batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))
        used = [field for field in schema if field.name in names]
        _refuse_twins(pa.struct(used))
        self._columns = {field.name: _decoder(field.type) for field in used}
        self._unread = dict.fromkeys(name for name in schema.names if name not in names)

    def count_rows(self) -> int:
        """Return the number of rows that the footer declares."""
        return int(self._file.metadata.num_rows)

    def rows(self) -> Iterator[SourceRow]:
        """Yield every row as the object that its JSON form would be; columns that are null are left out."""
        number = 0
        try:
            for batch in self._file.iter_batches(self._batch_rows, columns=list(self._columns), use_threads=False):
                columns = {name: batch.column(name) for name in self._columns}
                for at in range(batch.num_rows):
                    row = self._row(number + 1, {name: column[at] for name, column in columns.items()})
                    number += 1
                    yield row
        except MemoryError as error:
            raise SourceFault(_too_large_at_once(), row=number + 1) from error
        except _ERRORS as error:
            raise SourceFault(_unreadable(error), row=number + 1) from error

    def _row(self, number: int, cells: dict[str, Any]) -> SourceRow:
        value: dict[str, Any] = dict(self._unread)
        findings = []
        for name, cell in cells.items():
            try:
                found = _without_nulls(self._columns[name](cell.as_py()))
            except _ERRORS as error:
                findings.append(_innermost(cell, error, f"#/{escape(name)}"))
            else:
                if found is not None:
                    value[name] = found
        return SourceRow(row=number, file=None, value=None if findings else value, findings=tuple(findings))


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


def _innermost(cell: Any, error: Exception, pointer: str) -> Finding:
    """Return what is wrong with a cell that cannot be read, at the first place inside of it that cannot."""
    for key, part in _parts(cell):
        try:
            _decoder(part.type)(part.as_py())
        except _ERRORS as inner:
            return _innermost(part, inner, f"{pointer}/{escape(str(key))}")
    return _bad_cell(cell.type, error).at(pointer)


def _parts(cell: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(cell, pa.StructScalar):
        yield from cell.items()
    elif isinstance(cell, pa.ListScalar) and cell.is_valid:
        yield from enumerate(cell.values)


def _bad_cell(kind: pa.DataType, error: Exception) -> Finding:
    if isinstance(error, UnicodeDecodeError):
        message = f"the text is not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start + 1}."
        fix = "Decode the text with the encoding that it has, and write it again; bytes that are no text want a column of bytes."
        return Finding(rule=Rule.NOT_UTF8, message=message, fix=fix)
    if isinstance(kind, pa.JsonType):
        fix = "Write the value with a JSON library, or the column as plain text."
        return Finding(rule=Rule.JSON_SYNTAX, message=f"the value is not JSON: {error}.", fix=fix)
    message = f"the value, of the type {shown(str(kind))}, cannot be read."
    return Finding(rule=Rule.WRONG_TYPE, message=message, fix="Write text as strings, and images as bytes.")


def _too_large_at_once() -> Finding:
    return Finding(
        rule=Rule.TOO_MUCH_DATA,
        message="from here on the Parquet file holds more in one piece than there is memory for.",
        fix="Write it again in row groups of at most 256 MiB (pyarrow: write_table(..., row_group_size=...)).",
    )


def _unreadable(error: Exception) -> Finding:
    return Finding(
        rule=Rule.UNREADABLE,
        message=f"the Parquet file cannot be read ({type(error).__name__}): it is cut off or damaged.",
        fix="Write the file again and upload it again.",
    )
