"""What the model gets at serving is what it got in training, for every way to cut images."""

import hashlib
import io
import warnings

import pytest
import torch
from PIL import Image

from serving.bases import Base
from serving.generation import prepare
from serving.images import decode_images
from serving.ticket import Ticket
from serving.wire import AdapterRef, GenerateRequest
from tests.models import make_smolvlm2
from tests.unit.serving.conftest import data_url, load_base
from training.encoding import Encoder
from training.images import ImageFolder
from vlm import loading, tiny
from vlm.conversation import IMAGES_FOLDER, Example
from vlm.image_options import ImageOptions

SIZES = [(40, 40), (50, 30), (30, 90), (97, 65), (10, 8), (200, 100)]


@pytest.fixture(scope="module", params=["idefics3", "smolvlm"])
def loaded(request, models_dir, tmp_path_factory):
    if request.param == "idefics3":
        return load_base("tiny", models_dir)
    folder = make_smolvlm2(tiny.ensure(models_dir), tmp_path_factory.mktemp("smolvlm2"))
    return loading.load(loading.resolve(str(folder), models_dir=models_dir), quantization="none", dtype=torch.float32)


@pytest.fixture
def served(loaded):
    """Return a function that prepares pictures and a question for an adapter whose processor has these options."""

    def served(options, images, question="What is it?"):
        adapter = AdapterRef(key="default/adapters/a", sha256="0" * 64)
        processor = loaded.family.with_image_options(loaded.processor, options)
        base = Base(name="b", loaded=loaded, linears={})
        base.processors[adapter.sha256] = processor
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        request = GenerateRequest(
            base="b",
            adapter=adapter,
            messages=[{"role": "user", "content": content}],
            images=[data_url(image) for image in images],
        )
        ticket = Ticket(request=request, images=decode_images(request.images), deliver=print, submitted_at=0.0)
        return processor, prepare(ticket, base)

    return served


def gradient(size):
    """Return a picture on which no two places look alike."""
    return Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * turn).resize(size) for turn in range(3)])


@pytest.mark.parametrize(
    "options",
    [
        ImageOptions(),
        ImageOptions(longest_edge=96, split=True),
        ImageOptions(longest_edge=128, split=True, upscale=False),
        ImageOptions(longest_edge=128, split=False, upscale=False),
    ],
    ids=str,
)
def test_served_tokens_and_pixels_are_those_of_training(served, loaded, tmp_path, options):
    images = [gradient(size) for size in SIZES]
    processor, row = served(options, images)

    (tmp_path / IMAGES_FOLDER).mkdir()
    names = []
    for image in images:
        out = io.BytesIO()
        image.save(out, "PNG")
        names.append(hashlib.sha256(out.getvalue()).hexdigest())
        (tmp_path / IMAGES_FOLDER / names[-1]).write_bytes(out.getvalue())
    encoder = Encoder(processor, loaded.family, ImageFolder(tmp_path))
    example = Example(row=1, split="train", messages=row.ticket.request.messages, images=tuple(names))
    trained = encoder.encode(example).input_ids
    prefix = processor.tokenizer("Assistant:", add_special_tokens=False)["input_ids"]

    assert row.ids == trained + prefix
    assert row.num_image_tokens == sum(encoder.image_tiles(name) for name in names) * processor.image_seq_len
    for name, pixels in zip(names, row.pixels, strict=True):
        for part, tensor in encoder.pixels(name).items():
            assert torch.equal(pixels[part], tensor), part


@pytest.mark.parametrize("options", [ImageOptions(), ImageOptions(longest_edge=96, split=True)], ids=str)
def test_unless_asked_a_prompt_is_what_the_whole_processor_makes_of_it(served, loaded, options):
    images = [gradient(size) for size in SIZES]
    processor, row = served(options, images)
    text = f"<|im_start|>User:{'<image>' * len(images)}What is it?<end_of_utterance>\nAssistant:"
    whole = processor(text=[text], images=[images], add_special_tokens=False, return_tensors="pt")
    assert row.ids == whole["input_ids"][0].tolist()
    joined = loaded.family.join([row.pixels])
    assert torch.equal(joined["pixel_values"], whole["pixel_values"])
    assert torch.equal(joined["pixel_attention_mask"], whole["pixel_attention_mask"])


def test_an_adapter_that_leaves_small_images_small_is_served_so(world, client, ask, url):
    """The setting travels in the adapter's folder; the base itself and other adapters do not change."""
    folder = world.make_adapter("small", seed=8)
    own = load_base(world.base, world.models_dir)
    options = ImageOptions(longest_edge=128, split=True)
    counts = []
    for each in (options, options.model_copy(update={"upscale": False})):
        own.family.with_image_options(own.processor, each).save_pretrained(folder)
        with warnings.catch_warnings():  # peft 0.21 uses a name that transformers 5.23 deprecates
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            answer = client.post("/generate", json=ask(images=(url(size=(50, 30)),), adapter=world.publish(folder)))
        assert answer.status_code == 200, answer.text
        counts.append(answer.json()["usage"]["image_tokens"])
    assert counts == [4 * (4 * 3 + 1), 4 * (2 * 1 + 1)]
    base = client.post("/generate", json=ask(images=(url(size=(50, 30)),)))
    assert base.json()["usage"]["image_tokens"] == 4
