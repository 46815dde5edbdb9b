"""Validation of a data set: the child reads the upload; what it made becomes objects and a ready row."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlmodel import Session

from core.clock import utc_now
from core.errors import FailureCode, WorkFailed
from core.events import ChildEvent, Phase, Progress
from core.storage import Storage
from ingest.pack import packed_images
from ingest.size_tally import SIZES_FILE
from models import dataset as datasets
from models import leases
from models.dataset import image_key
from models.leases import Claim
from worker.attempt import Attempt
from worker.kinds import Apply, Rooms, nothing
from worker.recorder import Recorder
from worker.sources import Sources, container_of

SPLIT_SEED = 0
_STORED_AT_ONCE = 8


class Validation:
    """`ingest.run` as a kind of work."""

    module = "ingest.run"

    def __init__(self, rooms: Rooms, sources: Sources, *, remote_images: bool) -> None:
        self._rooms = rooms
        self._sources = sources
        self._remote_images = remote_images

    def prepare(self, attempt: Attempt, staging: Path) -> dict[str, Any]:
        """Bring the upload into the staging folder; a source is fetched once, and then is the upload."""
        dataset = self._load(attempt.claim)
        upload, container = staging / "upload", dataset.container
        if container is None:
            container = self._fetch(attempt, dataset, upload)
        else:
            self._rooms.storage.fetch(dataset.upload_key, upload, check=attempt.check)
        remote: dict[str, Any] | None = {} if self._remote_images else None  # fetch, within the usual bounds
        return {
            "source": str(upload),
            "container": container,
            "seed": SPLIT_SEED,
            "columns": dataset.columns or {},
            "remote": remote,
            "on_bad_row": dataset.on_bad_row,
            "base_model": dataset.base_model,
            "image": dataset.image or {},
            "models_dir": str(self._rooms.layout.models),
        }

    def may_read_hub(self, spec: dict[str, Any]) -> bool:
        """Tell whether a base is named, which may lie on the Hub; else the child only meets what strangers sent."""
        return spec["base_model"] is not None

    def recorder(self, attempt: Attempt, staging: Path) -> Recorder:
        """Return who writes how far the reading is."""
        del attempt, staging
        return _Reading()

    def publish(self, attempt: Attempt, staging: Path, result: dict[str, Any]) -> Apply:
        """Store images (each distinct one once), the table and the report."""
        claim, storage = attempt.claim, self._rooms.storage.guarded(attempt.hold)
        dataset = self._load(claim)
        _store_images(storage, claim, staging, grace_s=attempt.settings.janitor_grace_s)
        storage.put_file(dataset.records_key(result["digest"]), staging / "records.parquet")
        storage.put_file(dataset.report_key(claim.fence), staging / "report.json")
        sizes = json.loads((staging / SIZES_FILE).read_text())

        def apply(session: Session) -> None:
            datasets.record(
                session,
                claim.work_id,
                digest=result["digest"],
                num_examples=result["num_examples"],
                num_issues=result["num_issues"],
                num_skipped=result["num_skipped"],
                num_images=result["num_images"],
                splits=result["splits"],
                report_fence=claim.fence,
                progress=None,
            )
            datasets.record_sizes(session, claim.work_id, sizes)

        return apply

    def relieve(self, attempt: Attempt) -> bool:
        """Tell that the rows of a data set take what they take."""
        del attempt
        return False

    def salvage(self, attempt: Attempt, staging: Path) -> Apply:
        """Keep the report of a set that failed."""
        report = staging / "report.json"
        if not report.exists():
            return nothing
        claim, storage = attempt.claim, self._rooms.storage.guarded(attempt.hold)
        storage.put_file(self._load(claim).report_key(claim.fence), report)
        num_issues = json.loads(report.read_text())["num_issues"]

        def apply(session: Session) -> None:
            datasets.record(session, claim.work_id, num_issues=num_issues, report_fence=claim.fence, progress=None)

        return apply

    def _fetch(self, attempt: Attempt, dataset: datasets.Dataset, upload: Path) -> str:
        """Fetch, store and record a source, so that the next attempt reads the same bytes."""
        assert dataset.source is not None
        sha256 = self._sources.fetch(dataset.source, upload, attempt)
        container = container_of(upload, dataset.filename).value
        stored = self._rooms.storage.guarded(attempt.hold).put_file(dataset.fetched_key(sha256), upload)
        with self._rooms.database.write() as session:
            if leases.set_phase(
                session, attempt.claim, Phase.PREPARING
            ):  # else fenced: what another attempt fetched counts
                datasets.record(
                    session,
                    attempt.claim.work_id,
                    container=container,
                    upload_sha256=stored.sha256,
                    upload_bytes=stored.size_bytes,
                )
        return container

    def _load(self, claim: Claim) -> datasets.Dataset:
        with self._rooms.database.read() as session:
            found = datasets.get(session, claim.work_id, project=claim.project)
        if found is None:
            raise WorkFailed(FailureCode.INTERNAL, "The data set is gone.", remedy="Upload it again.")
        return found[0]


class _Reading(Recorder):
    """Writes how far the reading is."""

    def record(self, session: Session, work_id: str, event: ChildEvent) -> None:
        """Write it on the data set's row."""
        if isinstance(event, Progress):
            datasets.record(session, work_id, progress=event.model_dump(include={"step", "total_steps"}))


def _store_images(storage: Storage, claim: Claim, staging: Path, *, grace_s: float) -> None:
    """Store what is not there yet, several at once: each is a few round trips, and most are small.

    What has been there for long is stored again: the janitor may be about to remove it, because no table names it yet.
    """
    fresh = utc_now() - timedelta(seconds=grace_s / 2)

    def store(image: tuple[str, bytes]) -> None:
        sha256, data = image
        key = image_key(claim.project, sha256)
        if not storage.is_younger(key, fresh):
            storage.put_bytes(key, data)

    images = packed_images(staging)
    with ThreadPoolExecutor(_STORED_AT_ONCE, "storing") as threads:
        while batch := list(islice(images, _STORED_AT_ONCE)):
            list(threads.map(store, batch))
