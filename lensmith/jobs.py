"""`client.jobs`: making jobs, following them, and what may be asked of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lensmith import waiting
from lensmith.errors import ApiError, Unreachable
from lensmith.paging import all_of
from lensmith.resources import Attempt, Batch, Checkpoint, CurvePoint, DryRun, Job, LogItem, MemoryPlan
from lensmith.transport import Transport, is_passing


class Jobs:
    """`/jobs`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.batches = Batches(transport)

    def create(self, *, base_model: str, dataset: str, **options: Any) -> Job:
        """Make a job.

        `options`: name, seed, method, hyperparameters, image, resources, allow_quality_tradeoff, priority, metadata.
        """
        body = {"base_model": base_model, "dataset": dataset} | options
        return Job.model_validate(self._transport.post("/jobs", json=body))

    def dry_run(self, *, base_model: str, dataset: str, device: str | None = None, **options: Any) -> DryRun:
        """Return what a job would hold, how long it would take and what it would choose; nothing is made.

        `device`: a card such as `l4`, or `cpu`; None: the best worker that is there. `options` are those of `create`.
        """
        body = {"base_model": base_model, "dataset": dataset} | options
        question = {"dry_run": True} | ({} if device is None else {"device": device})
        return DryRun.model_validate(self._transport.post("/jobs", json=body, params=question))

    def clone(self, job_id: str, /, **changes: Any) -> Job:
        """Make a job as another one was made, but for these changes: options of `create`, laid over field by field."""
        return Job.model_validate(self._transport.post("/jobs", json={"clone_of": job_id} | changes))

    def get(self, job_id: str) -> Job:
        """Return a job."""
        return Job.model_validate(self._transport.get(f"/jobs/{job_id}"))

    def list(self, *, state: str | None = None, batch: str | None = None) -> Iterator[Job]:
        """Yield every job, newest first."""
        return all_of(self._transport, "/jobs", Job, state=state, batch=batch)

    def cancel(self, job_id: str) -> Job:
        """Ask for the end of a job."""
        return self._ask(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Ask a running job to save and to free its device."""
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Queue a paused job; it goes on from its last checkpoint."""
        return self._ask(job_id, "resume")

    def retry(self, job_id: str, *, from_checkpoint: bool = True) -> Job:
        """Queue a job that failed or was cancelled, from its last checkpoint or from the first step."""
        asked = {"from_checkpoint": from_checkpoint}
        return Job.model_validate(self._transport.post(f"/jobs/{job_id}/retry", json=asked))

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, and its checkpoints; its adapter stays."""
        self._transport.delete(f"/jobs/{job_id}")

    def attempts(self, job_id: str) -> Sequence[Attempt]:
        """Return every attempt at a job, oldest first."""
        return [Attempt.model_validate(item) for item in self._transport.get(f"/jobs/{job_id}/attempts")["items"]]

    def checkpoints(self, job_id: str) -> Sequence[Checkpoint]:
        """Return the checkpoints that a job can go on from, the newest first."""
        found = self._transport.get(f"/jobs/{job_id}/checkpoints")["items"]
        return [Checkpoint.model_validate(item) for item in found]

    def plan(self, job_id: str) -> MemoryPlan:
        """Return what a job holds in memory by phase and part, and what it held once it has finished."""
        return MemoryPlan.model_validate(self._transport.get(f"/jobs/{job_id}/plan"))

    def metrics(self, job_id: str, *, after: int = 0) -> Iterator[CurvePoint]:
        """Yield a job's curve in the order of its steps, as far as it has come."""
        for item in self._items(f"/jobs/{job_id}/metrics", after=after):
            yield CurvePoint.model_validate(item)

    def samples(self, job_id: str, *, after: int = 0) -> Iterator[LogItem]:
        """Yield the answers that a job's evaluations wrote down."""
        for item in self._items(f"/jobs/{job_id}/samples", after=after):
            yield LogItem.model_validate(item)

    def logs(self, job_id: str, *, after: int = 0, kind: str | None = None) -> Iterator[LogItem]:
        """Yield what the log holds now."""
        for item in self._items(f"/jobs/{job_id}/logs", after=after, kind=kind):
            yield LogItem.model_validate(item)

    def follow(self, job_id: str, *, after: int = 0, kind: str | None = None) -> Iterator[LogItem]:
        """Yield the log live until the job has ended. A broken connection is taken up again behind the last item."""
        patience = waiting.Patience()
        while True:
            try:
                with self._transport.events(
                    f"/jobs/{job_id}/logs", after=after, **({"kind": kind} if kind else {})
                ) as events:
                    for event in events:
                        if event.event == "end":
                            return
                        item = LogItem.model_validate_json(event.data)
                        after, patience.failures = item.seq, 0
                        yield item
            except (Unreachable, ApiError) as error:
                patience.spend(error, is_passing=is_passing(error))
            else:
                waiting.pause(patience.failures or 1)  # it was sent away, and comes back

    def wait(self, job_id: str) -> Job:
        """Wait until a job has ended; look at `state`."""
        return waiting.until(lambda: self.get(job_id), lambda job: job.has_ended)

    def _ask(self, job_id: str, action: str) -> Job:
        return Job.model_validate(self._transport.post(f"/jobs/{job_id}/{action}"))

    def _items(self, path: str, *, after: int, **params: Any) -> Iterator[dict[str, Any]]:
        while True:
            page = self._transport.get(path, after=after, limit=1000, **params)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            after = page["next_cursor"]


class Batches:
    """`/jobs/batch`: one job for every combination of some values."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, job: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], *, name: str | None = None) -> Batch:
        """Make a batch: `job` as for `jobs.create`, `grid` such as `{"method.r": [8, 16]}`."""
        body = {"job": dict(job), "grid": {field: list(values) for field, values in grid.items()}}
        return Batch.model_validate(self._transport.post("/jobs/batch", json=body | ({"name": name} if name else {})))

    def get(self, batch_id: str) -> Batch:
        """Return a batch with its jobs: how each stands, and which is the best so far."""
        return Batch.model_validate(self._transport.get(f"/jobs/batch/{batch_id}"))

    def list(self) -> Iterator[Batch]:
        """Yield every batch, newest first, without its jobs."""
        return all_of(self._transport, "/jobs/batch", Batch)

    def cancel(self, batch_id: str) -> Batch:
        """Ask for the end of every job of a batch that has not ended."""
        return Batch.model_validate(self._transport.post(f"/jobs/batch/{batch_id}/cancel"))

    def wait(self, batch_id: str) -> Batch:
        """Wait until every job of a batch has ended."""
        return waiting.until(lambda: self.get(batch_id), lambda batch: batch.has_ended)
