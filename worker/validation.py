"""Validation of a data set: the child reads the upload; what it made becomes objects and a ready row."""

import json
from pathlib import Path
from typing import Any

from sqlmodel import Session

from core.errors import FailureCode, WorkFailed
from core.events import ChildEvent, Progress
from models import dataset as datasets
from models.dataset import image_key
from models.leases import Claim
from worker.kinds import Apply, Rooms, nothing

SPLIT_SEED = 0


class Validation:
    """`ingest.run` as a kind of work."""

    module = "ingest.run"

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def prepare(self, claim: Claim, staging: Path) -> dict[str, Any]:
        """Bring the upload into the staging folder."""
        dataset = self._load(claim)
        source = staging / "upload"
        self._rooms.storage.fetch(dataset.upload_key, source)
        return {
            "source": str(source),
            "container": dataset.container,
            "seed": SPLIT_SEED,
            "on_bad_row": dataset.on_bad_row,
        }

    def publish(self, claim: Claim, staging: Path, result: dict[str, Any]) -> Apply:
        """Store images (each distinct one once), the table and the report."""
        dataset, storage = self._load(claim), self._rooms.storage
        for image in sorted((staging / "images").glob("*")):
            key = image_key(claim.project, image.name)
            if not storage.has(key):
                storage.put_file(key, image)
        storage.put_file(dataset.records_key(result["digest"]), staging / "records.parquet")
        storage.put_file(dataset.report_key(claim.fence), staging / "report.json")

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

        return apply

    def salvage(self, claim: Claim, staging: Path) -> Apply:
        """Keep the report of a set that failed."""
        report = staging / "report.json"
        if not report.exists():
            return nothing
        self._rooms.storage.put_file(self._load(claim).report_key(claim.fence), report)
        num_issues = json.loads(report.read_text())["num_issues"]

        def apply(session: Session) -> None:
            datasets.record(session, claim.work_id, num_issues=num_issues, report_fence=claim.fence, progress=None)

        return apply

    def record(self, session: Session, work_id: str, event: ChildEvent) -> None:
        """Write how far the reading is."""
        if isinstance(event, Progress):
            datasets.record(session, work_id, progress=event.model_dump(include={"step", "total_steps"}))

    def _load(self, claim: Claim) -> datasets.Dataset:
        with self._rooms.database.read() as session:
            found = datasets.get(session, claim.work_id, project=claim.project)
        if found is None:
            raise WorkFailed(FailureCode.INTERNAL, "The data set is gone.", remedy="Upload it again.")
        return found[0]
