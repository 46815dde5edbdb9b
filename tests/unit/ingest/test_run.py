"""Validation as a real child process, spoken to through its pipe."""

import io
import json
import resource
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import FailureCode
from core.events import Failure, Hello, PhaseChanged, Progress, Result, Stopped, parse
from ingest.report import Report
from ingest.run import ADDRESS_SPACE_BYTES
from tests.conftest import run_python
from tests.unit.ingest.children import run_child
from vlm.conversation import read_examples


@pytest.fixture
def run(tmp_path):
    """Return a function that validates bytes in a child and returns its exit status, events and what it wrote."""

    def start(data, *, stop=False, on_event=lambda _child, _event: None, **spec):
        upload, staging = tmp_path / "upload", tmp_path / "staging"
        upload.write_bytes(data)
        staging.mkdir()
        (tmp_path / "spec.json").write_text(json.dumps({"source": str(upload), "container": "zip"} | spec))
        return run_child("ingest.run", tmp_path / "spec.json", staging, stop=stop, on_event=on_event)

    return start


def test_a_good_set_ends_with_a_result_and_its_files_in_the_staging_folder(make, run, tmp_path):
    status, events, errors = run(make.good_zip(20), seed=3)
    assert (status, errors) == (0, "")
    assert isinstance(events[0], Hello)
    assert isinstance(events[1], PhaseChanged)
    assert [(event.step, event.total_steps) for event in events if isinstance(event, Progress)][-1] == (20, 20)
    result = events[-1]
    assert isinstance(result, Result)
    report = Report.model_validate_json((tmp_path / "staging/report.json").read_bytes())
    assert result.data == {
        "num_examples": 20,
        "num_issues": 0,
        "num_errors": 0,
        "num_skipped": 0,
        "digest": report.digest,
        "splits": {"train": 18, "validation": 2},
        "num_images": 20,
        "images_bytes": (tmp_path / "staging/images.pack").stat().st_size,
    }
    assert len(read_examples(tmp_path / "staging")) == 20


def test_a_faulty_set_ends_with_a_bad_data_failure_and_a_report(make, run, tmp_path):
    status, events, errors = run(make.good_zip(20, rows=[b'{"image"', {"image": "gone.png", "caption": "x"}]))
    assert (status, errors) == (1, "")
    failure = events[-1]
    assert isinstance(failure, Failure)
    assert failure.code is FailureCode.BAD_DATA
    assert failure.detail.startswith('Row 21 of "train.jsonl": the line is not JSON:')
    assert failure.detail.endswith("And 1 more error.")
    assert "report" in failure.remedy
    assert not failure.retryable
    report = Report.model_validate_json((tmp_path / "staging/report.json").read_bytes())
    assert [issue.row for issue in report.issues] == [21, 22]


def test_a_child_that_is_told_to_stop_stops_and_writes_no_report(make, run, tmp_path):
    status, events, _ = run(make.good_zip(20, rows=make.rows(20) * 500), stop=True)
    assert status == 0
    assert isinstance(events[-1], Stopped)
    assert not (tmp_path / "staging/report.json").exists()


def test_a_parquet_file_is_read_within_the_bound_on_memory(make, run):
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": [make.image(i) for i in range(20)], "caption": ["A square."] * 20}), sink)
    status, events, errors = run(sink.getvalue(), container="parquet")
    assert (status, errors) == (0, "")
    assert events[-1].data["num_examples"] == 20


def test_the_mapping_of_the_spec_is_kept_also_for_a_packed_tar(make, run, tmp_path):
    rows = [{"img": row["image"], "label": row["answer"]} for row in make.rows(20)]
    members = {"a.jsonl": make.lines(rows)} | {f"images/{i}.png": make.image(i) for i in range(20)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    status, events, errors = run(buffer.getvalue(), container="tar", columns={"image": "img", "caption": "label"})
    assert (status, errors) == (0, "")
    assert events[-1].data["num_examples"] == 20
    assert sorted(path.name for path in (tmp_path / "staging").iterdir()) == [
        "images.pack",
        "images.parquet",
        "records.parquet",
        "report.json",
        "sizes.json",
    ]


def test_limits_of_the_spec_are_kept(make, run):
    status, events, _ = run(make.good_zip(20), limits={"max_rows": 5})
    assert status == 1
    assert "more than 5 rows" in events[-1].detail


def test_the_child_bounds_its_own_memory(make, run):
    limits = []

    def look(child, event):
        if isinstance(event, PhaseChanged):
            limits.append(resource.prlimit(child.pid, resource.RLIMIT_AS)[0])

    status, _, _ = run(make.good_zip(20, rows=make.rows(20) * 200), on_event=look)
    assert (status, limits) == (0, [ADDRESS_SPACE_BYTES])


def test_rows_are_measured_for_the_base_that_the_spec_names(make, run, tmp_path):
    rows = [{"image": "images/0.png", "question": "x" * 1100, "answer": "y"}]
    base = {"base_model": "tiny", "models_dir": str(tmp_path / "models"), "image": {"split": False}}
    status, events, _ = run(make.good_zip(20, rows=rows), on_bad_row="skip", **base)
    assert (status, events[-1].data["num_skipped"]) == (0, 1)
    assert [event.phase for event in events if isinstance(event, PhaseChanged)] == ["loading", "preparing"]
    report = Report.model_validate_json((tmp_path / "staging/report.json").read_bytes())
    assert [(group.rules, group.rows) for group in report.skipped] == [(["example_too_long"], [21])]
    assert report.statistics.tokens.base_model == "tiny"


def test_a_base_that_cannot_be_had_is_a_failure_of_the_base_and_not_of_the_data(make, run, tmp_path):
    base = {"base_model": str(tmp_path / "nowhere"), "models_dir": str(tmp_path / "models")}
    status, events, _ = run(make.good_zip(20), **base)
    assert (status, events[-1].code) == (1, FailureCode.BASE_MODEL)
    assert "there is no base model" in events[-1].detail
    assert not (tmp_path / "staging/report.json").exists()


def test_a_machine_without_torch_says_what_to_install(make, tmp_path):
    (tmp_path / "upload").write_bytes(make.good_zip(20))
    (tmp_path / "staging").mkdir()
    spec = {"source": str(tmp_path / "upload"), "container": "zip", "base_model": "tiny", "models_dir": str(tmp_path)}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    told = ["--spec", str(tmp_path / "spec.json"), "--staging", str(tmp_path / "staging"), "--events-fd", "1"]
    done = run_python(
        "import sys; sys.modules['torch'] = None\n"  # as if it were not installed
        f"sys.argv[1:] = {told!r}\nimport ingest.run\nfrom core.child import run_child\nrun_child(ingest.run.work)"
    )
    failure = parse(done.stdout.splitlines()[-1].encode())
    assert (failure.code, failure.retryable) == (FailureCode.BASE_MODEL, False)
    assert "with torch, which is not installed here" in failure.detail
    assert "lensmith[train]" in failure.remedy


def test_beside_a_base_the_upload_may_take_as_much_as_without_one(make, run, tmp_path):
    """torch maps 3.7 GiB: within the usual bound nothing would be left for the rows; without any, a bomb had the machine."""
    seen = []

    def look(child, event):
        if isinstance(event, Progress) and not seen:
            mapped = int(Path(f"/proc/{child.pid}/statm").read_text().split()[0]) * resource.getpagesize()
            seen.extend([resource.prlimit(child.pid, resource.RLIMIT_AS)[0], mapped])

    base = {"base_model": "tiny", "models_dir": str(tmp_path / "models")}
    status, _, _ = run(make.good_zip(20, rows=make.rows(20) * 50), on_event=look, **base)
    limit, mapped = seen
    assert status == 0
    assert 2**30 < limit - ADDRESS_SPACE_BYTES <= mapped


def test_a_url_is_only_looked_at_when_the_spec_says_so(make, run, tmp_path):
    rows = [{"image": "https://127.0.0.1/a.png", "caption": "A square."}]
    status, events, errors = run(make.lines(rows), container="jsonl", remote={})
    assert (status, errors) == (1, "")
    assert "not on the public internet" in events[-1].detail
    report = Report.model_validate_json((tmp_path / "staging/report.json").read_bytes())
    assert "url_forbidden" in report.counts.by_rule


def test_without_it_nothing_is_fetched_and_the_issue_says_who_can_change_that(make, run):
    status, events, errors = run(
        make.lines([{"image": "https://127.0.0.1/a.png", "caption": "A square."}]), container="jsonl", remote=None
    )
    assert (status, errors) == (1, "")
    assert "LENSMITH_REMOTE_IMAGES=true" in events[-1].remedy


@pytest.mark.parametrize(("broken", "retryable"), [([], True), (["{"], False)])
def test_a_set_that_only_the_network_refused_may_be_tried_again(broken, retryable, make, run):
    """`.invalid` is a name that no name server knows (RFC 6761)."""
    rows = [{"image": "https://images.invalid/a.png", "caption": "A square."}]
    data = make.lines(rows + [text.encode() for text in broken])
    status, events, _ = run(data, container="jsonl", remote={})
    assert (status, events[-1].retryable) == (1, retryable)
