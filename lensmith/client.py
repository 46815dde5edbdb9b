"""The client: one attribute per resource, one method per verb."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypedDict, Unpack

import httpx2

from lensmith.errors import ApiError
from lensmith.folders import zipped
from lensmith.jobs import Jobs
from lensmith.paging import all_of
from lensmith.resources import Adapter, Answer, Dataset, Example, Preview
from lensmith.transport import Transport
from lensmith.uploads import Progress, Uploads
from lensmith.waiting import until

PARTS_FROM_BYTES = 64 * 1024 * 1024  # what is larger is sent in parts


class Client:
    """A connection to a Lensmith server. Use it as a context manager, or call `close`.

    While a server restarts it is waited for, half a minute, but one that never answered is unreachable at once; with `is_up`
    it is known to be there.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        http: httpx2.Client | None = None,
        is_up: bool = False,
    ) -> None:
        self._transport = Transport(url, api_key, http=http, is_known=is_up)
        self.datasets = Datasets(self._transport)
        self.uploads = Uploads(self._transport)
        self.jobs = Jobs(self._transport)
        self.adapters = Adapters(self._transport)

    @property
    def url(self) -> str:
        """Return the server's address."""
        return self._transport.url

    def infer(
        self,
        prompt: str,
        *,
        images: Sequence[Path | str | bytes] = (),
        adapter: str | None = None,
        model: str | None = None,
        **sampling: Any,
    ) -> Answer:
        """Ask about pictures (paths or bytes); exactly one of `adapter` and `model`.

        `sampling`: max_tokens, temperature, top_p, seed, stop (a list of strings).
        """
        asked = {"prompt": prompt, "adapter": adapter, "model": model} | sampling
        fields: list[tuple[str, tuple[str | None, str | bytes]]] = [
            (name, (None, str(value)))
            for name, given in asked.items()
            if given is not None
            for value in (given if isinstance(given, list | tuple) else [given])
        ]
        fields.extend(
            ("image", ("image", image if isinstance(image, bytes) else Path(image).read_bytes())) for image in images
        )
        return Answer.model_validate(self._transport.post("/infer", files=fields))

    def base_models(self) -> list[dict[str, Any]]:
        """Return the catalogue of base models."""
        return list(self._transport.get("/base-models")["items"])

    def ready(self) -> dict[str, Any]:
        """Return `/readyz`, also when it says that the server is not ready."""
        try:
            return dict(self._transport.once("GET", "/readyz"))
        except ApiError as error:
            if "parts" not in error.document:
                raise
            return error.document

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reading(TypedDict, total=False):
    """How a data set is called and read.

    Attributes:
        name: What to call it; else the name of the file.
        columns: Which column stands for which field, such as `{"image": "img_path", "caption": "label"}`.
        on_bad_row: `fail` (the default) refuses a set with a bad row, `skip` leaves such rows out.
        base_model: The rows are measured for it; one that a job would refuse is a bad row.
        image: As in a job: how images are cut for that, `{"longest_edge": 512, "split": False}` or `{"upscale": False}`.
    """

    name: str | None
    columns: Mapping[str, str] | None
    on_bad_row: str | None
    base_model: str | None
    image: Mapping[str, Any] | None


class Cutting(TypedDict, total=False):
    """How images are cut: the image options of a job; what is left out, the base model decides.

    Attributes:
        longest_edge: Pixels to which pictures are scaled.
        split: Whether large pictures are cut into tiles.
        upscale: Whether small pictures are scaled up to the longest edge.
    """

    longest_edge: int | None
    split: bool | None
    upscale: bool | None


class Datasets:
    """`/datasets`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._uploads = Uploads(transport)

    def upload(
        self,
        file: Path | str,
        *,
        resume: str | None = None,
        on_progress: Progress | None = None,
        **reading: Unpack[Reading],
    ) -> Dataset:
        """Upload a zip, tar, JSONL or Parquet file, or a folder; it is validated in the background (`wait`).

        What is larger than 64 MiB goes in parts (`client.uploads`): a part whose connection breaks is sent again.

        Args:
            file: a folder is sent as a zip of it, without names that begin with a dot.
            resume: the id of an upload in parts of this file that was interrupted; what is there is not sent again.
            on_progress: called after every part with the upload's id, the bytes that are there, and those of the file.
            reading: how it is called and read.

        Raises:
            NotUploadable: the folder holds a link, or what cannot be read; or `resume` is of another file.
        """
        path = Path(file)
        is_folder = path.is_dir()
        content: AbstractContextManager[IO[bytes]] = zipped(path) if is_folder else path.open("rb")
        filename = f"{path.resolve().name}.zip" if is_folder else path.name
        asked = _given(reading)
        with content as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            if resume is None and size_bytes <= PARTS_FROM_BYTES:
                made = self._transport.post("/datasets", data=_as_form(asked), files={"file": (filename, stream)})
                return Dataset.model_validate(made)
            upload = self._uploads.get(resume) if resume else self._uploads.begin(filename, size_bytes)
            if upload.dataset is not None:
                return self.get(upload.dataset)
            self._uploads.send(upload, stream, on_progress=on_progress)
        body = asked | {"upload": upload.id}
        return Dataset.model_validate(self._transport.post("/datasets", json=body))

    def create(self, source: str, **reading: Unpack[Reading]) -> Dataset:
        """Have a worker fetch and validate what lies at `https://...`, `s3://bucket/key` or `hf://org/name`, if it may."""
        body = {"source": source} | _given(reading)
        return Dataset.model_validate(self._transport.post("/datasets", json=body))

    def get(self, dataset_id: str) -> Dataset:
        """Return a data set."""
        return Dataset.model_validate(self._transport.get(f"/datasets/{dataset_id}"))

    def list(self) -> Iterator[Dataset]:
        """Yield every data set, newest first."""
        return all_of(self._transport, "/datasets", Dataset)

    def report(self, dataset_id: str) -> dict[str, Any]:
        """Return the report of a validation."""
        return dict(self._transport.get(f"/datasets/{dataset_id}/report"))

    def examples(self, dataset_id: str, **filters: Any) -> Iterator[Example]:
        """Yield the examples of a data set that is ready, in stored order.

        `filters`: split, issue (a rule of the report), min_chars and max_chars (of the answers), num_images.
        """
        return all_of(self._transport, f"/datasets/{dataset_id}/examples", Example, **filters)

    def delete(self, dataset_id: str) -> None:
        """Delete a data set; refused while a job uses it or a worker validates it."""
        self._transport.delete(f"/datasets/{dataset_id}")

    def preview(
        self,
        dataset_id: str,
        *,
        base_model: str,
        row: int,
        file: str | None = None,
        **image: Unpack[Cutting],
    ) -> Preview:
        """Return what a base model sees of one row, and which tokens are learned.

        `image` are the image options of a job; `file` is for uploads of several files.
        """
        asked = {"base_model": base_model, "row": row, "file": file}
        return Preview.model_validate(self._transport.get(f"/datasets/{dataset_id}/preview", **asked, **image))

    def tokens(self, dataset_id: str, *, base_model: str, **options: Any) -> dict[str, Any]:
        """Return how long the examples are for a base model. `options`: at_most, longest_edge, split, upscale."""
        return dict(self._transport.get(f"/datasets/{dataset_id}/tokens", base_model=base_model, **options))

    def download(self, dataset_id: str, to: Path | str) -> Path:
        """Download the data set without its refused rows as a zip that can be uploaded; return where it lies."""
        return _download(self._transport, f"/datasets/{dataset_id}/download", Path(to))

    def wait(self, dataset_id: str) -> Dataset:
        """Wait until the validation has ended; look at `state`."""
        return until(lambda: self.get(dataset_id), lambda dataset: dataset.state != "validating")


class Adapters:
    """`/adapters`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, adapter_id: str) -> Adapter:
        """Return an adapter."""
        return Adapter.model_validate(self._transport.get(f"/adapters/{adapter_id}"))

    def list(self) -> Iterator[Adapter]:
        """Yield every adapter, newest first."""
        return all_of(self._transport, "/adapters", Adapter)

    def download(self, adapter_id: str, to: Path | str) -> Path:
        """Download the adapter's folder as a zip that PEFT loads; return where it lies."""
        return _download(self._transport, f"/adapters/{adapter_id}/download", Path(to))


def _given(reading: Reading) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in reading.items() if value}


def _as_form(asked: dict[str, Any]) -> dict[str, str]:
    """Return the fields of a form: the columns as JSON, and the image options each by itself."""
    image = {name: json.dumps(value) for name, value in asked.get("image", {}).items() if value is not None}
    fields = {name: json.dumps(value) if name == "columns" else value for name, value in asked.items()}
    return {name: value for name, value in fields.items() if name != "image"} | image


def _download(transport: Transport, path: str, target: Path) -> Path:
    partial = target.with_name(f"{target.name}.part")
    with transport.stream(path) as response, partial.open("wb") as out:
        for chunk in response.iter_bytes():
            out.write(chunk)
    return partial.replace(target)
