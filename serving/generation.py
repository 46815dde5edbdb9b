"""From tickets to tokens: render a prompt, pad a batch, generate, row by row independent.

Suffixes of tensor names: a axes of positions, the first is that of text; b rows, s tokens.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jinja2
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from core.errors import Invalid
from serving.answer import Answer
from serving.bases import Base
from serving.ticket import Ticket
from serving.wire import AdapterRef, Sampling
from training.encoding import expanded
from vlm.conversation import as_chat
from vlm.family import Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One prompt, ready for the model.

    Attributes:
        ids: The prompt's tokens, images expanded.
        num_image_tokens: How many of them are image features.
        positions: Where they stand (`Family.positions`).
        pixels: Each image as the vision tower takes it, in order of appearance.
    """

    ticket: Ticket
    ids: list[int]
    num_image_tokens: int
    positions: torch.Tensor
    pixels: tuple[Pixels, ...]

    @property
    def piece_shapes(self) -> frozenset[tuple[int, ...]]:
        """Return the shapes of what its images are made of, tiles or patches; nothing without images."""
        return frozenset(tuple(tensor.shape[1:]) for image in self.pixels for tensor in image.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Seconds of one batch."""

    prefill_s: float
    generate_s: float


def prepare(ticket: Ticket, base: Base) -> Row:
    """Return the ticket's prompt as tokens and pixels, which are what the base's processor would make of it.

    Both are made by what makes those of training (`vlm.family`), not by the whole processor, which cuts in its own way.

    Raises:
        Invalid: The prompt does not fit the context, or cannot be rendered.
    """
    request = ticket.request
    processor = base.processor(request.adapter)
    family = base.loaded.family
    text = _render(ticket, processor, family.image_token)
    sides = [(image.height, image.width) for image in ticket.images]
    text, _ = expanded(text, family.image_token, [family.image_text(processor, *each) for each in sides])
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    _check_length(len(ids), request.sampling.max_tokens, base)
    return Row(
        ticket=ticket,
        ids=ids,
        num_image_tokens=ids.count(family.image_token_id(processor.tokenizer)),
        positions=family.positions(processor, ids, sides),
        pixels=tuple(family.cut(processor, image) for image in ticket.images),
    )


def generate(base: Base, rows: Sequence[Row], answers: Sequence[Answer]) -> Clock:
    """Fill `answers`, one per row. All rows share adapter, sampling shape and the shapes of their pieces.

    Greedy rows do not depend on their neighbours: padding is masked, and each row has its own end.
    """
    request = rows[0].ticket.request
    watch = _Watch([row.ticket for row in rows], answers)
    with base.using(request.adapter) as model, torch.inference_mode():
        inputs = _collate(rows, pad_id=_pad_id(base, request.adapter))
        inputs |= base.loaded.family.join([row.pixels for row in rows])
        started_at = time.perf_counter()
        with _seeded(request.sampling.seed, model.device):
            model.generate(
                **{name: tensor.to(model.device) for name, tensor in inputs.items()},
                **_choice(request.sampling),
                max_new_tokens=max(row.ticket.request.sampling.max_tokens for row in rows),
                eos_token_id=sorted(end_ids(base, request.adapter)),
                pad_token_id=_pad_id(base, request.adapter),
                stopping_criteria=StoppingCriteriaList([watch]),
            )
    ended_at = time.perf_counter()
    return Clock(prefill_s=(watch.first_token_at or ended_at) - started_at, generate_s=ended_at - started_at)


def end_ids(base: Base, adapter: AdapterRef | None) -> frozenset[int]:
    """Return every token that ends an answer."""
    tokenizer = base.processor(adapter).tokenizer
    configured = base.loaded.model.generation_config.eos_token_id
    ends = {base.loaded.family.end_token_id(tokenizer), tokenizer.eos_token_id}
    ends.update(configured if isinstance(configured, list) else [configured])
    return frozenset(end for end in ends if end is not None)


class _Watch(StoppingCriteria):
    """Hands each row's new token to its answer after every step, and ends rows one by one."""

    def __init__(self, tickets: Sequence[Ticket], answers: Sequence[Answer]) -> None:
        self._rows = list(zip(tickets, answers, strict=True))
        self.first_token_at: float | None = None

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.BoolTensor:
        self.first_token_at = self.first_token_at or time.perf_counter()
        tokens = input_ids[:, -1].tolist()
        done = [
            ticket.is_cancelled or answer.push(token)
            for (ticket, answer), token in zip(self._rows, tokens, strict=True)
        ]
        return torch.tensor(done, device=input_ids.device)  # type: ignore[return-value]


def _render(ticket: Ticket, processor: Any, image_token: str) -> str:
    messages = ticket.request.messages
    for index, message in enumerate(messages):
        if image_token in message.text:
            raise Invalid.field(
                f"#/messages/{index}/content", f"The text holds {image_token}, which stands for an image; remove it."
            )
    try:
        text = str(processor.apply_chat_template(as_chat(messages), tokenize=False, add_generation_prompt=True))
    except jinja2.TemplateError as error:
        raise Invalid.field(
            "#/messages", f"The model's chat template does not take these messages: {error}."
        ) from error
    if text.count(image_token) != len(ticket.images):
        raise Invalid.field(
            "#/messages", "The model's chat template leaves images out; put them into the user's turns."
        )
    return text


def _check_length(num_prompt_tokens: int, max_tokens: int, base: Base) -> None:
    limit = int(base.loaded.model.config.get_text_config().max_position_embeddings)
    if num_prompt_tokens + max_tokens > limit:
        raise Invalid.field(
            "#/messages",
            f"The prompt has {num_prompt_tokens} tokens, images included, and max_tokens is {max_tokens}; "
            f"together they may be {limit}. Shorten the prompt, send fewer or smaller images, or lower max_tokens.",
        )


def _collate(rows: Sequence[Row], *, pad_id: int) -> dict[str, torch.Tensor]:
    """Pad to the left, so that every row's next token comes at the same place.

    Positions of one axis are left to the model, which counts tokens; those of several stand for what it would work out
    from images, and go on from the last token's with every new one.
    """
    length = max(len(row.ids) for row in rows)
    fill = [length - len(row.ids) for row in rows]
    batch = {
        "input_ids": torch.tensor([[pad_id] * n + row.ids for row, n in zip(rows, fill, strict=True)]),
        "attention_mask": torch.tensor([[0] * n + [1] * len(row.ids) for row, n in zip(rows, fill, strict=True)]),
    }
    padded = [torch.nn.functional.pad(row.positions, (n, 0)) for row, n in zip(rows, fill, strict=True)]
    positions_abs = torch.stack(padded, dim=1)
    return batch if len(positions_abs) == 1 else batch | {"position_ids": positions_abs}


def _pad_id(base: Base, adapter: AdapterRef | None) -> int:
    tokenizer = base.processor(adapter).tokenizer
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _choice(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from the request's seed, and leave no trace of it behind."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
