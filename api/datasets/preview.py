"""`/datasets/{id}/preview`: what a base model sees of one row. Serving computes it; the row is found here."""

from typing import Annotated, Any, TypeVar

import httpx2
from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, ValidationError

from api import serving
from api.datasets.access import find_ready
from api.documents import problems
from api.infer.service import check_base
from api.services import ProjectDep, Services, ServicesDep
from api.text import Plain
from core.errors import Busy, Conflict, FieldError, Invalid, NotFound, TimedOut, Unavailable
from models.dataset import image_key
from vlm.conversation import Example, Split
from vlm.image_options import ImageOptions
from vlm.lookup import look_up

Answer = TypeVar("Answer", bound=BaseModel)

router = APIRouter(prefix="/datasets", tags=["datasets"])


class PreviewQuery(ImageOptions):
    """Which row is asked for, the base that would be trained on it, and the image options of the job."""

    base_model: Plain = Field(max_length=500, description="as in POST /jobs")
    row: int = Field(ge=1, lt=2**63, description="as in the report: the line of its file, from 1")
    file: Plain | None = Field(None, max_length=4096, description="as in the report, where several files have this row")


class PreviewToken(BaseModel):
    """A token. Image features that follow each other are one item of `count`; any other token has a count of 1."""

    id: int
    text: str = Field(description="joined, the texts are what the model reads; empty inside of a character of several")
    learned: bool = Field(description="whether it carries loss")
    count: int


class PreviewPlace(BaseModel):
    """The place of a tile, from 1."""

    row: int
    column: int


class PreviewTile(BaseModel):
    """A tile as the model gets it, scaled down to be shown."""

    place: PreviewPlace | None = Field(description="null: the whole image")
    url: str = Field(description="a data: URL of a WEBP")


class PreviewImage(BaseModel):
    """What an image becomes."""

    width_px: int
    height_px: int
    rows: int = Field(description="of the grid; 0: the image is not cut, the whole is all there is")
    columns: int
    num_tiles: int = Field(description="the whole included")
    num_tokens: int = Field(description="those around its tiles included")
    tiles: list[PreviewTile]


class PreviewImageOptions(BaseModel):
    """How images are cut."""

    longest_edge: int
    split: bool
    upscale: bool
    tile_px: int | None = Field(description="null: this kind of model knows no tiles")
    image_tokens_per_tile: int | None


class PreviewAnswer(BaseModel):
    """What serving answers: the row as training would take it."""

    text: str = Field(description="the rendered chat template, one <image> for each image")
    tokens: list[PreviewToken]
    num_tokens: int
    num_image_tokens: int = Field(description="those around tiles included")
    num_learned_tokens: int
    context_tokens: int = Field(description="the longest sequence that the base model takes")
    fits: bool
    refusal: str | None = Field(description="why training would refuse this row")
    images: list[PreviewImage]
    is_shortened: bool = Field(description="whether tokens or tiles are left out here; the counts are always whole")
    image: PreviewImageOptions
    base_revision: str


class PreviewRead(PreviewAnswer):
    """What a base model sees of one row of a data set."""

    dataset: str
    base_model: str
    row: int
    split: Split = Field(description="of the data set")
    file: str | None = Field(description="of the upload, that the row is in")


@router.get("/{dataset_id}/preview", responses=problems(NotFound, Conflict, Busy, Unavailable, TimedOut))
async def preview_dataset(
    dataset_id: str, services: ServicesDep, project: ProjectDep, query: Annotated[PreviewQuery, Query()]
) -> PreviewRead:
    """Show what a base model sees of one row: the rendered chat, every token and whether it is learned, the tiles.

    Tokens and their loss come from the code that makes the batches of a training run.
    """
    check_base(query.base_model)
    example = await run_in_threadpool(_find, services, dataset_id, project, query)
    image = query.model_dump(include=set(ImageOptions.model_fields))
    asked = {"base": query.base_model, "row": _body(example, project), "image": image}
    answer = await ask(services, "/preview", asked, PreviewAnswer)
    return PreviewRead(
        **answer.model_dump(),
        dataset=dataset_id,
        base_model=query.base_model,
        row=query.row,
        split=example.split,
        file=example.file,
    )


def _find(services: Services, dataset_id: str, project: str, query: PreviewQuery) -> Example:
    dataset = find_ready(services, dataset_id, project=project)
    assert dataset.digest is not None
    with services.storage.open(dataset.records_key(dataset.digest)) as stream:
        lookup = look_up(stream, query.row)
    if not lookup.examples:
        raise NotFound(
            f"The data set {dataset_id} has no row {query.row}: its {dataset.num_examples} examples are of the rows "
            f"{lookup.first_row} to {lookup.last_row}, without those that were refused."
        )
    chosen = [example for example in lookup.examples if query.file in (None, example.file)]
    if len(chosen) == 1:
        return chosen[0]
    files = ", ".join(sorted(str(example.file) for example in lookup.examples))
    if not chosen:
        raise NotFound(f"Row {query.row} is not in {query.file}; it is in {files}.")
    raise Invalid.field("#/file", f"Row {query.row} is in {len(chosen)} files: {files}. Say in which with file.")


def _body(example: Example, project: str) -> dict[str, Any]:
    return {
        "number": example.row,
        "messages": [message.model_dump(mode="json") for message in example.messages],
        "images": [{"key": image_key(project, sha256), "sha256": sha256} for sha256 in example.images],
    }


async def ask(services: Services, path: str, asked: dict[str, Any], kind: type[Answer]) -> Answer:
    """Return what serving answers about a data set."""
    try:
        response = await services.serving.post(path, json=asked)
    except httpx2.HTTPError as error:
        raise serving.unreachable(error) from error
    if not response.is_success:
        raise serving.problem_of(response, _renamed)
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise serving.unreadable() from error


def _renamed(field: FieldError) -> FieldError:
    """Return where the field stands in our query: the image options are a part of serving's body."""
    return FieldError(pointer=field.pointer.replace("#/image/", "#/"), detail=field.detail)
