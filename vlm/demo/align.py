"""Stage 2 of the pretraining: the connector learns to speak to the frozen text decoder.

The connector starts from a least-squares fit of each image token to the decoder's own embeddings of what the
picture shows, and is then trained through the decoder on questions and answers in the chat format.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from transformers import Idefics3ForConditionalGeneration, Idefics3Processor

from vlm.demo import anatomy, glyphs
from vlm.demo.augment import COLOUR_NAMES, Pictures, picture
from vlm.demo.captions import DIGIT_WORDS, ask, name_of
from vlm.demo.tower import Sources, batch_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignSettings:
    """What one run of stage 2 needs; it ends by the clock, since the machine may be shared.

    Attributes:
        fit: Start the connector from the least-squares fit; otherwise go on from the weights as they are.
    """

    seconds: float
    batch: int = 32
    connector_rate: float = 1e-3
    tower_rate: float = 1e-4
    seed: int = 11
    fit: bool = True


class Aligner:
    """The model with its tower and connector in float32 and its frozen decoder in bfloat16."""

    def __init__(self, model: Idefics3ForConditionalGeneration, processor: Idefics3Processor) -> None:
        self.model = model.requires_grad_(requires_grad=False)
        self.model.model.text_model.bfloat16()
        self.tower = model.model.vision_model.float().requires_grad_(requires_grad=True)
        self.connector = model.model.connector.float().requires_grad_(requires_grad=True)
        self.embedding: Tensor = model.model.text_model.embed_tokens.weight
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_id = int(self.tokenizer.get_vocab()["<image>"])

    def fit_connector(self, sources: Sources, generator: torch.Generator) -> None:
        """Set the connector to the ridge regression of tower features on word embeddings."""
        targets = self._symbol_words()
        colours = torch.stack([self._word(f" {name}") for name in COLOUR_NAMES])
        inputs, outputs = [], []
        with torch.no_grad():
            for _ in range(24):
                pictures, symbols = batch_of(sources, 256, generator)
                hidden = self.tower(pixel_values=pictures.pixels).last_hidden_state
                shuffled = self.connector.pixel_shuffle(hidden, self.connector.scale_factor)
                wanted = targets[symbols] + 0.5 * colours[pictures.ink] + 0.35 * colours[pictures.paper]
                inputs.append(shuffled.flatten(0, 1))
                outputs.append(wanted.repeat_interleave(shuffled.shape[1], 0))
        x, y = torch.cat(inputs).double(), torch.cat(outputs).double()
        gram = x.T @ x + 0.01 * x.pow(2).mean() * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
        self.connector.modality_projection.proj.weight.data = torch.linalg.solve(gram, x.T @ y).T.float().contiguous()

    def loss(self, pictures: Pictures, symbols: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the answers' tokens, and which tokens the decoder would have written right."""
        ids, labels = self._conversations(pictures, symbols, rng)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = self.connector(self.tower(pixel_values=pictures.pixels).last_hidden_state)
        embedded = F.embedding(ids.clamp_min(0), self.embedding)
        embedded = embedded.masked_scatter((ids == self.image_id)[..., None], tokens.to(embedded.dtype))
        hidden = self.model.model.text_model(
            inputs_embeds=embedded, attention_mask=(ids >= 0).long(), use_cache=False
        ).last_hidden_state
        wanted = labels[:, 1:]
        logits = (hidden[:, :-1][wanted >= 0] @ self.embedding.T).float()
        return F.cross_entropy(logits, wanted[wanted >= 0]), logits.argmax(-1) == wanted[wanted >= 0]

    def _conversations(self, pictures: Pictures, symbols: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Return token ids (-1 = padding) and labels (-100 = no loss) `[B, T]` of conversations of two turns."""
        rows: list[tuple[list[int], list[int]]] = []
        image = "<fake_token_around_image><global-img>" + "<image>" * anatomy.IMAGE_TOKENS + "<fake_token_around_image>"
        for symbol, ink, paper in zip(symbols.tolist(), pictures.ink.tolist(), pictures.paper.tolist(), strict=True):
            ids: list[int] = []
            labels: list[int] = []
            for number, turn in enumerate(ask(symbol, ink, paper, rng=rng)):
                opening = f"<|im_start|>User:{image}" if number == 0 else "\nUser: "
                asked = self._ids(f"{opening}{turn.question}<end_of_utterance>\nAssistant:")
                answered = self._ids(f" {turn.answer}<end_of_utterance>")
                ids += asked + answered
                labels += [-100] * len(asked) + answered
            rows.append((ids, labels))
        longest = max(len(ids) for ids, _ in rows)
        padded = torch.tensor([ids + [-1] * (longest - len(ids)) for ids, _ in rows])
        return padded, torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows])

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _word(self, *texts: str) -> Tensor:
        return torch.stack([self.embedding[self._ids(text)].float().mean(0) for text in texts]).mean(0)

    def _symbol_words(self) -> Tensor:
        """Return the embedding `[symbols, hidden]` that stands for each symbol."""
        rows = []
        for symbol in range(len(glyphs.CHARACTERS) + len(glyphs.SHAPES)):
            kind, name = name_of(symbol)
            texts = [f" {name}"]
            if kind == "digit":
                texts.append(str(DIGIT_WORDS.index(name)))
            if kind == "letter":
                texts.append(name)
            rows.append(self._word(*texts))
        return torch.stack(rows)


def align(aligner: Aligner, sources: Sources, settings: AlignSettings, *, keep: Callable[[], None]) -> dict[str, float]:
    """Train the connector, and the tower at a tenth of its rate.

    Args:
        aligner: The model to train.
        sources: What to draw pictures from.
        settings: Rates and time.
        keep: Called now and then, and at the end, to save the weights.

    Returns:
        How many pictures in how many seconds.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    if settings.fit:
        aligner.fit_connector(sources, generator)
    rates = {aligner.connector: settings.connector_rate, aligner.tower: settings.tower_rate}
    optimizer = torch.optim.AdamW(
        [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()],
        weight_decay=0.0,
        betas=(0.9, 0.98),
    )
    started, step, done = time.monotonic(), 0, 0.0
    while done < 1.0:
        step, done = step + 1, (time.monotonic() - started) / settings.seconds
        for group, peak in zip(optimizer.param_groups, rates.values(), strict=True):
            group["lr"] = peak * min(1.0, step / 20, max(0.0, 1 - done) / 0.6)
        pictures, symbols = batch_of(sources, settings.batch, generator)
        loss, right = aligner.loss(pictures, symbols, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0:
            speed = step * settings.batch / (time.monotonic() - started)
            _log.info("step %d loss %.4f right %.3f, %.1f/s", step, loss.item(), right.float().mean(), speed)
        if step % 50 == 0:
            keep()
    keep()
    return {"images": step * settings.batch, "seconds": time.monotonic() - started}


@torch.no_grad()
def token_accuracy(aligner: Aligner, held_out: Sources, *, num_batches: int = 8) -> dict[str, float]:
    """Return the share of answer tokens the decoder gets right on held-out fonts, at full size and as 8 x 8 scans."""
    scores = {}
    for side in (64, 8):
        generator, rng = torch.Generator().manual_seed(2), random.Random(2)
        marks = []
        for _ in range(num_batches):
            masks, symbols = held_out.draw(32, generator)
            pictures = picture(masks, generator=generator, side=side)
            marks.append(aligner.loss(pictures, symbols, rng)[1])
        scores[f"answer_tokens_{side}px"] = round(float(torch.cat(marks).float().mean()), 4)
    return scores
