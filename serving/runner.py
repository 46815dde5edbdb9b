"""One batch of tickets from start to end, on the owner thread. A bad row never takes its neighbours down."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.errors import Problem, Unavailable, WorkFailed
from core.logs import get_logger
from serving import generation
from serving.answer import Answer
from serving.bases import Base, Bases
from serving.generation import Clock, Row
from serving.refusals import as_problem
from serving.ticket import Ticket
from serving.wire import Generated, Timings, Usage

MAX_BATCH_TOKENS = 16_384  # rows times the longest prompt: bounds the memory of one prefill

# What transformers and torch raise over one row that is not as they expect.
ROW_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waited:
    """What the rows of a batch went through before they were generated."""

    started_at: float
    load_s: float


class Runner:
    """Answers tickets with the bases in memory."""

    def __init__(self, bases: Bases, *, on_loading: Callable[[], None]) -> None:
        self._bases = bases
        self._on_loading = on_loading

    @property
    def bases(self) -> Bases:
        """Return what is in memory."""
        return self._bases

    def answer(self, tickets: Sequence[Ticket]) -> None:
        """Finish every ticket. They share one batch key."""
        started_at = time.perf_counter()
        request = tickets[0].request
        if not self._bases.has(request.base, request.adapter):
            self._on_loading()
        try:
            base = self._bases.get(request.base, request.adapter)
        except (Problem, WorkFailed) as error:
            for ticket in tickets:
                ticket.finish(as_problem(error))
            return
        waited = _Waited(started_at=started_at, load_s=time.perf_counter() - started_at)
        for rows in _batches(list(_prepared(tickets, base))):
            self._generate(base, rows, waited)

    def _generate(self, base: Base, rows: Sequence[Row], waited: _Waited) -> None:
        answers = [_answer(row, base) for row in rows]
        try:
            clock = generation.generate(base, rows, answers)
        except ROW_ERRORS as error:
            if is_fatal(error):
                raise
            log.exception("batch failed", rows=len(rows))
            self._contain(base, rows, answers, waited=waited, error=error)
            return
        for row, answer in zip(rows, answers, strict=True):
            if not row.ticket.is_cancelled:
                row.ticket.finish(_generated(row, answer, base, waited=waited, clock=clock))

    def _contain(
        self, base: Base, rows: Sequence[Row], answers: Sequence[Answer], *, waited: _Waited, error: Exception
    ) -> None:
        """Run the rows of a failed batch one by one; a row that fails alone, or has shown text, is the end of it."""
        for row, answer in zip(rows, answers, strict=True):
            if len(rows) == 1 or answer.num_emitted:
                row.ticket.finish(_broken(error))
            else:
                self._generate(base, [row], waited)


def is_fatal(error: Exception) -> bool:
    """Tell whether the accelerator is lost: after such an error every further call fails, too."""
    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)


def _prepared(tickets: Sequence[Ticket], base: Base) -> Iterator[Row]:
    for ticket in tickets:
        if ticket.is_cancelled:
            continue
        try:
            yield generation.prepare(ticket, base)
        except Problem as problem:
            ticket.finish(problem)
        except ROW_ERRORS as error:
            if is_fatal(error):
                raise
            log.exception("prompt failed")
            ticket.finish(_broken(error))


def _batches(rows: list[Row]) -> Iterator[list[Row]]:
    """Group rows whose tiles have one size, each group within the token budget."""
    groups: dict[frozenset[tuple[int, ...]], list[list[Row]]] = {}
    for row in rows:
        batches = groups.setdefault(row.piece_shapes, [[]])
        longest = max(len(other.ids) for other in [*batches[-1], row])
        if batches[-1] and longest * (len(batches[-1]) + 1) > MAX_BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    for batches in groups.values():
        yield from batches


def _answer(row: Row, base: Base) -> Answer:
    request = row.ticket.request
    tokenizer: Any = base.processor(request.adapter).tokenizer

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    return Answer(
        sampling=request.sampling,
        end_ids=generation.end_ids(base, request.adapter),
        decode=decode,
        emit=row.ticket.stream if request.stream else None,
    )


def _generated(row: Row, answer: Answer, base: Base, *, waited: _Waited, clock: Clock) -> Generated:
    request = row.ticket.request
    assert answer.finish_reason is not None
    return Generated(
        text=answer.text,
        finish_reason=answer.finish_reason,
        usage=Usage(
            prompt_tokens=len(row.ids), image_tokens=row.num_image_tokens, completion_tokens=len(answer.tokens)
        ),
        timings=Timings(
            queue_s=waited.started_at - row.ticket.submitted_at,
            load_s=waited.load_s,
            prefill_s=clock.prefill_s,
            generate_s=clock.generate_s,
        ),
        base_revision=base.loaded.revision,
        adapter_sha256=None if request.adapter is None else request.adapter.sha256,
    )


def _broken(error: Exception) -> Problem:
    if isinstance(error, torch.OutOfMemoryError):
        return Unavailable("There is not enough memory for this request; send fewer or smaller images.")
    return Problem("The model could not answer this request; the log of the serving process says why.")
