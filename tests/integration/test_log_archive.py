"""Old logs move into objects: whoever reads sees the same bytes before and after, and whenever a worker dies in between."""

import gzip
import json
from datetime import timedelta

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from sqlmodel import col, func, select

from api.app import create_app
from core.clock import utc_now
from core.errors import WorkFailed
from core.storage import Storage
from models import archive as archives
from models import event, leases
from models import job as jobs
from models.archive import Archive
from models.event import Event, Item
from models.history import History
from models.states import EventKind, WorkState
from models.work import Work, transition
from tests.integration.jobs import run_job
from worker import archive as worker_archive
from worker.archive import archive_logs

NUM = 9  # of items: two states, six others, the end
FOLLOW = {"Accept": "application/x-ndjson"}


@pytest.fixture
def storage(settings) -> Storage:
    return Storage.from_url(settings.resolved_storage_url)


@pytest.fixture
def client(settings, database):
    there = settings.model_copy(update={"database_url": database.url})
    with TestClient(create_app(there), base_url="http://localhost", raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def claim(database):
    """A job whose log has items of every form."""
    claim = run_job(database)
    items = [
        Item(kind=EventKind.LOG, level="info", message='a\nb "c" \\ \u2028 é \U0001f642 \x00'),
        Item(kind=EventKind.METRIC, data={"z": 1.0, "a": 1e-320, "loss": 0.1 + 0.2, "big": 2**60, "none": None}),
        Item(kind=EventKind.SAMPLE, data={"nested": [{"b": [], "a": {}}, True, "x\ny"]}),
        Item(kind=EventKind.CHECKPOINT, level="info", message="Step 1,000 is saved.", data={"step": 1000}),
        Item(kind=EventKind.METRIC, data={"step": 2}),
        Item(kind=EventKind.LOG, level="warning", message=""),
    ]
    with database.write() as session:
        event.append(session, claim.work_id, items)
    return claim


def end(database, claim, state=WorkState.SUCCEEDED, *, days_ago=31):
    with database.write() as session:
        assert leases.finish(session, claim, state, failure={"detail": "d"} if state is WorkState.FAILED else None)
        session.execute(sa.update(Work).values(finished_at=utc_now() - timedelta(days=days_ago)))


def num_rows(database):
    with database.read() as session:
        return session.exec(select(func.count()).select_from(Event).where(Event.work_id == "job_1")).one()


def archived_seq(database):
    with database.read() as session:
        return session.exec(select(jobs.Job.archived_seq)).one()


def all_ways(client):
    """Return the bytes of every way to read the log."""
    path = "/jobs/job_1/logs"
    queries = [f"after={after}&limit={limit}" for after in range(NUM + 3) for limit in (1, 3, 5, 1000)]
    queries += ["kind=metric", "kind=metric&limit=1", "kind=metric,log&after=4", "kind=checkpoint&after=8"]
    pages = [client.get(f"{path}?{query}").content for query in queries]
    streams = [client.get(f"{path}?after={after}", headers=FOLLOW).content for after in (0, 4, 9, 12)]
    streams += [client.get(f"{path}?follow=true&kind=metric", headers={"Last-Event-ID": "4"}).content]
    return pages + streams


def test_every_page_and_stream_is_the_same_before_and_after(client, database, storage, claim):
    end(database, claim)
    before = all_ways(client)
    archive_logs(database, storage, keep_days=30)
    assert (num_rows(database), archived_seq(database)) == (0, NUM)
    assert all_ways(client) == before
    lines = gzip.decompress(storage.read("default/jobs/job_1/log-9.ndjson.gz")).splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, NUM + 1))


def test_only_jobs_that_ended_long_enough_ago_are_archived(database, storage, claim):
    archive_logs(database, storage, keep_days=0)
    assert archived_seq(database) is None, "it runs"
    end(database, claim, days_ago=29)
    archive_logs(database, storage, keep_days=30)
    assert archived_seq(database) is None
    archive_logs(database, storage, keep_days=28)
    assert archived_seq(database) == NUM


def test_a_worker_that_dies_between_the_object_and_the_rows_leaves_both(client, database, storage, claim, monkeypatch):
    end(database, claim)
    before = all_ways(client)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(archives, "settle", die)
        with pytest.raises(KeyboardInterrupt):
            archive_logs(database, storage, keep_days=30)
    assert storage.has("default/jobs/job_1/log-9.ndjson.gz")
    assert (num_rows(database), archived_seq(database)) == (NUM, None)
    assert all_ways(client) == before
    archive_logs(database, storage, keep_days=30)
    assert (num_rows(database), archived_seq(database)) == (0, NUM)
    assert all_ways(client) == before


def retry(database):
    with database.write() as session:
        assert transition(session, "job_1", WorkState.QUEUED)
        event.note(session, "job_1", "Queued again.", state=WorkState.QUEUED)


def run_again(database):
    from core.queue import Queue
    from models import claims

    with database.write() as session:
        return claims.claim(session, Queue.GPU, worker_id="w", lease_s=600)


def test_a_retried_job_goes_on_with_the_numbers_and_is_archived_again_as_a_whole(client, database, storage, claim):
    end(database, claim, WorkState.FAILED)
    archive_logs(database, storage, keep_days=30)
    retry(database)
    assert [item["seq"] for item in client.get("/jobs/job_1/logs").json()["items"]] == list(range(1, NUM + 2))
    assert [item["seq"] for item in client.get("/jobs/job_1/logs?after=7&limit=2").json()["items"]] == [8, 9]
    assert [item["seq"] for item in client.get("/jobs/job_1/logs?after=8&limit=2").json()["items"]] == [9, 10]
    archive_logs(database, storage, keep_days=0)
    assert archived_seq(database) == NUM, "it waits to run again"
    end(database, run_again(database))
    before = all_ways(client)
    assert num_rows(database) == 3
    archive_logs(database, storage, keep_days=30)
    assert (num_rows(database), archived_seq(database)) == (0, NUM + 3)
    assert all_ways(client) == before
    assert [key for key in storage.keys("default") if "/log-" in key] == ["default/jobs/job_1/log-12.ndjson.gz"]


def test_a_retry_between_the_object_and_the_rows_keeps_the_rows(client, database, storage, claim, monkeypatch):
    end(database, claim, WorkState.FAILED)
    packed = archives.packed

    def then_a_retry(pages):
        yield from packed(pages)
        retry(database)

    monkeypatch.setattr(archives, "packed", then_a_retry)
    archive_logs(database, storage, keep_days=30)
    assert (num_rows(database), archived_seq(database)) == (NUM + 1, None)
    assert len(client.get("/jobs/job_1/logs").json()["items"]) == NUM + 1


def test_a_worker_that_froze_and_wakes_after_another_archived_changes_nothing(database, storage, claim, client):
    """It had read the log when the job had 9 items; since then the job was retried, and archived with 12."""
    end(database, claim, WorkState.FAILED)
    frozen = Archive(job_id="job_1", project="default", seq=NUM)
    retry(database)
    end(database, run_again(database))
    archive_logs(database, storage, keep_days=30)
    before = all_ways(client)
    worker_archive._archive(database, storage, frozen, 0)
    assert archived_seq(database) == NUM + 3
    assert all_ways(client) == before


def test_half_a_log_gets_no_name(database, storage, claim):
    end(database, claim)
    with database.write() as session:
        session.execute(sa.delete(Event).where(col(Event.work_id) == "job_1", col(Event.seq) == 5))
    archive_logs(database, storage, keep_days=30)
    assert archived_seq(database) is None
    assert num_rows(database) == NUM - 1
    assert not [key for key in storage.keys("") if "/log-" in key or key.startswith("staging/")]


def test_a_log_of_many_pages_is_archived_and_read_whole(database, storage, claim, monkeypatch):
    monkeypatch.setattr(worker_archive, "PAGE", 7)
    with database.write() as session:
        event.append(session, "job_1", [Item(kind=EventKind.METRIC, data={"step": n}) for n in range(500)])
    end(database, claim)
    history = History(database, storage)
    before = [row.model_dump() for row in history.page("job_1", after=0, limit=1000)]
    archive_logs(database, storage, keep_days=30)
    assert num_rows(database) == 0
    assert [row.model_dump() for row in history.page("job_1", after=0, limit=1000)] == before
    pages = list(history.pages("job_1", after=3, size=100, kinds=frozenset({EventKind.METRIC})))
    assert [item.seq for page in pages for item in page.items] == [4, 7, *range(9, 509)]
    assert (pages[-1].read_seq, pages[-1].last_seq) == (509, 509)


def test_an_archive_that_is_missing_is_told_and_not_an_empty_log(client, database, storage, claim):
    end(database, claim)
    archive_logs(database, storage, keep_days=30)
    storage.delete("default/jobs/job_1/log-9.ndjson.gz")
    answer = client.get("/jobs/job_1/logs")
    assert answer.status_code == 503
    assert "log-9" in answer.json()["detail"]
    with pytest.raises(WorkFailed):
        History(database, storage).page("job_1", after=0, limit=5)
    assert client.get("/jobs/job_1/logs?follow=true").content == b"", "closed without an end"
