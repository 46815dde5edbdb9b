"""Examples of one micro-batch as tensors: padded on the right, any number of images per row."""

from collections.abc import Sequence

import torch

from training.encoding import Encoded, Encoder
from vlm import labels
from vlm.conversation import Example
from vlm.padding import pad_tiles


class Collator:
    """Encodes and pads; `Trainer` calls it with rows of `{"example": index}`."""

    def __init__(self, examples: Sequence[Example], encoder: Encoder, *, pad_token_id: int) -> None:
        self._examples = examples
        self._encoder = encoder
        self._pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """Return the batch of these examples."""
        return pad([self._encoder.encode(self._examples[row["example"]]) for row in rows], self._pad_token_id)


def pad(rows: Sequence[Encoded], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return rows of unequal length as one batch; without any image in it there is no `pixel_values` at all."""
    longest = max(len(row.input_ids) for row in rows)
    fill = [longest - len(row.input_ids) for row in rows]
    batch = {
        "input_ids": torch.tensor([r.input_ids + [pad_token_id] * n for r, n in zip(rows, fill, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(r.input_ids) + [0] * n for r, n in zip(rows, fill, strict=True)]),
        "labels": torch.tensor([r.labels + [labels.IGNORED] * n for r, n in zip(rows, fill, strict=True)]),
    }
    return batch | pad_tiles([row.tiles for row in rows])
