"""The objects that rows name: by key for a backup, by prefix for the janitor.

Images are named by the tables of data sets, not by rows.
"""

from sqlmodel import Session, col, select

from core.manifest import MANIFEST_FILE
from models.adapter import Adapter
from models.archive import Archive
from models.checkpoint import Checkpoint
from models.dataset import Dataset
from models.job import Job
from models.upload import Upload


def keys(session: Session) -> list[str]:
    """Return the key that stands for each thing with objects: the manifest of a folder, the file of anything else."""
    found = [f"{adapter.prefix}/{MANIFEST_FILE}" for adapter in session.exec(select(Adapter))]
    found += [f"{checkpoint.prefix}/{MANIFEST_FILE}" for checkpoint in session.exec(select(Checkpoint))]
    for dataset in datasets_of(session):
        found += _of_dataset(dataset)
    return found + _archives(session)


def prefixes(session: Session) -> set[str]:
    """Return the prefixes below which everything is named by a row, and the keys that are named one by one."""
    found = {adapter.prefix for adapter in session.exec(select(Adapter))}
    found |= {checkpoint.prefix for checkpoint in session.exec(select(Checkpoint))}
    found |= {dataset.prefix for dataset in datasets_of(session)}
    found |= {upload.prefix for upload in session.exec(select(Upload))}
    return found | set(_archives(session))


def datasets_of(session: Session) -> list[Dataset]:
    """Return the data sets that were not deleted, of every project."""
    return list(session.exec(select(Dataset).where(col(Dataset.deleted_at).is_(None))))


def _archives(session: Session) -> list[str]:
    archived = select(Job).where(col(Job.archived_seq).is_not(None), col(Job.deleted_at).is_(None))
    return [
        Archive(job_id=job.id, project=job.project, seq=job.archived_seq or 0).key for job in session.exec(archived)
    ]


def _of_dataset(dataset: Dataset) -> list[str]:
    found = []
    if dataset.upload_sha256 is not None:
        found.append(dataset.upload_key)
    if dataset.digest is not None:
        found.append(dataset.records_key(dataset.digest))
    if dataset.report_fence is not None:
        found.append(dataset.report_key(dataset.report_fence))
    return found
