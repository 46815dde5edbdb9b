"""What an upload looks like on the wire."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.text import FILENAME_CHARS, Plain
from models.states import UploadState
from models.upload import Upload, UploadPart


class UploadCreate(BaseModel):
    """A file that is to come in parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filename: Annotated[Plain, StringConstraints(min_length=1, max_length=FILENAME_CHARS)]
    size_bytes: int = Field(ge=1, description="of the whole file")


class PartRead(BaseModel):
    """A part that is there."""

    number: int
    size_bytes: int
    sha256: str


class UploadRead(BaseModel):
    """An upload as it stands."""

    id: str
    project: str
    state: UploadState
    filename: str
    size_bytes: int
    part_bytes: int = Field(description="of every part but the last, which has the rest")
    num_parts: int = Field(description="they count from 1, and may be sent in any order")
    received_bytes: int
    parts: list[PartRead] = Field(description="those that came")
    dataset: str | None = Field(description="what it became")
    created_at: datetime
    expires_at: datetime = Field(description="it is removed then, unless another part comes")


def read_part(part: UploadPart) -> PartRead:
    """Return a part's row as the API shows it."""
    return PartRead(number=part.number, size_bytes=part.size_bytes, sha256=part.sha256)


def read_upload(upload: Upload, parts: Sequence[UploadPart]) -> UploadRead:
    """Return an upload's rows as the API shows them."""
    return UploadRead(
        **upload.model_dump(include=_SAME_NAMES),
        state=upload.state,
        num_parts=upload.num_parts,
        received_bytes=sum(part.size_bytes for part in parts),
        parts=[read_part(part) for part in parts],
        dataset=upload.dataset_id,
    )


_SAME_NAMES = {"id", "project", "filename", "size_bytes", "part_bytes", "created_at", "expires_at"}
