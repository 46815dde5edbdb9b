import hashlib
import io

import pytest
import torch
from PIL import Image

from training.encoding import Encoder
from training.images import ImageFolder
from vlm import loading
from vlm.conversation import IMAGES_FOLDER, Example, ImagePart, Message, TextPart


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def load_tiny(tmp_path_factory):
    """Load `tiny` afresh: wrapping and quantizing change a model in place."""
    models_dir = tmp_path_factory.mktemp("models")

    def load_tiny(quantization="none"):
        resolved = loading.resolve("tiny", models_dir=models_dir)
        return loading.load(resolved, quantization=quantization, dtype=torch.float32)

    return load_tiny


def gradient(size):
    """Return a picture of which no part is like another."""
    down = Image.linear_gradient("L").resize(size)
    along = Image.linear_gradient("L").rotate(90).resize(size)
    return Image.merge("RGB", (down, along, down))


@pytest.fixture
def shelf(tmp_path):
    """Make examples whose pictures lie in a data set folder."""
    (tmp_path / IMAGES_FOLDER).mkdir()

    def store(colour, size):
        buffer = io.BytesIO()
        image = gradient(size) if colour == "gradient" else Image.new("RGB", size, colour)
        image.save(buffer, "PNG")
        name = hashlib.sha256(buffer.getvalue()).hexdigest()
        (tmp_path / IMAGES_FOLDER / name).write_bytes(buffer.getvalue())
        return name

    def example(*turns):
        """Return the example of (role, weight, parts) turns; a part is text or a (colour, size) picture."""
        images, messages = [], []
        for role, weight, *parts in turns:
            content = []
            for part in parts:
                content.append(TextPart(text=part) if isinstance(part, str) else ImagePart())
                if not isinstance(part, str):
                    images.append(store(*part))
            messages.append(Message(role=role, content=tuple(content), weight=weight))
        return Example(row=1, split="train", messages=tuple(messages), images=tuple(images))

    example.folder = tmp_path
    return example


@pytest.fixture
def encoder_of(shelf):
    def encoder_of(base):
        return Encoder(base.processor, base.family, ImageFolder(shelf.folder))

    return encoder_of
