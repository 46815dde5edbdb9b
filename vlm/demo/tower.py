"""Stage 1 of the pretraining: the vision tower and the connector learn to name glyphs, shapes and colours.

The heads read each image token after the connector, so that what a picture shows is there in a linear form
in every token that the text decoder will see. No picture of any data set is used: all are rendered.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector, Idefics3VisionTransformer

from vlm.demo import anatomy, glyphs, strokes
from vlm.demo.augment import COLOUR_NAMES, Pictures, picture

_log = logging.getLogger(__name__)


class Eye(nn.Module):
    """The tower, the connector, and the heads that exist during stage 1 only."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_model = Idefics3VisionTransformer(anatomy.vision_config())
        self.connector = Idefics3Connector(anatomy.connector_config())  # type: ignore[no-untyped-call]
        nn.init.normal_(self.connector.modality_projection.proj.weight, std=0.02)
        self.identity = nn.Linear(anatomy.TEXT_HIDDEN, len(glyphs.IDENTITIES))
        self.ink = nn.Linear(anatomy.TEXT_HIDDEN, len(COLOUR_NAMES))
        self.paper = nn.Linear(anatomy.TEXT_HIDDEN, len(COLOUR_NAMES))

    def tokens(self, pixels: Tensor) -> Tensor:
        """Return the image tokens `[B, image tokens, text hidden]` of `pixels` `[B, 3, 64, 64]`."""
        hidden = self.vision_model(pixel_values=pixels).last_hidden_state
        return self.connector(hidden)  # type: ignore[no-any-return] # an untyped module

    def loss(self, pictures: Pictures, identity: Tensor) -> Tensor:
        """Return the loss: identity in the mean and in each token, the two colours in the mean."""
        tokens = self.tokens(pictures.pixels)
        per_token = self.identity(tokens)
        smooth = 0.05
        loss = F.cross_entropy(per_token.mean(1), identity, label_smoothing=smooth)
        each = identity[:, None].expand(per_token.shape[:2]).reshape(-1)
        loss = loss + 0.3 * F.cross_entropy(per_token.flatten(0, 1), each, label_smoothing=smooth)
        colour = F.cross_entropy(self.ink(tokens.mean(1)), pictures.ink)
        colour = colour + F.cross_entropy(self.paper(tokens.mean(1)), pictures.paper)
        return loss + 0.15 * colour


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The ink masks of one split, and the share of each kind in a batch."""

    characters: glyphs.Bank
    shapes: glyphs.Bank
    digits: Tensor
    digit_symbols: Tensor

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return `count` masks `uint8[count, 64, 64]` and their symbols: 42 % handwriting, 45 % print, 13 % shapes."""
        by_hand, shaped = round(0.42 * count), round(0.13 * count)
        printed = count - by_hand - shaped
        at = torch.randint(len(self.digits), (by_hand,), generator=generator)
        written = F.interpolate(self.digits[at][:, None].float(), size=(64, 64), mode="bilinear")[:, 0].to(torch.uint8)
        masks, symbols = [written], [self.digit_symbols[at]]
        for bank, share in ((self.characters, printed), (self.shapes, shaped)):
            where = torch.randint(len(bank.masks), (share,), generator=generator).numpy()
            masks.append(torch.from_numpy(bank.masks[where]))
            symbols.append(torch.from_numpy(bank.symbols[where]))
        return torch.cat(masks), torch.cat(symbols)


def prepare(fonts: list[Path], *, seed: int, num_digits: int, reference: Path) -> Sources:
    """Render the masks of one split."""
    rng = np.random.default_rng(seed)
    written, digits = strokes.draw_digits(num_digits, rng=rng)
    return Sources(
        characters=glyphs.draw_characters(fonts, reference=reference),
        shapes=glyphs.draw_shapes(2000, rng=rng),
        digits=torch.from_numpy(written),
        digit_symbols=torch.from_numpy(digits),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerSettings:
    """What one run of stage 1 needs; it ends by the clock, since the machine may be shared."""

    seconds: float
    batch: int = 192
    learning_rate: float = 2e-3
    seed: int = 7
    save_every: int = 250


def train(eye: Eye, sources: Sources, held_out: Sources, settings: TowerSettings, folder: Path) -> dict[str, float]:
    """Train the tower, saving its weights as it goes; returns its counts and accuracies."""
    generator = torch.Generator().manual_seed(settings.seed)
    optimizers = _optimizers(eye, settings.learning_rate)
    started, step, done = time.monotonic(), 0, 0.0
    while done < 1.0:
        step, done = step + 1, (time.monotonic() - started) / settings.seconds
        rate = _rate(step, done)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * rate
        pictures, symbols = batch_of(sources, settings.batch, generator)
        identity = torch.from_numpy(glyphs.IDENTITY_OF)[symbols]
        with torch.autocast("cpu", torch.bfloat16):
            loss = eye.loss(pictures, identity)
        loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        nn.utils.clip_grad_norm_(eye.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 25 == 0:
            speed = step * settings.batch / (time.monotonic() - started)
            _log.info("step %d loss %.4f, %.0f images/s", step, loss.item(), speed)
        if step % settings.save_every == 0:
            _log.info("step %d after %.0f s: %s", step, time.monotonic() - started, accuracy(eye, held_out))
            save(eye, folder / "tower.safetensors")
    save(eye, folder / "tower.safetensors")
    return {"images": step * settings.batch, "seconds": time.monotonic() - started} | accuracy(eye, held_out)


def batch_of(sources: Sources, size: int, generator: torch.Generator) -> tuple[Pictures, Tensor]:
    """Return `size` pictures, in four groups of one resolution each, and their symbols."""
    masks, symbols = sources.draw(size, generator)
    order = torch.randperm(size, generator=generator)
    groups = [picture(masks[part], generator=generator) for part in order.chunk(4)]
    pictures = Pictures(
        pixels=torch.cat([group.pixels for group in groups]),
        ink=torch.cat([group.ink for group in groups]),
        paper=torch.cat([group.paper for group in groups]),
    )
    return pictures, symbols[order]


@torch.no_grad()
def accuracy(eye: Eye, sources: Sources, *, num_batches: int = 6) -> dict[str, float]:
    """Return the share of right names on held-out fonts and fresh handwriting, at full size and as 8 x 8 scans."""
    eye.eval()
    scores = {"print_plain": _plain_accuracy(eye, sources.characters)}
    for side in (64, 8):
        generator = torch.Generator().manual_seed(1)
        hits: dict[str, list[Tensor]] = {"print": [], "handwriting": [], "shapes": [], "ink": []}
        for _ in range(num_batches):
            masks, symbols = sources.draw(256, generator)
            pictures = picture(masks, generator=generator, side=side)
            tokens = eye.tokens(pictures.pixels)
            right = eye.identity(tokens).mean(1).argmax(-1) == torch.from_numpy(glyphs.IDENTITY_OF)[symbols]
            by_hand, shaped = round(0.42 * 256), round(0.13 * 256)
            hits["handwriting"].append(right[:by_hand])
            hits["print"].append(right[by_hand : 256 - shaped])
            hits["shapes"].append(right[256 - shaped :])
            hits["ink"].append(eye.ink(tokens.mean(1)).argmax(-1) == pictures.ink)
        scores |= {f"{kind}_{side}px": round(float(torch.cat(marks).float().mean()), 4) for kind, marks in hits.items()}
    eye.train()
    return scores


def _plain_accuracy(eye: Eye, bank: glyphs.Bank) -> float:
    """Return the share of right names on undistorted characters, black on white."""
    every = slice(None, None, max(1, len(bank.masks) // 2000))
    pixels = 1 - torch.from_numpy(bank.masks[every])[:, None].float().expand(-1, 3, -1, -1) / 127.5
    wanted = torch.from_numpy(glyphs.IDENTITY_OF)[torch.from_numpy(bank.symbols[every])]
    right = [eye.identity(eye.tokens(part)).mean(1).argmax(-1) for part in pixels.split(256)]  # type: ignore[no-untyped-call]
    return round(float((torch.cat(right) == wanted).float().mean()), 4)


def save(eye: Eye, path: Path) -> None:
    """Write tower and connector as float16."""
    kept = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in eye.state_dict().items()
        if name.startswith(("vision_model.", "connector."))
    }
    save_file(kept, path, metadata={"format": "pt"})


def _optimizers(eye: Eye, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the tower (it needs fewer steps than AdamW here), AdamW for the rest."""
    inside = {name for name, parameter in eye.named_parameters() if parameter.ndim == 2 and ".layers." in name}
    matrices = [parameter for name, parameter in eye.named_parameters() if name in inside]
    others = [parameter for name, parameter in eye.named_parameters() if name not in inside]
    muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=learning_rate / 2, weight_decay=0.01, betas=(0.9, 0.98))
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return [muon, adamw]


def _rate(step: int, done: float) -> float:
    """Return the share of the learning rate: a short warm-up, a plateau, a straight fall over the last 40 %."""
    return min(1.0, step / 60, max(0.0, (1 - done) / 0.4))
