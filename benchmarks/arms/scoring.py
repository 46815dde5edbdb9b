"""The one yardstick for what every arm learned: the loss of its adapter on examples that it did not see, run live."""

from typing import Any

import torch

from benchmarks.arms.figures import Plan
from training.collator import Collator
from training.encoding import Encoder
from training.images import ImageFolder
from training.loss import score
from training.vision import PixelVision
from vlm import loading
from vlm.conversation import read_examples
from vlm.family import Family


def validation_loss(model: Any, processor: Any, family: Family, plan: Plan) -> float:
    """Return nats per labelled token, one example at a time, with nothing cached and nothing packed."""
    encoder = Encoder(processor, family, ImageFolder(plan.validation))
    model.eval()
    place = next(model.parameters()).device
    autocast = torch.autocast(place.type, loading.DTYPES[plan.precision], enabled=plan.precision != "fp32")
    loss, tokens = 0.0, 0
    examples = read_examples(plan.validation)
    collator = Collator(
        examples,
        encoder=encoder,
        vision=PixelVision(family, encoder.pixels, device=place),
        pad_token_id=processor.tokenizer.pad_token_id,
        device=place,
    )
    for number in range(len(examples)):
        with torch.no_grad(), autocast:
            scored = score(model, collator.batch(((number,),)))
        loss += float(scored.loss_sum)
        tokens += scored.num_tokens
    return loss / tokens
