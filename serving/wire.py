"""What `POST /generate`, `/preview` and `/tokens` take and answer: the internal contract between the API and serving."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlm.conversation import ImagePart, Message
from vlm.image_options import ImageOptions

MAX_IMAGES = 32
MAX_MESSAGES = 256
MAX_SAMPLED = 10_000
KEY_PATTERN = r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$"


class FinishReason(StrEnum):
    """Why a text ended."""

    STOP = "stop"  # the model said that it is done, or a stop string came
    LENGTH = "length"  # `max_tokens` were generated


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Ref(_Strict):
    key: str = Field(pattern=KEY_PATTERN, max_length=256)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class AdapterRef(_Ref):
    """A published adapter: the prefix of its objects in storage, and the digest of its manifest."""


class ImageRef(_Ref):
    """An image of a data set: its object in storage, and the digest of its bytes."""


class Sampling(_Strict):
    """How tokens are chosen; greedy unless a temperature is set."""

    max_tokens: int = Field(128, ge=1, le=2048)
    temperature: float = Field(0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field((), max_length=4)


class GenerateRequest(_Strict):
    """One prompt for one base, with an adapter or without."""

    base: str = Field(min_length=1, max_length=512)
    adapter: AdapterRef | None = None
    messages: tuple[Message, ...] = Field(min_length=1, max_length=MAX_MESSAGES)
    images: tuple[str, ...] = Field((), max_length=MAX_IMAGES, description="data: URLs, in order of the image parts")
    sampling: Sampling = Sampling()
    stream: bool = Field(default=False, description="answer application/x-ndjson: deltas, then the whole answer")

    @model_validator(mode="after")
    def _every_image_has_a_place(self) -> Self:
        places = sum(isinstance(part, ImagePart) for message in self.messages for part in message.content)
        if places != len(self.images):
            raise ValueError(f"messages have {places} image parts, but images holds {len(self.images)}.")
        return self


class Usage(BaseModel):
    """Tokens of one request; the image tokens are part of the prompt tokens."""

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int


class Timings(BaseModel):
    """Where the seconds went. What a batch shares, each of its rows reports whole."""

    queue_s: float
    load_s: float
    prefill_s: float
    generate_s: float


class Generated(BaseModel):
    """The answer, and exactly which weights gave it."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    base_revision: str | None
    adapter_sha256: str | None


class Delta(BaseModel):
    """A piece of a streamed answer's text."""

    delta: str


class PreviewRow(_Strict):
    """One example of a data set."""

    number: int = Field(ge=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    images: tuple[ImageRef, ...] = Field((), description="in order of the image parts")


class PreviewRequest(_Strict):
    """One row, the base that would be trained on it, and how its images would be cut."""

    base: str = Field(min_length=1, max_length=512)
    row: PreviewRow
    image: ImageOptions = ImageOptions()


class TokensRequest(_Strict):
    """A data set's table and images in storage, the base that would be trained on it, and how images would be cut."""

    base: str = Field(min_length=1, max_length=512)
    table: str = Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*\.parquet$", max_length=256)
    images: str = Field(pattern=KEY_PATTERN, max_length=256, description="the prefix of its images, named by sha256")
    at_most: int = Field(1000, ge=1, le=MAX_SAMPLED, description="examples to measure, taken evenly from the table")
    image: ImageOptions = ImageOptions()


class Spread(BaseModel):
    """How a number is spread over examples."""

    p50: int
    p95: int
    max: int


class RowPlace(BaseModel):
    """Where a row is in the upload."""

    file: str | None
    row: int


class TokenCounts(BaseModel):
    """How long the measured examples are. Rows are the first few, counts are of all that were measured."""

    num_sampled: int
    context_tokens: int
    tokens: Spread
    image_tokens: Spread
    learned_ratio: float
    num_too_long: int
    too_long_rows: tuple[RowPlace, ...]
    num_nothing_learned: int
    nothing_learned_rows: tuple[RowPlace, ...]
    num_unreadable: int
    unreadable_rows: tuple[RowPlace, ...]


class TokenRun(BaseModel):
    """A token; image features that follow each other are one run of `count`, any other token is a run of its own."""

    id: int
    text: str
    learned: bool
    count: int


class Grid(BaseModel):
    """The place of a tile, from 1."""

    row: int
    column: int


class Tile(BaseModel):
    """A tile as the model gets it, scaled down to be shown; the whole image has no place."""

    place: Grid | None
    url: str


class ImageCut(BaseModel):
    """What an image becomes."""

    width_px: int
    height_px: int
    rows: int
    columns: int
    num_tiles: int
    num_tokens: int
    tiles: tuple[Tile, ...]


class Previewed(BaseModel):
    """What the model sees of a row. The counts are those of the whole row, also where tokens or tiles are left out."""

    text: str
    tokens: tuple[TokenRun, ...]
    num_tokens: int
    num_image_tokens: int
    num_learned_tokens: int
    context_tokens: int
    fits: bool
    refusal: str | None
    images: tuple[ImageCut, ...]
    is_shortened: bool
    image: dict[str, int | bool | None]
    base_revision: str


class EngineState(StrEnum):
    """What the owner thread does."""

    IDLE = "idle"  # no base is loaded yet
    LOADING = "loading"  # a base or an adapter is being loaded
    READY = "ready"  # at least one base is loaded
    DEAD = "dead"  # the thread ended; nothing is answered any more


class Health(BaseModel):
    """What `/healthz` says; `down` comes with status 503."""

    status: Literal["up", "down"]
    engine: EngineState
    bases: tuple[str, ...]
    adapters: tuple[str, ...]
    waiting: int
    running: int
