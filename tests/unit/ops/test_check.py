"""`lensmith datasets check`: the server's words without a server, and an exit status that a script can trust."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.errors import WorkFailed
from core.events import Hello
from ingest.container import Container
from ingest.options import Options
from ingest.report import Report
from ingest.skipped import OnBadRow
from ingest.validate import validate
from ops.apart import validate_apart
from ops.check import describe
from ops.cli import app
from tests.unit.ingest.conftest import Make
from tests.unit.ingest.elsewhere import serving
from vlm.base_ruler import load_ruler
from vlm.image_options import ImageOptions

TRAP = "img[copy].png [/x] [red]\x1b[31m"


@pytest.fixture
def run():
    """Run the command and return its exit status, what it printed, and what it complained of."""

    def invoke(*arguments: object):
        done = CliRunner().invoke(app, ["datasets", "check", *map(str, arguments)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return invoke


@pytest.fixture
def folder(tmp_path):
    """A clean folder of twenty rows."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for number in range(20):
        (root / f"images/{number}.png").write_bytes(Make.image(number))
    (root / "train.jsonl").write_bytes(Make.lines(Make.rows(20)))
    return root


def add_rows(folder: Path, *rows) -> None:
    (folder / "train.jsonl").write_bytes(Make.lines([*Make.rows(20), *rows]))


def test_a_good_folder_and_its_zip_end_with_zero(run, folder, tmp_path):
    (tmp_path / "data.zip").write_bytes(Make.good_zip(20))
    for path in (folder, tmp_path / "data.zip"):
        status, printed, _ = run(path)
        assert status == 0
        assert printed == "✓ The data set is good: 20 rows (18 train, 2 validation), 20 distinct images.\n"


def test_a_refused_set_ends_with_three_and_tells_every_rule_with_count_rows_and_remedy(run, folder):
    gone = [{"image": f"gone/{i}.png", "caption": "x"} for i in range(7)]
    add_rows(folder, *gone, {"image": "images/0.png", "caption": "x", "note": 1})
    status, printed, _ = run(folder)
    assert status == 3
    assert printed.splitlines()[:4] == [
        "✗ The data set would be refused: 28 rows read, 7 refused, 7 errors.",
        'error missing_image (7) rows 21, 22, 23, 24, 25 of "train.jsonl", …',
        '  the image "gone/0.png" is not in the folder. [#/image]',
        '  → The nearest name is "images/0.png". Paths start at the root of the folder or at the folder of the JSONL file.',
    ]
    assert "warning ignored_field (1) row 28" in printed


def test_the_report_is_the_one_that_the_server_would_write(run, folder, tmp_path):
    add_rows(folder, {"image": "gone.png", "caption": "x"}, {"image": "images/0.png", "caption": ""})
    status, printed, _ = run(folder, "--json")
    (tmp_path / "out").mkdir()
    assert status == 3
    assert Report.model_validate_json(printed) == validate(folder, Container.FOLDER, tmp_path / "out")
    assert json.loads(printed)["num_errors"] == 2


def test_columns_are_mapped_and_told_by_their_own_names(run, folder):
    rows = [{"img": row["image"], "label": row["answer"]} for row in Make.rows(20)]
    (folder / "train.jsonl").write_bytes(Make.lines([*rows, {"img": "images/0.png", "label": ""}]))
    status, printed, _ = run(folder, "--columns", '{"image": "img", "caption": "label"}')
    assert status == 3
    assert "[#/label]" in printed


@pytest.mark.parametrize(
    "arguments", [("nowhere.zip",), (".", "--columns", "{"), (".", "--columns", '{"img": "x"}'), ()]
)
def test_a_wrong_use_ends_with_two(run, arguments):
    status, printed, complaint = run(*arguments)
    assert (status, printed) == (2, "")
    assert complaint


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", Make.zip({"a.png": b"x"}), b"\x1f\x8b\x08rest"])
def test_a_file_that_the_post_would_refuse_ends_with_three_and_its_words(run, tmp_path, data):
    (tmp_path / "a.bin").write_bytes(data)
    status, printed, complaint = run(tmp_path / "a.bin")
    assert (status, printed) == (3, "")
    assert complaint.startswith("✗ The ")


def test_text_of_a_user_is_never_markup_and_commands_no_terminal(run, folder):
    add_rows(folder, {"image": TRAP, "caption": "x", TRAP: 1})
    status, printed, _ = run(folder)
    assert status == 3
    assert "img[copy].png [/x] [red]\\x1b[31m" in printed
    assert "\x1b" not in printed


def test_nothing_is_left_behind_and_a_full_disk_is_a_sentence(run, folder, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert run(folder)[0] == 0
    assert list(scratch.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    status, _, complaint = run(folder)
    assert status == 1
    assert "TMPDIR" in complaint


def test_a_url_is_an_error_that_names_the_way_to_have_it_fetched(run, folder):
    """ "This server fetches no images", it said, where there is no server."""
    add_rows(folder, {"image": "https://example.com/a.png?signature=x", "caption": "x"})
    status, printed, _ = run(folder)
    assert status == 3
    assert "error remote_image (1) row 21" in printed
    assert "https://example.com/a.png" in printed
    assert "--fetch" in printed
    assert "this server" not in printed


@pytest.mark.parametrize("options", [(), ("--base-model", "tiny")])
def test_what_is_fetched_is_fetched_behind_the_guard_of_a_server(run, folder, data_dir, options):
    with serving() as elsewhere:
        add_rows(folder, {"image": elsewhere.url("/a.png", host="127.0.0.1"), "caption": "x"})
        status, printed, _ = run(folder, "--fetch", *options)
        assert elsewhere.asked == []
    assert status == 3
    assert "error url_forbidden (1) row 21" in printed


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """The service's data directory, where `tiny` is built."""
    monkeypatch.setenv("LENSMITH_DATA_DIR", str(tmp_path / "service"))
    return tmp_path / "service"


def test_rows_are_measured_for_a_base_and_the_figures_told(run, folder, data_dir):
    status, printed, _ = run(folder, "--base-model", "tiny")
    assert status == 0
    assert printed.splitlines()[1:] == [
        "tokens of the good rows for tiny, images whole at 32 px",
        "  per row    median 35, 95 % up to 36, longest 36, of 1,024 that fit",
        "  of images  median 7, 95 % up to 7, longest 7",
        "  learned    9.9% of all tokens",
    ]
    assert list(data_dir.glob("cache/models/tiny-*"))


def test_a_row_that_a_job_would_refuse_is_told_in_the_words_of_the_report(run, folder, data_dir, tmp_path):
    add_rows(folder, {"image": "images/0.png", "question": "x" * 1024, "answer": "y"})
    asked = ("--base-model", "tiny", "--split", "--longest-edge", 96, "--no-upscale")
    status, printed, _ = run(folder, *asked)
    assert status == 3
    assert 'error example_too_long (1) row 21 of "train.jsonl"' in printed
    assert "tokens, 7 of them for its images" in printed
    status, printed, _ = run(folder, *asked, "--skip-bad-rows", "--json")
    assert status == 0
    image = ImageOptions(longest_edge=96, split=True, upscale=False)
    ruler = load_ruler("tiny", models_dir=data_dir / "cache/models", image=image)
    (tmp_path / "out").mkdir()
    options = Options(ruler=ruler, on_bad_row=OnBadRow.SKIP)
    report = validate(folder, Container.FOLDER, tmp_path / "out", options)
    assert Report.model_validate_json(printed) == report
    told = [line.plain for line in describe(report)]
    assert "tokens of the good rows for tiny, images cut into tiles at 96 px, small ones not scaled up" in told


def test_a_base_that_cannot_be_had_ends_with_one_and_says_what_to_do(run, folder, data_dir):
    status, printed, complaint = run(folder, "--base-model", "no-such-base")
    assert (status, printed) == (1, "")
    assert complaint.startswith("✗ There is no base model 'no-such-base'. Choose one of")


def test_a_child_that_is_killed_is_a_failure_and_no_report(folder, tmp_path):
    (tmp_path / "apart").mkdir()
    spec = {"source": str(folder), "container": "folder"}

    def kill(event):
        if isinstance(event, Hello):
            os.kill(event.pid, signal.SIGKILL)

    with pytest.raises(WorkFailed, match="process ended with status -9"):
        validate_apart(spec, tmp_path / "apart", on_event=kill)


def test_image_options_without_a_base_are_a_wrong_use(run, folder):
    assert run(folder, "--no-split")[0] == 2


@pytest.mark.parametrize("options", [(), ("--base-model", "tiny")])
def test_a_check_imports_no_torch_and_the_other_commands_no_pillow(folder, data_dir, options):
    code = (
        "import sys, ops.cli; light = [m for m in ('PIL', 'pyarrow') if m in sys.modules];"
        "from typer.testing import CliRunner;"
        f"done = CliRunner().invoke(ops.cli.app, ['datasets', 'check', {str(folder)!r}, *{options!r}]);"
        "print(light, done.exit_code, [m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[] 0 []"
