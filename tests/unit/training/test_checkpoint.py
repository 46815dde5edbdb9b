"""The folders: what is whole is found, what is torn is not, and a save that dies leaves no half."""

import os
import shutil
import signal

import pytest

from core.errors import FailureCode, WorkFailed
from core.manifest import FolderDamaged, make_manifest
from tests.unit.training.conftest import Album, Run
from training import checkpoint, pipeline
from training.checkpoint import CHECKPOINTS_FOLDER, RECORD_FILE
from training.spec import TrainingSpec

_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


@pytest.fixture(scope="module")
def written(tmp_path_factory, models_dir):
    """Return the checkpoints of a real run: steps 2 and 4."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "dataset").mkdir()
    Album(folder / "dataset").colours(4)
    run = Run(folder / "run")
    asked = {"max_steps": 4, "batch_size": 2, "learning_rate": 5e-3}
    spec = {"base_model": "tiny", "models_dir": models_dir, "dataset_dir": folder / "dataset", "dataset_digest": "d1"}
    pipeline.fine_tune(TrainingSpec.model_validate(spec | {"hyperparameters": asked}), run.child)
    return run.child.staging / CHECKPOINTS_FOLDER


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / CHECKPOINTS_FOLDER)


@pytest.fixture
def newest(run):
    """Return the step of the newest checkpoint, and the warnings."""
    child_run = run("reader")

    def newest(folder):
        before = len(child_run.events)
        found = checkpoint.newest(folder, child_run.child.events)
        told = child_run.events[before:]
        return found and found.record.step, [event.message for event in told if event.level == "warning"]

    return newest


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save(folder, step):
    """Save the state of step 4 as another step's."""
    record = checkpoint.read(folder / "step-00000004").record
    part = checkpoint.begin(folder, step)
    for path in (folder / "step-00000004").iterdir():
        if path.name not in {RECORD_FILE, "manifest.json"}:
            shutil.copyfile(path, part / path.name)
    return checkpoint.commit(part, record.model_copy(update={"step": step}))


def test_the_newest_whole_checkpoint_is_found(folder, newest):
    assert newest(folder) == (4, [])
    record = checkpoint.read(folder / "step-00000004").record
    assert (record.epoch, record.examples, record.identity.dataset_digest) == (2, 0, "d1")


def test_where_nothing_was_saved_nothing_is_found(tmp_path, newest):
    assert newest(tmp_path / "no such folder") == (None, [])


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", RECORD_FILE])
@pytest.mark.parametrize("harm", [truncate, flip, os.remove], ids=["truncated", "flipped", "missing"])
def test_a_torn_checkpoint_is_left_out_with_a_reason(folder, newest, name, harm):
    harm(folder / "step-00000004" / name)
    step, (warning,) = newest(folder)
    assert step == 2
    assert "step-00000004 is damaged" in warning
    assert name in warning


@pytest.mark.parametrize("harm", [truncate, flip, os.remove], ids=["truncated", "flipped", "missing"])
def test_a_torn_manifest_is_left_out(folder, newest, harm):
    harm(folder / "step-00000004" / "manifest.json")
    step, warnings = newest(folder)
    assert (step, len(warnings)) == (2, 1)


def reseal(path):
    """Give a changed checkpoint a manifest that fits."""
    (path / "manifest.json").unlink()
    make_manifest(path)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_file_with_the_right_digest_that_cannot_be_loaded_is_left_out(folder, name):
    path = folder / "step-00000004"
    (path / name).write_bytes(b"not a file of tensors, and not a pickle")
    reseal(path)
    with pytest.raises(FolderDamaged, match=f"{name} cannot be loaded"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("optimizer.pt", "optimizer.pt is missing"), ("rng_state.pth", "state of the random numbers")],
)
def test_a_checkpoint_that_never_had_a_file_is_left_out(folder, name, reason):
    path = folder / "step-00000004"
    (path / name).unlink()
    reseal(path)
    with pytest.raises(FolderDamaged, match=reason):
        checkpoint.read(path)


def test_a_checkpoint_under_another_step_s_name_is_left_out(folder, newest):
    (folder / "step-00000004").rename(folder / "step-00000009")
    step, (warning,) = newest(folder)
    assert step == 2
    assert "of step 4" in warning


def test_a_temporary_name_is_no_checkpoint(folder, newest):
    (folder / "step-00000004").rename(folder / "step-00000004.part")
    assert newest(folder) == (2, [])


def test_a_new_checkpoint_takes_the_oldest_one_away(folder, newest):
    saved = save(folder, 6)
    assert names(folder) == ["step-00000004", "step-00000006"]
    assert saved.path == folder / "step-00000006"
    assert newest(folder) == (6, [])


def test_a_checkpoint_that_cannot_be_read_back_gets_no_name_and_takes_none_away(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "make_manifest", lambda path: [make_manifest(path), flip(path / "optimizer.pt")])
    with pytest.raises(WorkFailed) as failure:
        save(folder, 6)
    assert (failure.value.code, failure.value.retryable) == (FailureCode.STORAGE, True)
    assert names(folder) == ["step-00000002", "step-00000004", "step-00000006.part"]


def test_a_run_that_begins_removes_what_is_not_its_own(folder):
    save(folder, 6)
    (folder / "step-00000008.part").mkdir()
    (folder / "stray").write_text("x")
    checkpoint.sweep(folder, last_step=4)
    assert names(folder) == ["step-00000004"]
    checkpoint.sweep(folder, last_step=0)
    assert names(folder) == []


def test_libraries_of_another_version_are_told(folder, run):
    record = checkpoint.read(folder / "step-00000004").record
    child_run = run()
    found = checkpoint.find(folder, events=child_run.child.events)
    assert found.record == record
    check = {"identity": record.identity, "events": child_run.child.events}
    checkpoint.check(found, versions=record.versions, **check)
    assert child_run.events == []
    checkpoint.check(found, versions=record.versions | {"torch": "1.0"}, **check)
    (warning,) = child_run.events
    assert (warning.level, "other versions of torch" in warning.message) == ("warning", True)


def killed_at_change(folder, number, act):
    """Fork a process that acts, and is killed before its n-th change of the disk; tell whether it came that far."""
    process = os.fork()
    if process == 0:
        import sys

        changes = iter(range(number))

        def die(event, arguments):
            is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (is_write or event in _CHANGES) and next(changes, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(die)
            act(folder)
        finally:
            os._exit(0)
    _, status = os.waitpid(process, 0)
    return status == signal.SIGKILL


def test_a_save_that_is_killed_before_any_of_its_changes_leaves_only_whole_checkpoints(written, tmp_path, newest):
    number, found = 0, []
    while True:
        folder = shutil.copytree(written, tmp_path / f"try-{number}" / CHECKPOINTS_FOLDER)
        is_killed = killed_at_change(folder, number, lambda folder: save(folder, 6))
        named = [path for path in folder.iterdir() if not path.name.endswith(".part")]
        assert [checkpoint.read(path).record.step for path in sorted(named)][-1] >= 4
        step, warnings = newest(folder)
        assert warnings == []
        found.append(step)
        checkpoint.sweep(folder, last_step=step)
        assert not any(path.name.endswith(".part") for path in folder.iterdir())
        if not is_killed:
            break
        number += 1
    assert found == sorted(found)
    assert {4, 6} == set(found)
    assert number > 20
