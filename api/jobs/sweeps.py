"""The rules of a batch: a grid of overrides laid over one job, every combination checked before anything is written."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from sqlmodel import Session

from api.base_models.names import check_base_model
from api.idempotency import Answer
from api.jobs import service
from api.jobs.batch_schemas import MAX_JOBS, BatchCreate, read_batch
from api.jobs.outlooks import Key, NotPlanned, Outlooks, Question
from api.jobs.schemas import JobCreate
from api.jobs.service import Accepted
from api.text import NAME_CHARS
from core.errors import FieldError, Invalid
from core.http import read_model
from core.ids import Prefix, new_id
from models.dataset import Held
from models.job import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One value of one name of the grid."""

    name: str
    index: int
    value: Any

    @property
    def pointer(self) -> str:
        """Return where in the body it stands."""
        return f"#/grid/{self.name}/{self.index}"

    @property
    def target(self) -> str:
        """Return where in the job it is laid."""
        return "#/" + self.name.replace(".", "/")

    @property
    def shown(self) -> str:
        """Return the value as it is read in a name or a sentence."""
        return self.value if isinstance(self.value, str) else json.dumps(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One job of a batch, before it is made."""

    accepted: Accepted
    choices: tuple[Choice, ...]


def create(session: Session, asked: BatchCreate, outlooks: Outlooks, *, project: str) -> Answer:
    """Write the rows of a batch and of its jobs and return the answer; the caller commits and rings."""
    check_grid(asked.grid)
    job, clone_of = _first_job(session, asked.job, project=project)
    planned = _plan(session, job, asked.grid, outlooks, project=project)
    job = _what_stays(job, [[_override(name, value) for value in values] for name, values in asked.grid.items()])
    batch = Batch(
        id=new_id(Prefix.BATCH),
        project=project,
        name=asked.name
        or job.get("name")
        or service.default_name(planned[0].accepted.body, planned[0].accepted.dataset),
        request=job,
        grid=dict(asked.grid),
    )
    session.add(batch)
    session.flush()
    made = [
        service.make_job(
            session,
            _named(one.accepted, _name(batch.name, one.choices)),
            project=project,
            clone_of=clone_of,
            batch_id=batch.id,
            overrides={choice.name: choice.value for choice in one.choices},
        )
        for one in planned
    ]
    read = read_batch(batch, made, adapters={})
    return Answer(status=202, body=read.model_dump(mode="json"), location=f"/jobs/batch/{batch.id}")


def _named(accepted: Accepted, name: str) -> Accepted:
    return replace(accepted, body=accepted.body.model_copy(update={"name": name}))


def check_grid(grid: Mapping[str, list[Any]]) -> None:
    """Refuse a grid that says something twice, or that makes too many jobs."""
    for name, values in grid.items():
        if len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
            raise Invalid.field(f"#/grid/{name}", "A value stands here twice; it would make the same job again.")
        above = next((other for other in grid if name.startswith(f"{other}.")), None)
        if above is not None:
            raise Invalid.field(f"#/grid/{name}", f"{above} sets this as well; give one of the two.")
    num_jobs = prod(len(values) for values in grid.values())
    if num_jobs > MAX_JOBS:
        raise Invalid.field("#/grid", f"These are {num_jobs:,} jobs, and a batch has {MAX_JOBS} at most.")


def _first_job(session: Session, job: dict[str, Any], *, project: str) -> tuple[dict[str, Any], str | None]:
    """Return the job that all of the batch begin with, and of which it is a clone."""
    clone_of = job.get("clone_of")
    if clone_of is None:
        return job, None
    if not isinstance(clone_of, str):
        raise Invalid.field("#/job/clone_of", "The id of a job is wanted here.")
    changes = {name: value for name, value in job.items() if name != "clone_of"}
    try:
        original = service.request_of(session, clone_of, project=project)
    except Invalid as refused:
        raise _of_batch(refused, ()) from refused
    return service.lay_over(original, changes), clone_of


def _plan(
    session: Session, job: dict[str, Any], grid: Mapping[str, list[Any]], outlooks: Outlooks, *, project: str
) -> list[Planned]:
    """Check every combination; all that are wrong are said at once, as all that are not planned yet."""
    planned, refusals, held = [], [], dict[str, Held]()
    unplanned: dict[Key, Question] = {}
    for choices in _combinations(grid):
        try:
            body = read_model(JobCreate, _laid(job, choices))
            check_base_model(body.base_model)
            if body.dataset not in held:
                held[body.dataset] = service.ready_dataset(session, body.dataset, project=project)
            dataset = held[body.dataset]
            accepted = Accepted(body=body, dataset=dataset, expected=outlooks.admit(session, body, dataset))
        except Invalid as refused:
            refusals.append(_of_batch(refused, choices))
        except NotPlanned as lacking:
            unplanned |= {question.key: question for question in lacking.questions}
        else:
            planned.append(Planned(accepted=accepted, choices=choices))
    if unplanned:
        raise NotPlanned(*unplanned.values())
    if refusals:
        fields = tuple(dict.fromkeys(error for refused in refusals for error in refused.errors))
        more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
        raise Invalid(f"{fields[0].pointer}: {fields[0].detail}{more}", errors=fields)
    return planned


def _combinations(grid: Mapping[str, list[Any]]) -> Iterator[tuple[Choice, ...]]:
    named = [
        [Choice(name=name, index=index, value=value) for index, value in enumerate(values)]
        for name, values in grid.items()
    ]
    return product(*named)


def _laid(job: dict[str, Any], choices: tuple[Choice, ...]) -> dict[str, Any]:
    for choice in choices:
        job = service.lay_over(job, _override(choice.name, choice.value))
    return job


def _override(name: str, value: Any) -> dict[str, Any]:
    first, *deeper = reversed(name.split("."))
    override: dict[str, Any] = {first: value}
    for step in deeper:
        override = {step: override}
    return override


def _what_stays(job: dict[str, Any], overrides: Iterable[list[dict[str, Any]]]) -> dict[str, Any]:
    """Return a job without what the grid replaces in every combination: nobody has looked whether that was right."""
    for alternatives in overrides:
        job = _without(job, alternatives)
    return job


def _without(body: dict[str, Any], alternatives: list[dict[str, Any]]) -> dict[str, Any]:
    stays = {}
    for name, value in body.items():
        laid = [each[name] for each in alternatives if name in each]
        if len(laid) < len(alternatives):
            stays[name] = value
        elif isinstance(value, dict) and all(isinstance(each, dict) for each in laid):
            stays[name] = _without(value, laid)
    return stays


def _of_batch(refused: Invalid, choices: tuple[Choice, ...]) -> Invalid:
    """Point at the values of the grid that a wrong field came from; else into the job."""
    errors = []
    for error in refused.errors:
        blamed = [choice for choice in choices if _is_about(error.pointer, choice.target)]
        if not blamed:
            errors.append(FieldError(pointer=f"#/job{error.pointer.removeprefix('#')}", detail=error.detail))
        for choice in blamed:
            detail = f"{choice.name} = {choice.shown}: {error.detail}"
            errors.append(FieldError(pointer=choice.pointer, detail=detail))
    return Invalid(refused.detail, errors=tuple(errors))


def _is_about(pointer: str, target: str) -> bool:
    """Tell whether an error lies at a field, within it, or at an object that the field is part of."""
    return pointer == target or pointer.startswith(f"{target}/") or target.startswith(f"{pointer}/")


def _name(batch: str, choices: tuple[Choice, ...]) -> str:
    short = [choice.name.rpartition(".")[2] for choice in choices]
    names = short if len(set(short)) == len(short) else [choice.name for choice in choices]
    said = ", ".join(f"{name}={choice.shown}" for name, choice in zip(names, choices, strict=True))
    return f"{batch[: max(1, NAME_CHARS - len(said) - 1)]} {said}"[:NAME_CHARS]
