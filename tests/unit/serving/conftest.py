"""One data directory with a lively `tiny` and a few adapters, and the application on it.

`tiny` repeats one token whatever it is asked, which would hide a wrong image, adapter or neighbour. With its layers
scaled up, five pictures give five answers of twenty different tokens each.
"""

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from peft import PeftModel
from PIL import Image

from core.manifest import MANIFEST_FILE, make_manifest
from core.storage import Storage
from serving.app import create_app
from serving.options import ServingSettings
from training.adapter import wrap
from training.distributed import ALONE
from training.export import write_adapter
from training.spec import Method
from vlm import loading
from vlm.conversation import Message, as_chat

LIVELINESS = 8.0


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lively(models_dir, tmp_path_factory) -> Path:
    base = load_base("tiny", models_dir)
    with torch.no_grad():
        for name, weight in base.model.named_parameters():
            if "connector" in name or ("layers" in name and weight.ndim == 2):
                weight.mul_(LIVELINESS)
    folder = tmp_path_factory.mktemp("lively")
    base.model.save_pretrained(folder)
    base.processor.save_pretrained(folder)
    return folder


def load_base(name: str, models_dir: Path) -> loading.LoadedBase:
    resolved = loading.resolve(name, models_dir=models_dir)
    return loading.load(resolved, quantization="none", dtype=torch.float32)


@dataclass(kw_only=True)
class World:
    """A data directory, its storage, and what the tests put into it."""

    root: Path
    models_dir: Path
    base: str
    settings: ServingSettings = field(init=False)

    def __post_init__(self) -> None:
        self.settings = self.with_options()
        self.settings.layout.make()
        self.settings.layout.models.rmdir()
        self.settings.layout.models.symlink_to(self.models_dir)

    def with_options(self, **options: Any) -> ServingSettings:
        # In float32 an answer depends on nothing but its own row, so it can be compared letter by letter.
        return ServingSettings(data_dir=self.root, **{"serving_dtype": "fp32"} | options)

    @property
    def storage(self) -> Storage:
        return Storage.from_url(self.settings.resolved_storage_url)

    def make_adapter(
        self, name: str, *, seed: int, targets: tuple[str, ...] = ("q_proj", "down_proj"), **method: Any
    ) -> Path:
        """Write a random adapter that changes what the base says, as the training room would."""
        base = load_base(self.base, self.models_dir)
        torch.manual_seed(seed)
        asked = Method(type="lora", r=4, alpha=8, target_modules=targets, **method)
        model = wrap(base, asked, name=self.base)
        with torch.no_grad():
            for parameter_name, weight in model.named_parameters():
                if ".lora_magnitude_vector." in parameter_name:
                    weight.mul_(1 + 0.3 * torch.rand_like(weight))
                elif ".lora_" in parameter_name:
                    torch.nn.init.normal_(weight, std=0.3)
        folder = self.root / "made" / name
        write_adapter(model, folder, ALONE.trained_weights(model))
        base.processor.save_pretrained(folder)
        return folder

    def publish(self, folder: Path) -> dict[str, str]:
        """Store an adapter's folder and return its reference."""
        manifest = make_manifest(folder)
        key = f"default/adapters/{manifest.sha256}"
        for name in (*manifest.files, MANIFEST_FILE):
            self.storage.put_file(f"{key}/{name}", folder / name)
        return {"key": key, "sha256": manifest.sha256}

    def stored(self, ref: dict[str, str], name: str) -> Path:
        return self.settings.layout.storage / ref["key"] / name


@pytest.fixture(scope="session")
def world(tmp_path_factory, models_dir, lively) -> World:
    return World(root=tmp_path_factory.mktemp("data"), models_dir=models_dir, base=str(lively))


@pytest.fixture
def fresh_world(tmp_path, models_dir, lively) -> World:
    return World(root=tmp_path, models_dir=models_dir, base=str(lively))


@pytest.fixture(scope="session")
def adapters(world) -> list[dict[str, str]]:
    return [world.publish(world.make_adapter(f"a{seed}", seed=seed)) for seed in (1, 2, 3)]


@pytest.fixture(scope="session")
def client(world) -> Iterator[TestClient]:
    with TestClient(create_app(world.settings)) as client:
        yield client


@pytest.fixture
def client_of() -> Iterator[Callable[[ServingSettings], TestClient]]:
    opened: list[TestClient] = []

    def open_client(settings: ServingSettings) -> TestClient:
        client = TestClient(create_app(settings))
        client.__enter__()
        opened.append(client)
        return client

    yield open_client
    for client in opened:
        client.__exit__(None, None, None)


def picture(*, colour: tuple[int, int, int] = (200, 30, 90), size: tuple[int, int] = (40, 40)) -> Image.Image:
    image = Image.new("RGB", size, colour)
    image.paste((10, 240, 100), (4, 4, size[0] // 2, size[1] // 2))
    return image


def data_url(image: Image.Image, *, file_format: str = "PNG", **options: Any) -> str:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


@pytest.fixture(scope="session")
def url() -> Callable[..., str]:
    return lambda **options: data_url(picture(**options))


@pytest.fixture(scope="session")
def ask(lively) -> Callable[..., dict[str, Any]]:
    """Return a function that makes the body of a request."""

    def make(
        prompt: str = "what is it?", *, images: tuple[str, ...] = (), adapter: Any = None, **options: Any
    ) -> dict[str, Any]:
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": prompt}]
        stream = options.pop("stream", False)
        return {
            "base": options.pop("base", str(lively)),
            "adapter": adapter,
            "messages": [{"role": "user", "content": content}],
            "images": list(images),
            "sampling": {"max_tokens": 12} | options,
            "stream": stream,
        }

    return make


@pytest.fixture(scope="session")
def oracle(world) -> Callable[..., str]:
    """Return a function that answers a body by plain transformers and PEFT: one row, no padding, freshly loaded."""

    def answer(body: dict[str, Any], images: tuple[Image.Image, ...] = ()) -> str:
        base = load_base(body["base"], world.models_dir)
        model: Any = base.model
        if body["adapter"] is not None:
            folder = world.settings.layout.storage / body["adapter"]["key"]
            with warnings.catch_warnings():  # peft 0.21 uses a name that transformers 5.23 deprecates
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
                model = PeftModel.from_pretrained(model, folder).eval()
        processor: Any = base.processor
        messages = as_chat(tuple(Message.model_validate(message) for message in body["messages"]))
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=[list(images)] if images else None, return_tensors="pt")
        out = model.generate(**inputs, do_sample=False, max_new_tokens=body["sampling"]["max_tokens"])
        new = out[0, inputs["input_ids"].shape[1] :]
        return str(processor.tokenizer.decode(new, skip_special_tokens=True)).lstrip()

    return answer
