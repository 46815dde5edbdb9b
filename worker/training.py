"""Training: the child gets a folder with the data set and a spec; its adapter becomes objects and a ready row."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from sqlmodel import Session

from core.errors import FailureCode, WorkFailed
from core.events import Phase
from core.ids import Prefix, new_id
from core.manifest import make_manifest
from models import dataset as datasets
from models import job as jobs
from models.adapter import Adapter, adapter_prefix
from models.dataset import Dataset, image_key
from models.device_memory import Room
from models.leases import Claim
from models.states import AdapterState
from models.work import note_resumed
from training.resources import Resources
from training.spec import TrainingSpec
from vlm.conversation import IMAGES_FOLDER, RECORDS_FILE, read_image_names
from worker import checkpoints
from worker.attempt import Attempt
from worker.capacity import num_gpus
from worker.checkpoints import Keeper
from worker.curve import Curve
from worker.kinds import Apply, Rooms, nothing
from worker.limits import Limits
from worker.recorder import Recorder

_WITH_PASSES = (Phase.TRAINING, Phase.EVALUATING)
_MEASURED = ("peak_memory_bytes", "empty_memory_bytes", "peak_memory_by_phase")


class Training:
    """`training.run` as a kind of work."""

    module = "training.run"

    def __init__(self, rooms: Rooms, *, feature_cache_bytes: int) -> None:
        self._rooms = rooms
        self._feature_cache_bytes = feature_cache_bytes

    def prepare(self, attempt: Attempt, staging: Path) -> dict[str, Any]:
        """Bring the data set into the cache and write the spec."""
        job, dataset = self._load(attempt.claim)
        dataset_dir = self._unpack(attempt, dataset)
        step = attempt.resumed_step = checkpoints.bring(self._rooms, attempt, staging)
        if step is not None:
            with self._rooms.database.write() as session:
                note_resumed(session, attempt.claim.work_id, step, fence=attempt.claim.fence)
        with self._rooms.database.read() as session:
            pass_limit = Limits(job).find(session)
        room = _room(attempt.claim, job)
        spec = TrainingSpec(
            base_model=job.base_model,
            models_dir=self._rooms.layout.models,
            dataset_dir=dataset_dir,
            dataset_digest=job.dataset_digest,
            seed=job.seed,
            features_dir=self._rooms.layout.features,
            features_bytes=self._feature_cache_bytes,
            adapter_name=job.name,
            pass_limit=pass_limit,
            beside_bytes=None if room is None else room.beside_bytes,
            alone_bytes=None if room is None else room.alone_bytes,
            resume_from=staging / checkpoints.FOLDER if step is not None else None,
            **job.request,
        )
        return spec.model_dump(mode="json")

    def may_read_hub(self, spec: dict[str, Any]) -> bool:
        """Tell that a base may lie on the Hub."""
        del spec
        return True

    def recorder(self, attempt: Attempt, staging: Path) -> Recorder:
        """Return the curve of the job, as far as it was told."""
        job, _ = self._load(attempt.claim)
        return Curve(job, Keeper(self._rooms, attempt, staging), resumed_step=attempt.resumed_step)

    def publish(self, attempt: Attempt, staging: Path, result: dict[str, Any]) -> Apply:
        """Store the adapter's files below the digest of their manifest."""
        claim = attempt.claim
        job, _ = self._load(claim)
        folder = staging / "adapter"
        manifest = make_manifest(folder)
        prefix = adapter_prefix(claim.project, manifest.sha256)
        self._rooms.storage.guarded(attempt.hold).put_folder(prefix, folder)
        adapter = Adapter(
            id=new_id(Prefix.ADAPTER),
            project=claim.project,
            job_id=job.id,
            name=job.name,
            state=AdapterState.READY,
            base_model=job.base_model,
            base_revision=result["base_revision"],
            sha256=manifest.sha256,
            size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
            metrics=result["metrics"],
        )

        def apply(session: Session) -> None:
            session.add(adapter)
            measured = {name: result[name] for name in _MEASURED}
            jobs.record(session, job.id, peak_memory_bytes=result["peak_memory_bytes"], measured=measured)

        return apply

    def salvage(self, attempt: Attempt, staging: Path) -> Apply:
        """Keep nothing: a failed run has no adapter, and its checkpoints are stored already."""
        del attempt, staging
        return nothing

    def relieve(self, attempt: Attempt) -> bool:
        """Let runs like this one take smaller passes on this device from now on; before the first pass it would not help."""
        claim = attempt.claim
        with self._rooms.database.write() as session:
            found = jobs.get(session, claim.work_id, project=claim.project)
            if found is None or found[1].fence != claim.fence or found[1].phase not in _WITH_PASSES:
                return False
            limits = Limits(found[0])
            limit = limits.next(session)
            if limit is not None:
                limits.learn(session, limit)
        return limit is not None

    def _load(self, claim: Claim) -> tuple[jobs.Job, Dataset]:
        with self._rooms.database.read() as session:
            found = jobs.get(session, claim.work_id, project=claim.project)
            dataset = found and datasets.get(session, found[0].dataset_id, project=claim.project)
        if found is None or dataset is None:
            raise WorkFailed(
                FailureCode.BAD_DATA, "The job's data set is gone.", remedy="Upload it and make a new job."
            )
        return found[0], dataset[0]

    def _unpack(self, attempt: Attempt, dataset: Dataset) -> Path:
        """Return the cached folder of a data set, made whole under a temporary name before it gets its own."""
        assert dataset.digest is not None
        target = self._rooms.layout.datasets / dataset.digest
        if target.exists():
            return target
        temporary = target.with_name(f"{dataset.digest}.{new_id(Prefix.REQUEST)}")
        try:
            self._fetch(attempt, dataset, temporary)
            try:
                temporary.rename(target)
            except OSError:
                if not target.exists():  # else another worker was faster; its folder holds the same bytes
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def _fetch(self, attempt: Attempt, dataset: Dataset, folder: Path) -> None:
        """Bring the table and every image that it names; an image must be what its name says."""
        (folder / IMAGES_FOLDER).mkdir(parents=True)
        assert dataset.digest is not None
        self._rooms.storage.fetch(dataset.records_key(dataset.digest), folder / RECORDS_FILE, check=attempt.check)
        for sha256 in read_image_names(folder):
            image = folder / IMAGES_FOLDER / sha256
            self._rooms.storage.fetch(image_key(dataset.project, sha256), image, check=attempt.check)
            if hashlib.sha256(image.read_bytes()).hexdigest() != sha256:
                raise WorkFailed(
                    FailureCode.STORAGE,
                    f"The stored image {sha256} of data set {dataset.id} is damaged.",
                    remedy="Upload the data set again; check the disk or the object store.",
                )


def _room(claim: Claim, job: jobs.Job) -> Room | None:
    """Return what a run may hold of the device that it runs on; None where the worker looked at another one."""
    is_on_processor = Resources.model_validate(job.request.get("resources", {})).gpus == 0
    return None if is_on_processor and num_gpus() else claim.room
