import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.errors import FailureCode
from core.events import Failure, Result
from ingest.columns import FIELDS
from ingest.container import Container, sniff
from ingest.limits import Limits
from ingest.options import Options
from ingest.parquet import ParquetSource
from ingest.report import Report
from ingest.ruler import Ruler
from ingest.skipped import OnBadRow
from ingest.validate import validate
from tests.unit.ingest.children import run_child
from tests.unit.ingest.elsewhere import serving
from tests.unit.ingest.hub import NAME, serving_hub


class Make:
    """Makes uploads, good and bad, in memory."""

    @staticmethod
    def image(
        number: int = 0, *, size: tuple[int, int] = (16, 12), mode: str = "RGB", kind: str = "PNG", **save: Any
    ) -> bytes:
        colour = (number % 256, number // 256 % 256, 77)
        image = Image.new("1", size) if mode == "1" else Image.new("RGB", size, colour).convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, kind, **save)
        return buffer.getvalue()

    @staticmethod
    def zip(files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # no time in it: same bytes
        return buffer.getvalue()

    @staticmethod
    def lines(rows: list[Any]) -> bytes:
        return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)

    @staticmethod
    def rows(count: int) -> list[Any]:
        return [{"image": f"images/{i}.png", "question": "Which?", "answer": str(i)} for i in range(count)]

    @classmethod
    def good_zip(
        cls, count: int = 20, *, rows: list[Any] | None = None, files: dict[str, bytes] | None = None
    ) -> bytes:
        """Return a zip of good rows and images; `rows` come after the good ones, `files` beside theirs."""
        content = {f"images/{i}.png": cls.image(i) for i in range(count)} | (files or {})
        return cls.zip(content | {"train.jsonl": cls.lines(cls.rows(count) + (rows or []))})


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Report]:
    """Return a function that writes an upload, sniffs it and validates it."""

    def run(
        data: bytes,
        *,
        out: str = "out",
        seed: int = 0,
        container: Container | None = None,
        on_bad_row: OnBadRow = OnBadRow.FAIL,
        ruler: Ruler | None = None,
        **limits: Any,
    ) -> Report:
        path, folder = tmp_path / f"{out}.upload", tmp_path / out
        path.write_bytes(data)
        folder.mkdir()
        bounds = Limits(**limits)
        with path.open("rb") as stream:
            kind = container or sniff(stream, "upload.jsonl", limits=bounds)
        options = Options(seed=seed, limits=bounds, on_bad_row=on_bad_row, ruler=ruler)
        return validate(path, kind, folder, options)

    return run


@pytest.fixture
def there():
    with serving() as server:
        yield server


@pytest.fixture
def hub():
    with serving_hub() as server:
        yield server


@pytest.fixture
def fetch(tmp_path, hub):
    """Return a function that fetches a data set in a child: its last event, the rows, and all events."""

    def run(
        repository=NAME, *, max_bytes=10_000_000, stop=False, environment=None, code=FailureCode.BAD_DATA, **origin
    ):
        staging = tmp_path / f"staging{len(list(tmp_path.iterdir()))}"
        staging.mkdir()
        spec = {"origin": {"repository": repository} | origin, "max_bytes": max_bytes}
        (staging / "spec.json").write_text(json.dumps(spec))
        where = {"HF_ENDPOINT": hub.url} | (environment or {})
        _, seen, said = run_child("ingest.hub", staging / "spec.json", staging, stop=stop, environment=where)
        rows = []
        if isinstance(seen[-1], Result):
            with (staging / "rows.parquet").open("rb") as stream:
                rows = [row.value for row in ParquetSource(stream, Limits(), {*FIELDS, "label"}).rows()]
            assert seen[-1].data == {"num_rows": len(rows)}
        elif isinstance(seen[-1], Failure):
            assert seen[-1].remedy
            assert seen[-1].code is code, said
        return seen[-1], rows, seen

    return run
