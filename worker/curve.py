"""The curve of a job over its attempts: each step is told once, though the last steps of a lost attempt are done again."""

from typing import Any

from sqlmodel import Session

from core.events import Checkpoint, ChildEvent, Limited, Metric, Planned, Resolved
from models import job as jobs
from models.job import Job
from training.pass_limit import PassLimit
from training.resources import Resources
from worker.capacity import device_name, num_gpus
from worker.checkpoints import Keeper
from worker.limits import Limits
from worker.recorder import Recorder

_PROGRESS = ("step", "total_steps", "epoch", "examples_per_s", "eta_s")
_EVALUATION = "eval_loss"  # which only a validation has


class Curve(Recorder):
    """Takes notice of the events of one attempt at a job.

    An attempt that goes on from a checkpoint of step k does the steps after it again, to the same figures, and so does
    one that begins at the first step with the settings and on the hardware of the one before: what the log has is not
    written again. One that begins at the first step with others is another run: the curve begins anew with it.
    """

    def __init__(self, job: Job, keeper: Keeper, *, resumed_step: int | None) -> None:
        progress = job.progress or {}
        self._job = job
        self._keeper = keeper
        self._told = int(progress.get("told_step") or 0)
        self._evaluated = int(progress.get("evaluated_step") or 0)
        self._before = None if resumed_step is not None else (job.settings, job.provenance)
        self._begins_anew = False

    def hear(self, event: ChildEvent) -> bool:
        """Keep a checkpoint; tell whether a metric is news."""
        if isinstance(event, Checkpoint):
            self._keeper.offer(event)
        elif isinstance(event, Resolved):
            self._compare(event)
        elif isinstance(event, Metric):
            return self._is_news(event.data)
        return True

    def record(self, session: Session, work_id: str, event: ChildEvent) -> None:
        """Write progress, the last figures, and the resolved settings."""
        if isinstance(event, Resolved):
            if self._begins_anew:
                jobs.begin_anew(session, work_id)
                self._begins_anew = False
            jobs.record(session, work_id, settings=event.settings, provenance=event.provenance)
        elif isinstance(event, Planned):
            jobs.record_plan(session, work_id, self._placed(event.plan))
        elif isinstance(event, Limited):
            Limits(self._job).learn(session, PassLimit.model_validate(event.limit))
        elif isinstance(event, Metric):
            told = {"told_step": self._told, "evaluated_step": self._evaluated}
            jobs.merge_metrics(session, work_id, dict(event.data), progress_names=_PROGRESS, told=told)

    def written(self, event: ChildEvent) -> None:
        """Let a checkpoint be named: whoever goes on from it does not tell the steps before it again."""
        if isinstance(event, Checkpoint):
            self._keeper.allow(event.step)

    def settle(self) -> None:
        """Wait until the last checkpoint is stored."""
        self._keeper.settle()

    def _placed(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Return a run's plan with where it runs, and what all its processes need of what that has."""
        if plan["device"] != "cpu":
            return plan | {"place": device_name()}
        if num_gpus():  # the processor of a worker whose GPU's memory is looked at
            return plan | {"place": "CPU", "needed": 0}
        copies = Resources.model_validate(self._job.request.get("resources", {})).resolved_processes
        return plan | {"place": device_name(), "needed": copies * plan["needed"]}

    def _compare(self, event: Resolved) -> None:
        if self._before is not None and self._told and self._before != (event.settings, event.provenance):
            self._told = self._evaluated = 0
            self._begins_anew = True
        self._before = None

    def _is_news(self, figures: dict[str, Any]) -> bool:
        step = int(figures["step"] or 0)
        if _EVALUATION in figures:
            is_news, self._evaluated = step > self._evaluated, max(step, self._evaluated)
        else:
            is_news, self._told = step > self._told, max(step, self._told)
        return is_news
