"""What the arms train on: pictures and questions drawn from a seed, as a worker leaves them for a job. Torch-free."""

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vlm.conversation import IMAGES_FOLDER, Example, ImagePart, Message, Split, TextPart, write_examples

EPOCHS = 3
BATCH_SIZE = 4  # examples per optimizer step of all but the cookbook's recipe, whose step is 4 x 4
SEED = 7
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One set of examples, and how its pictures are cut.

    Attributes:
        name: For the command line.
        title: For the table.
        num_train: Examples of an epoch.
        longest_edge_px: `image.longest_edge`; with the picture's shape it gives the number of tiles.
        picture_px: Width and height of a picture.
        questions_per_picture: Consecutive examples that share a picture.
        question_tokens: The shortest and the longest question; lengths are spread evenly over the logarithm.
        answer_tokens: The same of answers.
        is_headline: The set of the goals: operations are counted and the steps compared one by one.
    """

    name: str
    title: str
    num_train: int
    longest_edge_px: int
    picture_px: tuple[int, int] = (256, 256)
    questions_per_picture: int = 1
    question_tokens: tuple[int, int] = (40, 60)
    answer_tokens: tuple[int, int] = (8, 16)
    num_validation: int = 2
    is_headline: bool = False


WORKLOADS: tuple[Workload, ...] = (
    Workload(name="tiles-1", title="1 tile", num_train=8, longest_edge_px=512),
    Workload(name="tiles-5", title="5 tiles", num_train=8, longest_edge_px=1024, is_headline=True),
    Workload(name="tiles-13", title="13 tiles", num_train=2, longest_edge_px=2048, picture_px=(320, 240)),
    Workload(
        name="text",
        title="1 tile, text of 20 to 1,200 tokens",
        num_train=8,
        longest_edge_px=512,
        question_tokens=(20, 1200),
        answer_tokens=(4, 120),
    ),
    Workload(
        name="shared",
        title="5 tiles, 4 questions a picture",
        num_train=4,
        longest_edge_px=1024,
        questions_per_picture=4,
    ),
)


def scaled_down(workload: Workload) -> Workload:
    """Return the set for `--quick`: one batch of training, one tile where five would be."""
    edge = min(workload.longest_edge_px, 1024)
    return replace(workload, num_train=BATCH_SIZE, num_validation=1, longest_edge_px=edge)


def write(folder: Path, workload: Workload) -> tuple[Path, Path]:
    """Write the set and return the folders of its two splits; a run sees the first one only."""
    generator = np.random.default_rng(SEED)
    counts: dict[Split, int] = {"train": workload.num_train, "validation": workload.num_validation}
    made = []
    for split, count in counts.items():
        place = folder / split
        (place / IMAGES_FOLDER).mkdir(parents=True)
        write_examples(place, iter(_examples(place, workload, split, count, generator)))
        made.append(place)
    return made[0], made[1]


def _examples(
    folder: Path, workload: Workload, split: Split, count: int, generator: np.random.Generator
) -> list[Example]:
    rows, name = [], ""
    for number in range(count):
        if number % workload.questions_per_picture == 0:
            name = _picture(folder, workload.picture_px, generator)
        question = TextPart(text=_text(workload.question_tokens, generator))
        answer = TextPart(text=_text(workload.answer_tokens, generator))
        asked = Message(role="user", content=(ImagePart(), question))
        said = Message(role="assistant", content=(answer,))
        rows.append(Example(row=number + 1, split=split, messages=(asked, said), images=(name,)))
    return rows


def _picture(folder: Path, size_px: tuple[int, int], generator: np.random.Generator) -> str:
    """Store a JPEG of coarse noise under its sha256, which is returned."""
    coarse = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size_px, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    name = hashlib.sha256(buffer.getvalue()).hexdigest()
    (folder / IMAGES_FOLDER / name).write_bytes(buffer.getvalue())
    return name


def _text(lengths: tuple[int, int], generator: np.random.Generator) -> str:
    """Return lower-case letters; the bases of this benchmark have one token a byte."""
    low, high = np.log(lengths)
    length = round(float(np.exp(generator.uniform(low, high))))
    return "".join(_LETTERS[index] for index in generator.integers(0, len(_LETTERS), length))
