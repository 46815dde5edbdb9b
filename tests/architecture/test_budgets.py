"""Sizes: no file over 400 lines (tests: 600), the median near 100."""

import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_LINES, MAX_TEST_LINES, MAX_MEDIAN_LINES = 400, 600, 150


def sizes(*, tests: bool) -> dict[str, int]:
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in tracked.splitlines() if name.startswith("tests/") == tests and (ROOT / name).exists()]
    return {name: len((ROOT / name).read_text().splitlines()) for name in names}


def test_no_file_is_over_its_budget():
    too_long = {name: lines for name, lines in sizes(tests=False).items() if lines > MAX_LINES}
    too_long |= {name: lines for name, lines in sizes(tests=True).items() if lines > MAX_TEST_LINES}
    assert too_long == {}


def test_the_median_file_is_short():
    assert statistics.median(sizes(tests=False).values()) <= MAX_MEDIAN_LINES


def test_no_room_bears_a_name_that_says_nothing():
    nothing = {"utils", "common", "helpers", "misc", "manager"}
    assert [name for name in sizes(tests=False) if set(Path(name).with_suffix("").parts) & nothing] == []
