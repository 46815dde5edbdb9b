"""Validating a data set against two yardsticks on the same files: plain decoding with Pillow, and `datasets`.

(a) photographs: 10,000 rows, each with a JPEG of 256 pixels of its own; (b) text: 100,000 rows of long text over 200 pictures.
Of (b) plain decoding is measured twice: of each picture once (`pillow`), which nothing that reads row by row can do, and of
the picture of every row (`rows`), which is what a loader does. Every run is a process of its own, the arms in turn; rows/s,
processor seconds and peak memory of each, and the ratio to plain decoding, ours also on two cores. `--rows` scales both sets
down.
"""

import argparse
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROUNDS = 3
SIDE_PX = 256
NUM_REPEATED = 200
TEXT_PER_PHOTOGRAPH_ROWS = 10


def main() -> None:
    """Make both sets, run every arm, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000, help="photographs; the text set has ten times as many rows")
    parser.add_argument("--side", type=int, default=SIDE_PX, help="of a photograph, in pixels")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        for title, make, rows in (
            ("photographs", _photographs, arguments.rows),
            ("text", _text, TEXT_PER_PHOTOGRAPH_ROWS * arguments.rows),
        ):
            folder = Path(name) / title
            folder.mkdir()
            make(folder, rows, side_px=arguments.side)
            _zip(folder, Path(name) / f"{title}.zip")
            print(f"\n{title}: {rows:,} rows, {(Path(name) / f'{title}.zip').stat().st_size / 1e6:.0f} MB")
            _compare(Path(name) / title, rows)


def _compare(folder: Path, rows: int) -> None:
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(ROUNDS):
        for arm in ARMS:
            if arm == "rows" and folder.name == "photographs":
                continue  # each row has a picture of its own
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.ingest", arm, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(done.stderr)
            found.setdefault(arm, []).append(json.loads(done.stdout.splitlines()[-1]))
    median = {
        arm: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for arm, runs in found.items()
    }
    for arm, run in median.items():
        ratio = run["wall_s"] / median["pillow"]["wall_s"]
        print(
            f"  {arm:<9} {rows / run['wall_s']:8,.0f} rows/s   {run['cpu_s']:6.1f} s of processor   "
            f"peak {run['peak_mb']:5,.0f} MB   {ratio:5.2f} x plain decoding"
        )


def _photographs(folder: Path, rows: int, *, side_px: int) -> None:
    generator = np.random.default_rng(0)
    lines = []
    for number in range(rows):
        _write_jpeg(folder / f"{number:06}.jpg", generator, side_px)
        lines.append({"image": f"{number:06}.jpg", "question": "What is shown?", "answer": f"picture {number}"})
    _write_lines(folder, lines)


def _text(folder: Path, rows: int, *, side_px: int) -> None:
    generator = np.random.default_rng(1)
    for number in range(NUM_REPEATED):
        _write_jpeg(folder / f"{number:06}.jpg", generator, side_px)
    words = [f"word{number}" for number in range(5000)]
    lines = []
    for number in range(rows):
        text = " ".join(words[index] for index in generator.integers(0, len(words), 120))
        lines.append(
            {"image": f"{number % NUM_REPEATED:06}.jpg", "question": f"{number}: {text}", "answer": text[:200]}
        )
    _write_lines(folder, lines)


def _write_jpeg(path: Path, generator: np.random.Generator, side_px: int) -> None:
    coarse = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    coarse.resize((side_px, side_px), Image.Resampling.BICUBIC).save(path, "JPEG", quality=85)


def _write_lines(folder: Path, lines: list[dict[str, str]]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)


def _pillow(folder: Path) -> None:
    """Parse every line and decode every picture once, out of the same zip."""
    with zipfile.ZipFile(folder.with_suffix(".zip")) as archive:
        for line in archive.read("metadata.jsonl").splitlines():
            json.loads(line)
        for name in archive.namelist():
            if name.endswith(".jpg"):
                Image.open(io.BytesIO(archive.read(name))).convert("RGB")


def _rows(folder: Path) -> None:
    """Parse every line and decode its picture, out of the same zip."""
    with zipfile.ZipFile(folder.with_suffix(".zip")) as archive:
        for line in archive.read("metadata.jsonl").splitlines():
            Image.open(io.BytesIO(archive.read(json.loads(line)["image"]))).convert("RGB")


def _datasets(folder: Path) -> None:
    """Load the folder and look at every row and its picture, as a notebook would."""
    import datasets

    os.environ["HF_DATASETS_CACHE"] = str(folder.parent / "cache")
    rename = {"image": "file_name"}  # what its folder loader calls the column
    renamed = folder.parent / f"{folder.name}-datasets"
    if not renamed.exists():
        renamed.mkdir()
        for path in folder.glob("*.jpg"):
            (renamed / path.name).symlink_to(path)
        lines = (json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines())
        _write_lines(renamed, [{rename.get(key, key): value for key, value in line.items()} for line in lines])
    loaded: Any = datasets.load_dataset("imagefolder", data_dir=str(renamed), split="train")
    for row in loaded:
        assert row["image"].width == row["image"].height


def _ours(folder: Path) -> None:
    from ingest.container import Container
    from ingest.validate import validate

    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        report = validate(folder.with_suffix(".zip"), Container.ZIP, Path(out))
    assert report.num_errors == 0, report.refusal


ARMS: dict[str, Callable[[Path], None]] = {
    "pillow": _pillow,
    "rows": _rows,
    "datasets": _datasets,
    "ours": _ours,
    "ours-2": _ours,
}


def _measure(arm: str, folder: Path) -> dict[str, float]:
    os.sched_setaffinity(0, {0, 1} if arm == "ours-2" else {0})
    began = time.perf_counter()
    ARMS[arm](folder)
    used, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "wall_s": time.perf_counter() - began,
        "cpu_s": sum(usage.ru_utime + usage.ru_stime for usage in (used, children)),
        "peak_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    """Return the most that this process held; `ru_maxrss` would count the parent that it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ARMS:
        print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        main()
