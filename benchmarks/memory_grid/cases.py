"""The runs of the grid: widths, tiles, micro-batches, quantization, checkpointing, the feature cache. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from vlm.precision import Precision, Quantization

BATCH_SIZE = 4
NUM_EXAMPLES = 8
DEPTHS = {"smolvlm-256m": (2, 6), "smolvlm-2.2b": (1, 2)}  # layers of vision and text
TILES = {1: (1, (256, 256)), 5: (2, (256, 256)), 13: (4, (320, 240))}  # longest edge in tiles, and a picture's shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run.

    Attributes:
        base: The published model whose widths it has.
        tiles: Of each picture.
        micro_batch: Examples of a pass.
        question_tokens: The shortest and the longest question.
    """

    base: str
    tiles: int
    micro_batch: int
    quantization: Quantization = "nf4"
    precision: Precision = "bf16"
    checkpointing: bool = False
    cache: bool = True
    optimizer: str = "adamw"
    r: int = 8
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    use_dora: bool = False
    train_connector: bool = False
    train_vision: bool = False
    question_tokens: tuple[int, int] = (40, 60)
    packing: bool = False
    compact: bool = True

    @property
    def edge_in_tiles(self) -> int:
        """Return the longest edge of a picture, in tiles."""
        return TILES[self.tiles][0]

    @property
    def picture_px(self) -> tuple[int, int]:
        """Return the width and height of a picture that is cut into so many tiles."""
        return TILES[self.tiles][1]

    @property
    def name(self) -> str:
        """Return the case in words."""
        base, default = self.base.removeprefix("smolvlm-"), Case(base=self.base, tiles=0, micro_batch=0)
        told = [base, f"{self.tiles} tiles", f"micro-batch {self.micro_batch}", self.quantization]
        told += ["checkpointing"] * self.checkpointing + ["no cache"] * (not self.cache)
        rest = ("precision", "optimizer", "r", "dropout", "targets", "question_tokens", "packing")
        told += [f"{each} {getattr(self, each)}" for each in rest if getattr(self, each) != getattr(default, each)]
        told += ["fast allocator"] * (not self.compact)
        told += [each for each in ("use_dora", "train_connector", "train_vision") if getattr(self, each)]
        return ", ".join(told)

    @property
    def method(self) -> dict[str, Any]:
        """Return `method` as a job asks for it."""
        kind = {"type": "lora"} if self.quantization == "none" else {"type": "qlora", "quantization": self.quantization}
        names = ("r", "dropout", "use_dora", "train_connector", "train_vision")
        targets = {} if self.targets is None else {"target_modules": self.targets}
        return kind | {name: getattr(self, name) for name in names} | targets

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Return `hyperparameters` as a job asks for them."""
        passes = {"packing": True} if self.packing else {"micro_batch_size": self.micro_batch, "packing": False}
        return passes | {
            "epochs": 1,
            "batch_size": BATCH_SIZE,
            "precision": self.precision,
            "gradient_checkpointing": self.checkpointing,
            "feature_cache": self.cache,
            "optimizer": self.optimizer,
            "compact_memory": self.compact,
        }


def grid() -> Iterator[Case]:
    """Yield every case of the grid."""
    for base, tiles, micro_batch in product(DEPTHS, TILES, (1, 2, 4)):
        common = Case(base=base, tiles=tiles, micro_batch=micro_batch)
        yield common
        yield replace(common, quantization="none", checkpointing=True)
        yield replace(common, quantization="int8", cache=False)
    small = Case(base="smolvlm-256m", tiles=5, micro_batch=2)
    yield replace(small, precision="fp32")
    yield replace(small, precision="fp32", quantization="none", checkpointing=True, cache=False)
    yield replace(small, optimizer="adamw_8bit", r=64)
    yield replace(small, dropout=0.1)
    yield replace(small, targets=("q_proj", "v_proj"))
    yield replace(small, use_dora=True)
    yield replace(small, train_connector=True)
    yield replace(small, train_vision=True, tiles=1)
    yield replace(small, question_tokens=(20, 1200), tiles=1)
    yield replace(small, packing=True, question_tokens=(20, 300), tiles=1)


def fast() -> Iterator[Case]:
    """Yield the cases whose memory is kept for the next piece, as by default: what that takes more."""
    for case in grid():
        if case.base == "smolvlm-256m" and case.quantization != "int8":
            yield replace(case, compact=False)
