import gc
import hashlib
import io
import os
import threading
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

from core.child import Child
from core.events import Emitter, parse
from training.collator import Collator
from training.encoding import Encoder
from training.export import ADAPTER_FOLDER, WEIGHTS_FILE
from training.images import ImageFolder
from training.spec import TrainingSpec
from training.trainer import Trainer
from vlm import loading
from vlm.conversation import IMAGES_FOLDER, Example, ImagePart, Message, TextPart, write_examples


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays():
    """Keep what is there out of the collections at each change of a run's phase, as `training.run` does."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def load(models_dir):
    """Load `tiny` afresh: wrapping and quantizing change a model in place."""

    def load(quantization="none", dtype=torch.float32, **options):
        resolved = loading.resolve("tiny", models_dir=models_dir)
        return loading.load(resolved, quantization=quantization, dtype=dtype, **options)

    return load


class Album:
    """A data set folder in the making."""

    def __init__(self, folder):
        self.folder = folder
        (folder / IMAGES_FOLDER).mkdir()

    def image(self, colour="white", size=(40, 30)):
        """Store a picture and return its name."""
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, "PNG")
        name = hashlib.sha256(buffer.getvalue()).hexdigest()
        (self.folder / IMAGES_FOLDER / name).write_bytes(buffer.getvalue())
        return name

    def example(self, *turns, row=1, split="train"):
        """Return an example of (role, part, part, ...) turns; a part is text, or `@` and the name of an image."""
        images, messages = [], []
        for role, *parts in turns:
            weight = parts.pop() if isinstance(parts[-1], int) else 1
            content = []
            for part in parts:
                if part.startswith("@"):
                    images.append(part[1:])
                    content.append(ImagePart())
                else:
                    content.append(TextPart(text=part))
            messages.append(Message(role=role, content=tuple(content), weight=weight))
        return Example(row=row, split=split, messages=tuple(messages), images=tuple(images))

    def question(self, text, answer, *, images=0, **where):
        """Return a question about some pictures and its answer."""
        shown = [f"@{self.image(('red', 'green', 'blue')[index % 3])}" for index in range(images)]
        return self.example(("user", *shown, text), ("assistant", answer), **where)

    def write(self, *examples):
        """Write the table."""
        write_examples(self.folder, iter(examples))

    def colours(self, num_train, num_validation=0):
        """Write rows that ask for the colour of a picture."""
        names = ("red", "blue")
        rows = [
            self.example(
                ("user", f"@{self.image(names[index % 2])}", "Which colour?"),
                ("assistant", names[index % 2]),
                row=index + 1,
                split="train" if index < num_train else "validation",
            )
            for index in range(num_train + num_validation)
        ]
        self.write(*rows)


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    return Album(folder)


@pytest.fixture
def encoder_of(album):
    def encoder_of(base):
        return Encoder(base.processor, base.family, ImageFolder(album.folder))

    return encoder_of


class Run:
    """A child's side of the protocol without the process: its staging folder, and the events that it wrote."""

    def __init__(self, folder):
        folder.mkdir()
        (folder / "staging").mkdir()
        self._events = folder / "events"
        self._fd = os.open(self._events, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.child = Child(spec={}, staging=folder / "staging", events=Emitter(self._fd), stop=threading.Event())

    @property
    def events(self):
        return [parse(line) for line in self._events.read_bytes().splitlines()]

    @property
    def metrics(self):
        return [event.data for event in self.events if event.type == "metric"]

    def close(self):
        os.close(self._fd)


@pytest.fixture
def run(tmp_path):
    opened = []

    def start(name="run"):
        opened.append(Run(tmp_path / name))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@contextmanager
def recorded_steps():
    """Collect the micro-batches that every optimizer step makes on this process."""
    steps, training_step, batch = [], Trainer.training_step, Collator.batch

    def begin(loop, *args, **kwargs):
        steps.append([])
        return training_step(loop, *args, **kwargs)

    def record(collator, micro_batch):
        if collator._examples[0].split == "train":
            steps[-1].append(micro_batch)
        return batch(collator, micro_batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", begin)
        patch.setattr(Collator, "batch", record)
        yield steps


def num_packed(steps):
    """Return how many steps hold a row of two or more examples."""
    return sum(any(len(row) > 1 for micro_batch in step for row in micro_batch) for step in steps)


@pytest.fixture
def spec(models_dir, album):
    def spec(**asked):
        fixed = {"base_model": "tiny", "models_dir": models_dir, "dataset_dir": album.folder, "dataset_digest": "d1"}
        return TrainingSpec.model_validate(fixed | asked)

    return spec


def losses(run):
    return [metric["loss"] for metric in run.metrics if "loss" in metric]


def digest(run):
    return hashlib.sha256((run.child.staging / ADAPTER_FOLDER / WEIGHTS_FILE).read_bytes()).hexdigest()


def stop_after(child_run, *, step):
    """Return an `emit` that sets the stop flag when this step's metric passes, as a supervisor would."""
    emit = child_run.child.events.emit

    def emit_and_stop(event):
        emit(event)
        if event.type == "metric" and event.data["step"] == step:
            child_run.child.stop.set()

    return emit_and_stop
