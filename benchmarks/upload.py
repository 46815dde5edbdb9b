"""Memory of the API while large files are uploaded: 64 MB, then 512 MB, then 2 GB, to a server of its own.

There is no peer to stand beside: the yardstick is the API's own peak before the first upload. What is shown is the
high-water mark of its resident memory (`VmHWM`), which counts every moment, and the rate on loopback, disk included.
"""

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

from core.process import free_port
from core.settings import MIB, Settings
from ops.migrate import migrate

SIZES_MB = (64, 512, 2000)
BOUNDARY = "lensmith"
LINE = b'{"question": "What is the total?", "answer": "41.20"}\n' * 1000


def main() -> None:
    """Start an API, upload, print."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(data_dir=Path(name), port=free_port())
        settings.layout.make()
        migrate(settings)
        environment = os.environ | {"LENSMITH_DATA_DIR": name, "LENSMITH_PORT": str(settings.port), "TMPDIR": name}
        with (Path(name) / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "api.main"], env=environment, stdout=log, stderr=log)
        try:
            _measure(f"http://127.0.0.1:{settings.port}", process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _measure(url: str, pid: int) -> None:
    with httpx2.Client(base_url=url, timeout=600, trust_env=False) as client:
        while not _answers(client):
            time.sleep(0.1)
        before = _peak_mb(pid)
        print(f"  before         peak {before:6,.0f} MB")
        for size_mb in SIZES_MB:
            began = time.perf_counter()
            headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
            answer = client.post("/datasets", content=_body(size_mb * 1_000_000), headers=headers)
            assert answer.status_code == 202, answer.text
            rate = size_mb / (time.perf_counter() - began)
            peak = _peak_mb(pid)
            print(f"  after {size_mb:5,} MB peak {peak:6,.0f} MB   ratio {peak / before:.2f}   {rate:5.0f} MB/s")


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx2.TransportError:
        return False


def _body(size: int) -> Iterator[bytes]:
    """Yield a form with one file of about this size, never more than a piece of it in memory."""
    yield (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="big.jsonl"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    piece = LINE * (MIB // len(LINE))
    for _ in range(size // len(piece)):
        yield piece
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    main()
