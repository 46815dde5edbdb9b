import subprocess
import sys
import textwrap

import pytest

from vlm.building import build_once

_BUILD = textwrap.dedent("""
    import sys
    from pathlib import Path
    from vlm.building import build_once

    def make(folder):
        with Path(sys.argv[2]).open("a") as calls:
            calls.write("made ")
        (folder / "weights").write_text("w" * 1_000_000)

    print((build_once(Path(sys.argv[1]), make) / "weights").stat().st_size)
""")


def test_processes_that_ask_at_once_build_once(tmp_path):
    command = [sys.executable, "-c", _BUILD, str(tmp_path / "models" / "base-1"), str(tmp_path / "calls")]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=60)[0].strip() for process in asking] == ["1000000"] * 4
    assert (tmp_path / "calls").read_text() == "made "


def test_a_build_that_fails_leaves_nothing_under_the_name(tmp_path):
    def fail(folder):
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_once(tmp_path / "base", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".base.lock"]


def test_what_a_killed_build_left_is_swept_away(tmp_path):
    (tmp_path / ".base.part-dead").mkdir()
    build_once(tmp_path / "base", lambda folder: (folder / "done").touch())
    assert {path.name for path in tmp_path.iterdir()} == {"base", ".base.lock"}


def test_a_folder_that_exists_is_not_built_again(tmp_path):
    (tmp_path / "base").mkdir()
    assert build_once(tmp_path / "base", lambda _: pytest.fail("built again")) == tmp_path / "base"
