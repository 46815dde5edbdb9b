"""Which examples of a step go through the model together: micro-batches by count, by tokens, or packed. Torch-free.

Whatever the plan, a step takes the same examples and every labelled token weighs the same, so the gradient of the
step is the same up to rounding; only time and memory change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Pack = tuple[int, ...]  # examples that lie behind each other in one row of a batch
MicroBatch = tuple[Pack, ...]  # the rows of one forward pass
_BLOCK = 512  # examples that are packed together: its time grows with the square of their number


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one forward pass may hold.

    Attributes:
        num_examples: At most so many.
        num_tokens: At most so many, padding included; None sets no bound. One example alone may have more.
        pack_tokens: Examples may be laid behind each other into rows of at most so many tokens; None gives each its
            own row.
    """

    num_examples: int
    num_tokens: int | None = None
    pack_tokens: int | None = None


def plan(examples: Sequence[int], lengths: Sequence[int], budget: Budget) -> tuple[MicroBatch, ...]:
    """Return the micro-batches of one step.

    Without a bound on tokens the examples stay in their order; with one they are sorted by length, so that rows of a
    micro-batch are padded little. Examples are packed only into rows as long as the longest of them, because attention
    over a row is dense and grows with the square of its length, and only where that leaves less padding.

    Args:
        examples: The step's examples, each an index into `lengths`.
        lengths: Tokens of every example of the split.
        budget: What a forward pass may hold.
    """
    if budget.num_tokens is None:
        count = budget.num_examples
        return tuple(
            tuple((example,) for example in examples[start : start + count]) for start in range(0, len(examples), count)
        )
    if len(examples) > _BLOCK:
        ordered = sorted(examples, key=lambda each: -lengths[each])
        blocks = [ordered[start : start + _BLOCK] for start in range(0, len(ordered), _BLOCK)]
        return tuple(micro_batch for block in blocks for micro_batch in plan(block, lengths, budget))
    single: list[Pack] = [(example,) for example in examples]
    row_limit = min(budget.pack_tokens or 0, budget.num_tokens, max(lengths[example] for example in examples))
    packed = _packed(examples, lengths, budget.num_examples, row_limit)
    plans = [_grouped(rows, lengths, budget.num_examples, budget.num_tokens) for rows in (single, packed)]
    return min(plans, key=lambda each: sum(padded_tokens(micro_batch, lengths) for micro_batch in each))


def row_tokens(row: Pack, lengths: Sequence[int]) -> int:
    """Return how long a row is."""
    return sum(lengths[example] for example in row)


def padded_tokens(micro_batch: MicroBatch, lengths: Sequence[int]) -> int:
    """Return the tokens that go through the model, padding included."""
    return len(micro_batch) * max(row_tokens(row, lengths) for row in micro_batch)


def _packed(examples: Sequence[int], lengths: Sequence[int], max_examples: int, row_limit: int) -> list[Pack]:
    """Lay examples into rows, the longest first, each into the fullest row that has room (best fit decreasing)."""
    rows: list[list[int]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda each: -lengths[each]):
        length = lengths[example]
        fitting = [at for at, left in enumerate(room) if left >= length and len(rows[at]) < max_examples]
        if fitting:
            index = min(fitting, key=lambda each: room[each])
            rows[index].append(example)
            room[index] -= length
        else:
            rows.append([example])
            room.append(row_limit - length)
    return [tuple(row) for row in rows]


def _grouped(rows: list[Pack], lengths: Sequence[int], max_examples: int, max_tokens: int) -> tuple[MicroBatch, ...]:
    """Put rows of like length together: each pass takes rows, the longest first, as long as it has room."""
    rows = sorted(rows, key=lambda row: -row_tokens(row, lengths))
    groups: list[list[Pack]] = []
    for row in rows:
        last = groups[-1] if groups else None
        if last is not None and _has_room(last, row, lengths, max_examples, max_tokens):
            last.append(row)
        else:
            groups.append([row])
    return tuple(tuple(group) for group in groups)


def _has_room(group: list[Pack], row: Pack, lengths: Sequence[int], max_examples: int, max_tokens: int) -> bool:
    longest = row_tokens(group[0], lengths)  # rows come in falling length
    num_examples = sum(map(len, group)) + len(row)
    return num_examples <= max_examples and longest * (len(group) + 1) <= max_tokens


def num_steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the optimizer steps of one epoch; the last may hold fewer examples."""
    return math.ceil(num_examples / batch_size)
