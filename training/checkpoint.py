"""Checkpoints on disk: under its own name a checkpoint is whole, or it is not there.

```text
checkpoints/
├── step-00000012/                     a whole one; the newest two are kept
│   ├── adapter_model.safetensors      what was trained, float32, with PEFT's adapter_config.json
│   ├── optimizer.pt, scheduler.pt     (and scaler.pt in fp16)
│   ├── rng_state.pth                  one for each process: rng_state_<n>.pth
│   ├── trainer_state.json             transformers' counters
│   ├── checkpoint.json                `Record`: the step, the place in the epoch, which run it belongs to
│   └── manifest.json                  the sha256 of every file
└── step-00000018.part/                on its way in or out; removed at the next start
```
"""

import hashlib
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

from core.errors import FailureCode, WorkFailed
from core.events import Emitter
from core.manifest import MANIFEST_FILE, FolderDamaged, Manifest, make_manifest, verify
from training.export import WEIGHTS_FILE

CHECKPOINTS_FOLDER = "checkpoints"
RECORD_FILE = "checkpoint.json"
NUM_KEPT = 2

_NAME = re.compile(r"step-(\d{8})")
_PART = ".part"
_REQUIRED = frozenset({RECORD_FILE, WEIGHTS_FILE, "optimizer.pt", "scheduler.pt", "trainer_state.json"})


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_CHANGES_NOTHING = frozenset({"checkpoint_every", "compact_memory"})


class Identity(_Document):
    """What a run must share with the one that it continues: with any of it changed, it would be neither of the two.

    Attributes:
        method: As it was settled.
        hyperparameters: The resolved schedule, without what changes no number: how often it is saved, who keeps what is free.
        image: How images are cut.
    """

    dataset_digest: str
    base_revision: str
    processor_digest: str
    chat_template_digest: str
    seed: int
    num_processes: int
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    image: dict[str, Any]

    @classmethod
    def of(cls, settings: dict[str, Any], provenance: dict[str, Any]) -> Self:
        """Return it from what the run resolved to (`core.events.Resolved`)."""
        hyperparameters = settings["hyperparameters"].items()
        return cls(
            dataset_digest=provenance["dataset_digest"],
            base_revision=provenance["base_model"]["revision"],
            processor_digest=provenance["processor_digest"],
            chat_template_digest=provenance["chat_template_digest"],
            seed=provenance["seed"],
            num_processes=int(os.environ.get("WORLD_SIZE", "1")),  # torchrun's word
            method=settings["method"],
            hyperparameters={name: value for name, value in hyperparameters if name not in _CHANGES_NOTHING},
            image=settings["image"],
        )

    def differences(self, other: "Identity") -> list[str]:
        """Return a clause for each field that is another in `other`."""
        mine, others = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return [
            f"{field} was {mine.get(field)!r} and is {others.get(field)!r}"
            for field in mine | others
            if mine.get(field) != others.get(field)
        ]


class Record(_Document):
    """What `checkpoint.json` says.

    Attributes:
        version: Of this layout; another one is not read.
        step: The last finished optimizer step.
        epoch: Epochs that were finished.
        examples: Examples of the epoch under way that were taken: the sampler's position.
        loss: Of that step.
        versions: Of the libraries that wrote it.
    """

    version: Literal[1] = 1
    step: int
    epoch: int
    examples: int
    loss: float | None
    identity: Identity
    versions: dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint."""

    path: Path
    record: Record
    manifest: Manifest


def find(folder: Path, *, events: Emitter) -> Checkpoint | None:
    """Return the checkpoint that a run goes on from; None, with a warning, if none in the folder is whole."""
    found = newest(folder, events)
    if found is None:
        events.log("There is no whole checkpoint to go on from; training begins at its first step.", level="warning")
    return found


def check(found: Checkpoint, identity: Identity, *, versions: dict[str, str | None], events: Emitter) -> None:
    """See that a checkpoint is of the run that goes on from it.

    Raises:
        WorkFailed: It belongs to another run.
    """
    _check_same_run(found.record, identity)
    if found.record.versions != versions:
        changed = sorted(name for name, version in found.record.versions.items() if versions.get(name) != version)
        events.log(
            f"The checkpoint of step {found.record.step:,} was made with other versions of {', '.join(changed)}; "
            "the run may come out slightly different from one that was never interrupted.",
            level="warning",
        )


def newest(folder: Path, events: Emitter) -> Checkpoint | None:
    """Return the newest checkpoint of a folder that verifies; those that do not are told in a warning."""
    for path in reversed(_named(folder)):
        try:
            return read(path)
        except FolderDamaged as damage:
            events.log(f"The checkpoint {path.name} is damaged and left out: {damage}", level="warning")
    return None


def read(path: Path) -> Checkpoint:
    """Return a checkpoint whose every byte was compared with its manifest, and whose every file was loaded.

    Raises:
        FolderDamaged: It is not whole.
    """
    manifest = verify(path, _manifest_digest(path))
    if missing := sorted(_REQUIRED - manifest.files.keys()):
        raise FolderDamaged(f"The file {missing[0]} is missing.")
    try:
        record = Record.model_validate_json((path / RECORD_FILE).read_bytes())
    except ValidationError as error:
        raise FolderDamaged(f"{RECORD_FILE} is not a record of this version.") from error
    if path.name.removesuffix(_PART) != _name(record.step):
        raise FolderDamaged(f"{RECORD_FILE} is of step {record.step}.")
    if sum(name.startswith("rng_state") for name in manifest.files) != record.identity.num_processes:
        raise FolderDamaged("It has not one state of the random numbers for each process.")
    for name in manifest.files:
        _load(path / name)
    return Checkpoint(path=path, record=record, manifest=manifest)


def begin(folder: Path, step: int) -> Path:
    """Return the folder, under a temporary name, that the state of a step is to be written to."""
    path = folder / f"{_name(step)}{_PART}"
    path.mkdir(parents=True, exist_ok=True)  # with several processes each writes a part of it
    return path


def commit(path: Path, record: Record) -> Checkpoint:
    """Give a written checkpoint its name, once it was read back and is on the disk; then remove all but the newest two.

    Raises:
        WorkFailed: The disk does not keep what is written to it.
    """
    with storing(record.step):
        (path / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        make_manifest(path)
        written = read(path)
        for file in path.iterdir():
            _sync(file)
        _sync(path)
        final = path.rename(path.with_name(_name(record.step)))
        _sync(final.parent)
    for old in _named(final.parent)[:-NUM_KEPT]:
        _remove(old)
    return Checkpoint(path=final, record=written.record, manifest=written.manifest)


@contextmanager
def storing(step: int) -> Iterator[None]:
    """Turn what a disk does not take into a failure of storage; torch reports a full one as a bare `RuntimeError`.

    Raises:
        WorkFailed: `storage`.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, SafetensorError, FolderDamaged) as error:
        raise WorkFailed(
            FailureCode.STORAGE,
            f"The checkpoint of step {step:,} could not be saved: {error}"[:500],
            remedy="Give the worker room on its disk, and retry the job.",
            retryable=True,
        ) from error


def sweep(folder: Path, *, last_step: int) -> None:
    """Remove what is not of the run that begins now: temporary names, and checkpoints after `last_step`."""
    if not folder.is_dir():
        return
    kept = {_name(step) for step in map(_step, _named(folder)) if step <= last_step}
    for path in folder.iterdir():
        if path.name not in kept:
            _remove(path)


def _check_same_run(record: Record, identity: Identity) -> None:
    if record.identity.dataset_digest != identity.dataset_digest:
        raise WorkFailed(
            FailureCode.BAD_DATA,
            f"The checkpoint of step {record.step:,} was made from another data set: its digest was "
            f"{record.identity.dataset_digest} and is {identity.dataset_digest}.",
            remedy="Go on with the data set that the run began with, or make a new job for this one.",
        )
    if differences := record.identity.differences(identity):
        raise WorkFailed(
            FailureCode.STORAGE,
            f"The checkpoint of step {record.step:,} belongs to another run: {'; '.join(differences)}.",
            remedy="Set it back to what it was, or make a new job, which begins at its first step.",
        )


def _name(step: int) -> str:
    return f"step-{step:08}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _named(folder: Path) -> list[Path]:
    """Return the folders that have a checkpoint's own name, the oldest first."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def _remove(path: Path) -> None:
    """Take the name away first: half a removal must not look like a checkpoint."""
    part = path if path.suffix == _PART else path.rename(path.with_name(f"{path.name}{_PART}"))
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink()


def _manifest_digest(path: Path) -> str:
    """Return the digest of the manifest itself; what cannot be read, `verify` reports."""
    try:
        return hashlib.sha256((path / MANIFEST_FILE).read_bytes()).hexdigest()
    except OSError:
        return ""


def _load(path: Path) -> None:
    """Load a file of tensors as the trainer will, without running anything that it holds."""
    try:
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix in {".pt", ".pth"}:
            with safe_globals():  # type: ignore[no-untyped-call]  # NumPy's arrays, in the states of random numbers
                torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise FolderDamaged(f"The file {path.name} cannot be loaded.") from error


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
