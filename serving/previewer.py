"""Previews and counts of tokens, on a thread of their own: they need a base's processor and never its weights. Imports torch when first asked.

The engine's rule of one owner thread is about models: PEFT's active adapter and the bases in memory. Nothing here is
shared with it; processors are loaded again, so that no tokenizer is used by two threads at once. What touches the whole
process takes turns with the engine (`serving.turns`).
"""

import hashlib
import tempfile
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from core.errors import Busy, Conflict, Problem, TimedOut, Unavailable, WorkFailed
from core.logs import get_logger
from core.storage import Storage
from serving.options import ServingSettings
from serving.refusals import as_problem
from serving.turns import IMPORTING, WORKING
from serving.wire import Previewed, PreviewRequest, PreviewRow, TokenCounts, TokensRequest
from vlm.conversation import IMAGES_FOLDER
from vlm.lookup import sample

if TYPE_CHECKING:
    from vlm.loading import LoadedProcessor

MAX_WAITING = 16
MAX_PROCESSORS = 4  # 10 to 20 MB each

log = get_logger(__name__)

_Request = PreviewRequest | TokensRequest
_Answer = Previewed | TokenCounts
_Asked = tuple[_Request, "Future[_Answer]"]


class Previewer:
    """Answers one request after the other."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._processors: OrderedDict[str, LoadedProcessor] = OrderedDict()
        self._waiting: SimpleQueue[_Asked | None] = SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="previewer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Take no more requests; what waits is left unanswered, for its caller was told to stop."""
        self._is_closed = True
        self._waiting.put(None)

    def submit(self, request: _Request) -> "Future[_Answer]":
        """Queue a request; its future fails with a `Problem` and nothing else.

        Raises:
            Busy: The queue is full.
            Unavailable: The process is stopping.
        """
        if self._is_closed:
            raise Unavailable("The serving process is stopping; try again.")
        if self._waiting.qsize() >= MAX_WAITING:
            raise Busy(f"{MAX_WAITING} previews are waiting already; try again later.")
        future: Future[_Answer] = Future()
        self._waiting.put((request, future))
        return future

    def _run(self) -> None:
        while (asked := self._waiting.get()) is not None:
            request, future = asked
            if self._is_closed or not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._answer(request, until=time.monotonic() + self._settings.serving_deadline_s))
            except (Problem, WorkFailed) as error:
                future.set_exception(as_problem(error))
            except Exception:  # the edge of the thread: one row's trouble is not the next one's
                log.exception("preview failed", base=request.base)
                future.set_exception(Problem("The data could not be read; the log of the serving process says why."))

    def _answer(self, request: _Request, *, until: float) -> _Answer:
        def check_time() -> None:
            if self._is_closed or time.monotonic() > until:
                raise TimedOut("The examples could not be measured in time; ask for fewer with at_most.")

        with IMPORTING:
            from serving.preview import preview
            from serving.token_counts import StoredImages, count_tokens
        base = self._processor(request.base)
        if isinstance(request, TokensRequest):
            with self._storage.open(request.table) as table:
                examples = sample(table, request.at_most)
                pictures = StoredImages(self._storage, request.images)
                return count_tokens(base, examples, pictures, request.image, check_time=check_time)
        with tempfile.TemporaryDirectory(prefix="preview-", dir=self._settings.layout.run) as name:
            folder = Path(name)
            self._fetch(request.row, folder / IMAGES_FOLDER)
            return preview(base, request, folder)

    def _processor(self, name: str) -> "LoadedProcessor":
        from vlm import loading

        if name not in self._processors:
            models_dir = self._settings.layout.models
            if not loading.is_built(name, models_dir=models_dir):
                with WORKING:
                    loading.resolve(name, models_dir=models_dir)
            resolved = loading.resolve(name, models_dir=models_dir, with_weights=False)
            self._processors[name] = loading.load_processor(resolved)
            if len(self._processors) > MAX_PROCESSORS:
                self._processors.popitem(last=False)
        self._processors.move_to_end(name)
        return self._processors[name]

    @cached_property
    def _storage(self) -> Storage:
        """Open the store when it is asked for: one that is set wrong is no reason not to start."""
        return Storage.from_url(self._settings.resolved_storage_url)

    def _fetch(self, row: PreviewRow, folder: Path) -> None:
        """Bring the row's images; each must be what its name says."""
        folder.mkdir()
        for image in row.images:
            path = folder / image.sha256
            self._storage.fetch(image.key, path)
            if hashlib.sha256(path.read_bytes()).hexdigest() != image.sha256:
                raise Conflict(
                    f"Image {image.sha256} of the data set is damaged in storage; upload the data set anew.",
                    code="image_damaged",
                )
