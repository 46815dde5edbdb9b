"""`GET /datasets/{id}/examples`: the rows of a ready data set, with their pictures and what validation said of each."""

from collections import defaultdict
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.datasets.access import find_ready
from api.datasets.pictures import PictureRead, read_picture
from api.datasets.table import Place, Table, Wanted, num_answer_chars
from api.documents import problems
from api.listing import Limit, Page
from api.services import ProjectDep, Services, ServicesDep
from core.errors import Conflict, NotFound
from ingest.issues import Issue, Rule, Severity
from models.dataset import Dataset
from vlm.conversation import Example, Message, Split

MAX_POSITION = 10**9

router = APIRouter(prefix="/datasets", tags=["datasets"])


class ExamplesQuery(BaseModel):
    """Which examples are wanted; what is not said filters nothing."""

    model_config = ConfigDict(extra="forbid")

    limit: Limit = 20
    cursor: Annotated[
        int, Field(ge=0, le=MAX_POSITION, description="`next_cursor` of the page before: a position in the table")
    ] = 0
    split: Split | None = None
    issue: Rule | None = Field(
        None, description="only rows that the report lists under this rule; it lists the first 200 of each rule"
    )
    min_chars: int | None = Field(None, ge=0, le=MAX_POSITION, description="of the answers that are learned from")
    max_chars: int | None = Field(None, ge=0, le=MAX_POSITION, description="of the answers that are learned from")
    num_images: int | None = Field(None, ge=0, le=1000, description="exactly as many pictures")


class ExampleIssue(BaseModel):
    """What validation said of a row that it kept."""

    model_config = ConfigDict(from_attributes=True)

    rule: Rule
    severity: Severity
    pointer: str
    message: str
    fix: str


class ExampleRead(BaseModel):
    """One row of a data set."""

    row: int = Field(description="the line of the file, from 1")
    file: str | None = Field(description="the file of the upload that holds the row, where there are several")
    split: Split
    num_answer_chars: int = Field(description="characters of the answers that are learned from")
    messages: tuple[Message, ...]
    images: list[PictureRead] = Field(description="in the order of the places in the messages")
    issues: list[ExampleIssue] = Field(description="of the issues that the report lists, those of this row")


@router.get("/{dataset_id}/examples", responses=problems(NotFound, Conflict))
def list_examples(
    dataset_id: str, services: ServicesDep, project: ProjectDep, query: Annotated[ExamplesQuery, Query()]
) -> Page[ExampleRead]:
    """List the rows of a data set that is ready, in stored order.

    A page of a filtered list may hold fewer rows than `limit`, also none: one request looks at 100,000 rows and then
    answers. Go on while `next_cursor` is not null.
    """
    dataset = find_ready(services, dataset_id, project=project)
    issues = _issues(services, dataset)
    table = Table.of(dataset, cache=services.tables, storage=services.storage)
    found, following = table.page(_wanted(query, issues), start=query.cursor, limit=query.limit)
    items = [_read(example, dataset, services, issues) for example in found]
    return Page(items=items, next_cursor=None if following is None else str(following))


class _Report(BaseModel):
    """What of a report is looked at."""

    issues: list[Issue]


def _issues(services: Services, dataset: Dataset) -> dict[Place, list[Issue]]:
    """Return the issues that the report lists, by the place of their row."""
    assert dataset.report_fence is not None  # written together with `ready`
    report = _Report.model_validate_json(services.storage.read(dataset.report_key(dataset.report_fence)))
    by_place = defaultdict(list)
    for issue in report.issues:
        if issue.row is not None:
            by_place[issue.file, issue.row].append(issue)
    return by_place


def _wanted(query: ExamplesQuery, issues: dict[Place, list[Issue]]) -> Wanted:
    places = None
    if query.issue is not None:
        places = frozenset(place for place, said in issues.items() if any(issue.rule is query.issue for issue in said))
    return Wanted(places=places, **query.model_dump(include={"split", "min_chars", "max_chars", "num_images"}))


def _read(example: Example, dataset: Dataset, services: Services, issues: dict[Place, list[Issue]]) -> ExampleRead:
    return ExampleRead(
        row=example.row,
        file=example.file,
        split=example.split,
        num_answer_chars=num_answer_chars(example),
        messages=example.messages,
        images=[read_picture(services.storage, dataset, sha256) for sha256 in example.images],
        issues=[ExampleIssue.model_validate(issue) for issue in issues.get((example.file, example.row), ())],
    )
