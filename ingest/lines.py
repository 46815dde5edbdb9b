"""Lines of a JSONL file become objects; whatever is wrong with a line is said with its row and column."""

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

from pydantic_core import from_json

from ingest.issues import Finding, Rule, SourceFault, shown
from ingest.limits import MIB, Limits
from ingest.sources import SourceRow

_SAVE_AS_UTF8 = "Save the file as UTF-8 without a byte order mark."
_ONE_A_LINE = "Write each example as one JSON object on one line, without brackets and commas around."
_JITER = re.compile(r" at line \d+ column (\d+)$")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_rows(stream: IO[bytes], file: str | None, limits: Limits) -> Iterator[SourceRow]:
    """Yield the rows of one JSONL file; blank lines are passed over, but counted.

    Raises:
        SourceFault: the file is something else than lines of JSON: then each of its lines would be called wrong.
    """
    number = 0
    while line := stream.readline(limits.max_line_bytes + 1):
        number += 1
        findings: list[Finding] = []
        if len(line) > limits.max_line_bytes:
            _skip_line(stream, line)
            yield SourceRow(row=number, file=file, value=None, findings=(_too_long(limits),))
            continue
        if line.count(b"{") + line.count(b"[") > limits.max_line_brackets:
            yield SourceRow(row=number, file=file, value=None, findings=(_too_nested(limits),))
            continue
        if number == 1:
            line = _without_bom(line, findings, file)
        value = _parse(line, findings) if line.strip() else None
        if number == 1 and value is None and (reason := _no_jsonl(line)):
            raise SourceFault(reason, file=file, row=1)
        if value is not None or findings:
            yield SourceRow(row=number, file=file, value=value, findings=tuple(findings))


def count_lines(stream: IO[bytes]) -> int:
    """Count lines; damage ends the count early, for it is said when the rows are read."""
    count, last = 0, b"\n"
    with suppress(SourceFault):
        while chunk := stream.read(MIB):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")


def _skip_line(stream: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(MIB)


def _too_long(limits: Limits) -> Finding:
    return Finding(
        rule=Rule.LINE_TOO_LONG,
        message=f"the line is longer than {limits.max_line_bytes:,} bytes.",
        fix="Put images into a zip instead of data: URLs, or check that each example ends with a line feed.",
    )


def _too_nested(limits: Limits) -> Finding:
    return Finding(
        rule=Rule.LINE_TOO_LONG,
        message=f"the line opens more than {limits.max_line_brackets:,} objects and lists.",
        fix="Write one example per line, not the whole data set as one object.",
    )


def _without_bom(line: bytes, findings: list[Finding], file: str | None) -> bytes:
    if line.startswith(_UTF16):
        message = "the file is UTF-16 or UTF-32, not UTF-8."
        raise SourceFault(Finding(rule=Rule.NOT_UTF8, message=message, fix=_SAVE_AS_UTF8), file=file, row=1)
    if line.startswith(codecs.BOM_UTF8):
        message = "the file starts with a byte order mark; it was passed over."
        findings.append(Finding(rule=Rule.BOM, message=message, fix=_SAVE_AS_UTF8))
    return line.removeprefix(codecs.BOM_UTF8)


def _no_jsonl(line: bytes) -> Finding | None:
    """Return what the whole file is, if its first line, which is no object, shows that it holds no JSON lines."""
    text = line.strip()
    if b"\x00" in text:
        message = "the file is UTF-16 or UTF-32 without a byte order mark, or it is binary."
        return Finding(rule=Rule.NOT_UTF8, message=message, fix=_SAVE_AS_UTF8)
    if text == b"[" or text.endswith((b"{", b",")):
        message = "the file is one JSON document over several lines, not one object on each line."
        return Finding(rule=Rule.JSON_SYNTAX, message=message, fix=_ONE_A_LINE)
    if b"\r" in text:
        message = "the file's lines end with a carriage return alone, so all of it is one line."
        return Finding(rule=Rule.JSON_SYNTAX, message=message, fix="Save the file with line feeds (LF).")
    return None


def _parse(line: bytes, findings: list[Finding]) -> dict[str, Any] | None:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the line is not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}."
        findings.append(Finding(rule=Rule.NOT_UTF8, message=message, fix=_SAVE_AS_UTF8))
        return None
    try:
        value = from_json(line.rstrip(b"\r\n"), allow_inf_nan=False)
    except ValueError as error:
        findings.append(_syntax(str(error)))
        return None
    if isinstance(value, dict):
        return value
    findings.append(
        Finding(
            rule=Rule.NOT_AN_OBJECT,
            message=f"the line is a JSON {_json_type(value)}, not an object.",
            fix='Write one object per line, such as {"image": "a.png", "question": "...", "answer": "..."}.',
        )
    )
    return None


def _syntax(error: str) -> Finding:
    found = _JITER.search(error)
    column, reason = (found[1], error[: found.start()]) if found else ("1", error)
    reason = reason.replace("expected ident", "a word other than true, false and null")
    fix = "Write each example as one JSON object on one line; a JSON library does the quoting."
    if reason.startswith("key must be a string"):
        fix = "JSON wants double quotes: write {\"image\": ...}, not {'image': ...}. A JSON library does the quoting."
    return Finding(rule=Rule.JSON_SYNTAX, message=f"the line is not JSON: {reason} at column {column}.", fix=fix)


def _json_type(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return f"string ({shown(value)})"
        case list():
            return "array"
    return "null"
