"""Memory of the API while large files are uploaded: 64 MB, then 512 MB, then 2 GB, to a server of its own.

Each way has a server: as one form, and in parts that are joined at the end. There is no peer to stand beside: the
yardstick is the API's own peak before the first upload. What is shown is the high-water mark of its resident memory
(`VmHWM`), which counts every moment, and the rate on loopback, disk included; in parts it counts the joining as well.

`python -m benchmarks.upload 64` takes other sizes (MB).
"""

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2

from core.process import free_port
from core.settings import MIB, Settings
from ops.migrate import migrate

SIZES_MB = (64, 512, 2000)
BOUNDARY = "lensmith"
LINES = b'{"question": "What is the total?", "answer": "41.20"}\n' * 1000
PIECE = LINES * (MIB // len(LINES))


def main() -> None:
    """Start an API for each way, upload, print."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    sizes_mb = tuple(map(int, sys.argv[1:])) or SIZES_MB
    for name, upload in (("as a form", _as_form), ("in parts", _in_parts)):
        print(f"{name}:")
        _serve(upload, sizes_mb)


def _serve(upload: Callable[[httpx2.Client, int], None], sizes_mb: tuple[int, ...]) -> None:
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(data_dir=Path(name), port=free_port())
        settings.layout.make()
        migrate(settings)
        environment = os.environ | {"LENSMITH_DATA_DIR": name, "LENSMITH_PORT": str(settings.port), "TMPDIR": name}
        with (Path(name) / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "api.main"], env=environment, stdout=log, stderr=log)
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=600, trust_env=False) as client:
                _measure(client, process.pid, upload, sizes_mb)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _measure(
    client: httpx2.Client, pid: int, upload: Callable[[httpx2.Client, int], None], sizes_mb: tuple[int, ...]
) -> None:
    while not _answers(client):
        time.sleep(0.1)
    before = _peak_mb(pid)
    print(f"  before         peak {before:6,.0f} MB")
    for size_mb in sizes_mb:
        began = time.perf_counter()
        upload(client, size_mb * 1_000_000)
        rate = size_mb / (time.perf_counter() - began)
        peak = _peak_mb(pid)
        print(f"  after {size_mb:5,} MB peak {peak:6,.0f} MB   ratio {peak / before:.2f}   {rate:5.0f} MB/s")


def _as_form(client: httpx2.Client, size_bytes: int) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    _checked(client.post("/datasets", content=_form(size_bytes), headers=headers))


def _in_parts(client: httpx2.Client, size_bytes: int) -> None:
    pieces = _pieces(size_bytes)
    size_bytes = (size_bytes // len(PIECE)) * len(PIECE)
    body = {"filename": "big.jsonl", "size_bytes": size_bytes}
    upload = _checked(client.post("/uploads", json=body)).json()
    left = b""
    for number in range(1, upload["num_parts"] + 1):
        while len(left) < upload["part_bytes"] and (piece := next(pieces, None)) is not None:
            left += piece
        part, left = left[: upload["part_bytes"]], left[upload["part_bytes"] :]
        _checked(client.put(f"/uploads/{upload['id']}/parts/{number}", content=part))
    _checked(client.post("/datasets", json={"upload": upload["id"]}))


def _checked(answer: httpx2.Response) -> httpx2.Response:
    assert answer.is_success, answer.text
    return answer


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx2.TransportError:
        return False


def _form(size_bytes: int) -> Iterator[bytes]:
    """Yield a form with one file of about this size, never more than a piece of it in memory."""
    yield (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="big.jsonl"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    yield from _pieces(size_bytes)
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def _pieces(size_bytes: int) -> Iterator[bytes]:
    for _ in range(size_bytes // len(PIECE)):
        yield PIECE


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    main()
