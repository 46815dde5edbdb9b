"""What may be wrong with a data set of the Hub, as one sentence and a remedy each."""

import re
from typing import Any

from core.errors import FailureCode, WorkFailed
from ingest.issues import shown
from ingest.origins import HubOrigin

_LET_IN = "have the operator set HF_TOKEN where the workers run, to a token that may read it"
_INSIDE = re.compile(r"(?:(?:zip|gzip)://[^:]*::)?(?P<place>hf://[^:]*)")


def faulty(detail: str, remedy: str) -> WorkFailed:
    """Return that a data set cannot be taken, by what was seen of it."""
    return WorkFailed(FailureCode.BAD_DATA, f"The data set {detail}", remedy=remedy)


def unread(detail: str, remedy: str, *, retryable: bool = False) -> WorkFailed:
    """Return that nothing of a data set can be read."""
    return WorkFailed(FailureCode.SOURCE, f"The data set {detail}", remedy=remedy, retryable=retryable)


def outside(origin: HubOrigin) -> WorkFailed:
    """Return that a repository names files of somebody else's, or of another commit, as its data."""
    return faulty(f"{origin.shown} names data that lies outside of it.", "Name a data set that holds its own files.")


def is_strange(path: str, prefix: str) -> bool:
    """Tell whether a path leads out of the repository whose files begin with `prefix`."""
    found = _INSIDE.fullmatch(str(path))
    return found is None or not found["place"].startswith(prefix) or ".." in path.split("/")


def explained(error: Exception, origin: HubOrigin) -> WorkFailed | None:
    """Return what an exception of `huggingface_hub` or `datasets` means; None when it is none of theirs."""
    import httpx2
    from huggingface_hub import errors as hub

    for cause in _causes(error):
        if isinstance(cause, hub.OfflineModeIsEnabled):
            return unread(
                f"{origin.shown} was not asked for: HF_HUB_OFFLINE is set where the worker runs.",
                "Upload the files; or have the operator unset HF_HUB_OFFLINE.",
            )
        if isinstance(cause, hub.HfHubHTTPError) and not isinstance(cause, hub.EntryNotFoundError):
            return _refused(cause, origin)
        if isinstance(cause, (httpx2.HTTPError, ConnectionError, TimeoutError)):
            return _unreachable(origin, "the Hub does not answer")
    return _unreadable(error, origin)


def _causes(error: BaseException) -> list[BaseException]:
    """Return what led to an error, itself first. A file that is not there led to none: the libraries ask for many."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return found


def _refused(error: Any, origin: HubOrigin) -> WorkFailed:
    from huggingface_hub import errors as hub

    status = error.response.status_code
    match error:
        case hub.GatedRepoError():
            return unread(
                f"{origin.shown} is gated: its owner lets only those read it who have asked.",
                f"Ask for access on its page on the Hub, and {_LET_IN}.",
            )
        case hub.RevisionNotFoundError():
            what = f"has no revision {shown(origin.revision or 'main')}."
            return unread(
                f"{origin.shown} {what}", "Look at its branches and tags on the Hub, and name one after the @."
            )
        case hub.RepositoryNotFoundError():
            return unread(
                f"{origin.shown} is not on the Hub, or it is private.", f"Check its name; if it is private, {_LET_IN}."
            )
        case _ if status in (401, 403):
            return unread(
                f"{origin.shown} may not be read: the Hub answers {status}.",
                f"Check its page on the Hub, and {_LET_IN}.",
            )
        case _ if status == 429 or status >= 500:
            return _unreachable(origin, f"the Hub answers {status}")
        case _:
            return unread(
                f"{origin.shown} cannot be read: the Hub answers {status}.", "Check that its files are whole."
            )


def _unreachable(origin: HubOrigin, why: str) -> WorkFailed:
    return unread(
        f"{origin.shown} could not be fetched: {why}.",
        "Try again later; or have the operator check the worker's way to the Hub (HF_ENDPOINT, proxies).",
        retryable=True,
    )


def _unreadable(error: Exception, origin: HubOrigin) -> WorkFailed | None:
    """Errors of the library's own: about the data, as far as it tells."""
    import pyarrow as pa
    from datasets import exceptions as library
    from datasets.data_files import EmptyDatasetError

    if isinstance(error, EmptyDatasetError | library.DataFilesNotFoundError):
        return faulty(
            f"{origin.shown} holds no files of data.", "Name a data set whose files are Parquet, JSON, CSV or pictures."
        )
    said = " ".join(str(error).split())[:300].rstrip(".")
    if isinstance(error, FileNotFoundError) and "LocalEntryNotFoundError" in str(
        error
    ):  # `datasets` hides it in the text
        return _unreachable(origin, "the Hub does not answer")
    if isinstance(error, ValueError) and said.startswith(("Config name is missing", "BuilderConfig")):
        return faulty(
            f"{origin.shown} has several configurations, or not this one: {said}.", "Name one: add ?config=NAME."
        )
    if isinstance(error, ValueError) and said.startswith(("Data files don't belong", "Protocol not known")):
        return outside(origin)
    if isinstance(error, library.DatasetsError | pa.ArrowException | ValueError | TypeError | KeyError | OSError):
        return faulty(
            f"{origin.shown} cannot be read ({type(error).__name__}: {said}).",
            "Check on its page on the Hub that its viewer shows the rows.",
        )
    return None
