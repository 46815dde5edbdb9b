"""`/datasets/{id}/tokens`: how long the examples of a data set are for a base model. Serving measures them."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from api.datasets.access import find_ready
from api.datasets.preview import ask
from api.documents import problems
from api.infer.service import check_base
from api.services import ProjectDep, ServicesDep
from api.text import Plain
from core.errors import Busy, Conflict, NotFound, TimedOut, Unavailable
from models.dataset import images_prefix
from vlm.image_options import ImageOptions

router = APIRouter(prefix="/datasets", tags=["datasets"])


class TokensQuery(ImageOptions):
    """The base that would be trained, and the image options of the job."""

    base_model: Plain = Field(max_length=500, description="as in POST /jobs")
    at_most: int = Field(1000, ge=1, le=10_000, description="examples to measure, taken evenly from all of them")


class TokenSpread(BaseModel):
    """How tokens are spread over the measured examples; each is the number of an example that there is."""

    p50: int
    p95: int
    max: int


class RowPlace(BaseModel):
    """Where a row is in the upload, as in the report."""

    file: str | None
    row: int


class TokensAnswer(BaseModel):
    """What serving answers. Counts are of the measured examples; of the rows they mean, the first 20 are listed."""

    num_sampled: int = Field(description="how many examples were looked at")
    context_tokens: int = Field(description="the longest sequence that the base model takes")
    tokens: TokenSpread = Field(description="per example, images included")
    image_tokens: TokenSpread = Field(description="per example, those around tiles included")
    learned_ratio: float = Field(description="share of all tokens that carry loss")
    num_too_long: int = Field(description="examples that are longer than the context; a job would refuse them")
    too_long_rows: list[RowPlace]
    num_nothing_learned: int = Field(description="examples without any token that carries loss")
    nothing_learned_rows: list[RowPlace]
    num_unreadable: int = Field(
        description="examples with tokens of this base model's own in their text, or that its chat template does not take; not measured"
    )
    unreadable_rows: list[RowPlace]


class TokensRead(TokensAnswer):
    """How long the examples of a data set are for a base model."""

    dataset: str
    base_model: str
    num_examples: int = Field(description="of the data set; all were measured when it is num_sampled")


@router.get("/{dataset_id}/tokens", responses=problems(NotFound, Conflict, Busy, Unavailable, TimedOut))
async def count_dataset_tokens(
    dataset_id: str, services: ServicesDep, project: ProjectDep, query: Annotated[TokensQuery, Query()]
) -> TokensRead:
    """Show how long the examples are for a base model, and which of them a job would refuse. Decodes no picture."""
    check_base(query.base_model)
    dataset = await run_in_threadpool(find_ready, services, dataset_id, project=project)
    assert dataset.digest is not None
    asked = {
        "base": query.base_model,
        "table": dataset.records_key(dataset.digest),
        "images": images_prefix(project),
        "at_most": query.at_most,
        "image": query.model_dump(include=set(ImageOptions.model_fields)),
    }
    answer = await ask(services, "/tokens", asked, TokensAnswer)
    return TokensRead(
        **answer.model_dump(),
        dataset=dataset_id,
        base_model=query.base_model,
        num_examples=dataset.num_examples or 0,
    )
