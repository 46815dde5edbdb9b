"""Both families in the published widths, with random weights, through our own loading, encoding and loss."""

import pytest
import torch

from training.collator import Collator
from training.loss import score
from training.vision import PixelVision
from vlm import geometry, loading, untrained
from vlm.image_options import ImageOptions
from vlm.untrained import Depth


@pytest.mark.parametrize("name", ["smolvlm-256m", "smolvlm2-256m"])
def test_one_batch_learns_from_rows_of_no_image_one_and_three(name, tmp_path, album, encoder_of):
    shape = geometry.find(name)
    (tmp_path / "base").mkdir()
    untrained.write(tmp_path / "base", shape, depth=Depth(vision=1, text=1))
    resolved = loading.resolve(str(tmp_path / "base"), models_dir=tmp_path)
    base = loading.load(resolved, quantization="none", dtype=torch.float32)
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=shape.vision.side_px))  # one tile: quick
    encoder = encoder_of(base)
    collator = Collator(
        [album.question("Colour?", "red", images=number) for number in (0, 1, 3)],
        encoder=encoder,
        vision=PixelVision(base.family, encoder.pixels, device="cpu"),
        pad_token_id=base.processor.tokenizer.pad_token_id,
    )
    batch = collator.batch(((0,), (1,), (2,)))
    is_image_bs = batch["input_ids"] == base.family.image_token_id(base.processor.tokenizer)
    assert is_image_bs.sum(dim=1).tolist() == [0, 64, 192]

    scored = score(base.model, batch)
    scored.loss_sum.backward()
    learned = [name for name, p in base.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert {name.split(".")[1] for name in learned} == {"vision_model", "connector", "text_model", "weight"}
    assert scored.num_tokens == 3 * len(["\x20", "r", "e", "d", "<end_of_utterance>"])
