"""A data set of the Hub as a child process: `python -m ingest.hub --spec spec.json --staging DIR --events-fd N`.

It becomes one Parquet file, and takes the way of every other upload from there. A repository is a stranger's: its README
may name files of ours and addresses of our network as its data, and its rows may name them as pictures. So nothing is
read but what lies in the repository itself, at one commit; no code of it runs; and only formats are read that are data.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from core.child import Child, run_child
from core.errors import FailureCode, WorkFailed
from core.events import Phase, PhaseChanged, Resolved
from core.process import bound_address_space
from ingest.hub_faults import explained, faulty, is_strange, outside
from ingest.hub_splits import Chosen, choose_splits
from ingest.issues import shown
from ingest.limits import GIB
from ingest.origins import HubOrigin

ROWS_FILE = "rows.parquet"
BATCH_ROWS = 64
# A row group of a repository is in memory at once, packed and unpacked.
ADDRESS_SPACE_BYTES = 8 * GIB
_READERS = {"csv": "CSV", "imagefolder": "a folder of pictures", "json": "JSON", "parquet": "Parquet"}
_PROTOCOLS = frozenset({"hf", "file", "local", "zip", "gzip"})
_TIMEOUT_S = 30.0  # of one question


class Spec(BaseModel):
    """Which data set, and how large the file may become."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: HubOrigin
    max_bytes: int


def work(child: Child) -> dict[str, Any]:
    """Write the data set that the spec names to `rows.parquet`; what cannot be had is a `source` failure, what cannot be used `bad_data`."""
    spec = Spec.model_validate(child.spec)
    _isolate(child.staging)
    child.events.emit(PhaseChanged(phase=Phase.LOADING))
    try:
        return _fetch(spec, child)
    except WorkFailed:
        raise
    except Exception as error:
        failure = explained(error, spec.origin)
        if failure is None:
            raise
        raise failure from error


def _fetch(spec: Spec, child: Child) -> dict[str, Any]:
    origin, library = spec.origin, _library()
    commit = _commit(origin)
    pinned = origin.at(commit)
    child.events.emit(Resolved(settings={}, provenance={"source": str(pinned)}))
    streams = _streams(library, pinned)
    chosen, left_out = choose_splits(sorted(streams), origin)
    from ingest.hub_rows import write_rows

    num_rows = write_rows(
        [(streams[one.name], one.label) for one in chosen],
        child.staging / ROWS_FILE,
        prefix=pinned.prefix,
        max_bytes=spec.max_bytes,
        batch_rows=BATCH_ROWS,
        check=child.check_stop,
    )
    if not num_rows:
        raise faulty(f"{origin.shown} has no rows.", "Name another configuration or split of it, or another data set.")
    child.events.log(_summary(pinned, num_rows, chosen, left_out), source=str(pinned))
    return {"num_rows": num_rows}


def _commit(origin: HubOrigin) -> str:
    """Return the commit that a revision stands for now, when the data set can be read at all."""
    from huggingface_hub import HfApi

    api = HfApi()
    info = api.dataset_info(origin.repository, revision=origin.revision, timeout=_TIMEOUT_S)
    if info.gated:
        api.auth_check(origin.repository, repo_type="dataset")
    name = origin.repository.rpartition("/")[2]
    if any(file.rfilename == f"{name}.py" for file in info.siblings or ()):
        raise faulty(
            f"{origin.shown} is made by a script ({name}.py), and no code of a repository is run.",
            "Name its copy in Parquet, where the Hub has made one: add @refs/convert/parquet.",
        )
    assert info.sha is not None
    return info.sha


def _streams(library: Any, pinned: HubOrigin) -> dict[str, Any]:
    """Return the splits, each of which can be read row by row."""
    builder = library.load_dataset_builder(pinned.repository, pinned.config, revision=pinned.revision)
    reader = type(builder).__module__.rpartition(".")[2]
    if reader not in _READERS:
        raise faulty(
            f"{pinned.shown} is in a format that is not read here ({reader}).",
            f"Taken are {', '.join(_READERS.values())}. Where the Hub has made a copy in Parquet, add @refs/convert/parquet.",
        )
    files = [file for split in (builder.config.data_files or {}).values() for file in split]
    if any(is_strange(file, pinned.prefix) for file in files):
        raise outside(pinned)
    if reader == "parquet":
        builder.config.batch_size = BATCH_ROWS  # else whole row groups, and one without rows is an error
    return dict(builder.as_streaming_dataset())


def _library() -> Any:
    """Return `datasets`, reaching for nothing but the Hub and this process's own folder.

    Protocols are found in one table of fsspec; what is not in it cannot be opened, whoever asks.
    """
    try:
        import datasets
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise WorkFailed(
            FailureCode.INTERNAL,
            "This worker cannot read data sets of the Hub: the library `datasets` is not installed.",
            remedy="Have the operator install lensmith[hub] where the workers run; or upload the files.",
        ) from error
    for protocol in known_implementations.keys() - _PROTOCOLS:
        del known_implementations[protocol]
    # What huggingface_hub gives up has been tried six times in half a minute, and nobody asks for a stop meanwhile.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = (
        1  # tries, not further ones
    )
    datasets.disable_progress_bars()
    return datasets


def _isolate(staging: Path) -> None:
    """Set what the libraries read when they are imported: a cache that ends with us, no torch, no token of a file."""
    os.environ |= {"HF_HOME": str(staging / "cache"), "USE_TORCH": "0", "USE_TF": "0", "USE_JAX": "0"}
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN_PATH", "HUGGINGFACE_HUB_CACHE", "HF_ASSETS_CACHE"):
        os.environ.pop(name, None)
    bound_address_space(ADDRESS_SPACE_BYTES)


def _summary(pinned: HubOrigin, num_rows: int, chosen: list[Chosen], left_out: list[str]) -> str:
    names = ", ".join(one.name for one in chosen)
    rest = f"; left out: {', '.join(left_out)}" if left_out else ""
    return f"Fetched {num_rows:,} rows of {shown(pinned.repository)} at {pinned.revision}: {names}{rest}."


if __name__ == "__main__":
    raise SystemExit(run_child(work))
