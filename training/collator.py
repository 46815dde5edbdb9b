"""The examples of one micro-batch as tensors: padded on the right, or packed behind each other; any number of images."""

from collections.abc import Sequence
from typing import Any

import torch

from training.batching import MicroBatch
from training.encoding import Encoded, Encoder
from training.vision import Vision
from vlm import labels
from vlm.conversation import Example


class Collator:
    """Makes the batch of a micro-batch, on the device that the model is on."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        encoder: Encoder,
        vision: Vision,
        pad_token_id: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._examples = examples
        self._encoder = encoder
        self._vision = vision
        self._pad_token_id = pad_token_id
        self._device = device

    def batch(self, micro_batch: MicroBatch) -> dict[str, Any]:
        """Return the model's arguments and the labels; raises `WorkFailed` when an image cannot be read."""
        rows = [[self._encoder.encode(self._examples[index]) for index in row] for row in micro_batch]
        images = [[sha256 for index in row for sha256 in self._examples[index].images] for row in micro_batch]
        tensors = pack(rows, self._pad_token_id)
        return {name: tensor.to(self._device) for name, tensor in tensors.items()} | self._vision.inputs(images)


def pack(rows: Sequence[Sequence[Encoded]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return rows of one or more examples as one batch.

    Examples of a row are told apart by their positions, which start anew: transformers builds the block-diagonal mask
    from them (`masking_utils.find_packed_sequence_indices`), but only where there is no `attention_mask`. The padding
    is then one more sequence behind the others, which nobody looks at.

    Suffixes of tensor names: a axes, the first is that of text; b rows, s tokens.
    """
    lengths = [sum(len(each.input_ids) for each in row) for row in rows]
    width = max(lengths)
    fill = [width - length for length in lengths]
    ids = [_joined(row, "input_ids") + [pad_token_id] * n for row, n in zip(rows, fill, strict=True)]
    learned = [_joined(row, "labels") + [labels.IGNORED] * n for row, n in zip(rows, fill, strict=True)]
    batch = {"input_ids": torch.tensor(ids), "labels": torch.tensor(learned)}
    positions_abs = torch.stack([_positions(row, n) for row, n in zip(rows, fill, strict=True)], dim=1)
    is_plain = len(positions_abs) == 1
    if all(len(row) == 1 for row in rows):
        mask = [[1] * length + [0] * n for length, n in zip(lengths, fill, strict=True)]
        batch["attention_mask"] = torch.tensor(mask)
        if is_plain:  # the models count for themselves
            return batch
    return batch | {"position_ids": positions_abs[0] if is_plain else positions_abs}


def _positions(row: Sequence[Encoded], padding: int) -> torch.Tensor:
    parts = [each.positions for each in row]
    return torch.cat([*parts, torch.arange(padding).expand(len(parts[0]), -1)], dim=1)


def _joined(row: Sequence[Encoded], name: str) -> list[int]:
    """Lay one kind of numbers of a row's examples behind each other.

    Nothing is learned at the first token of an example: what comes before it is another example.
    """
    assert all(each.labels[0] == labels.IGNORED for each in row)
    return [number for each in row for number in getattr(each, name)]
