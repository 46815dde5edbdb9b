"""What `POST /preview` of serving shows is what training learns: token for token against the batches of a run."""

import pytest
import torch
from fastapi.testclient import TestClient

from core.storage import Storage
from serving.app import create_app
from serving.options import ServingSettings
from tests.engine import alone, collator_of
from tests.models import make_smolvlm2
from tests.numerics.test_label_masks import CONVERSATIONS
from training.encoding import Encoder
from training.images import ImageFolder
from vlm import loading, tiny
from vlm.image_options import ImageOptions
from vlm.labels import IGNORED


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = ServingSettings(data_dir=tmp_path_factory.mktemp("data"))
    made.layout.make()
    return made


@pytest.fixture(scope="module")
def client(settings):
    with TestClient(create_app(settings)) as opened:
        yield opened


@pytest.fixture(scope="module", params=["tiny", "smolvlm2"])
def base_name(request, settings, tmp_path_factory):
    if request.param == "tiny":
        return "tiny"
    return str(make_smolvlm2(tiny.ensure(settings.layout.models), tmp_path_factory.mktemp("smolvlm2")))


@pytest.fixture(scope="module")
def base(base_name, settings):
    resolved = loading.resolve(base_name, models_dir=settings.layout.models)
    return loading.load(resolved, quantization="none", dtype=torch.float32)


@pytest.fixture
def preview(client, settings, base_name, shelf):
    def preview(example, **image):
        storage = Storage.from_url(settings.resolved_storage_url)
        for sha256 in example.images:
            storage.put_file(f"default/images/{sha256}", shelf.folder / "images" / sha256)
        row = {
            "number": example.row,
            "messages": [message.model_dump(mode="json") for message in example.messages],
            "images": [{"key": f"default/images/{sha256}", "sha256": sha256} for sha256 in example.images],
        }
        response = client.post("/preview", json={"base": base_name, "row": row, "image": image})
        assert response.status_code == 200, response.text
        return response.json()

    return preview


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_tokens_and_loss_are_those_of_a_training_batch(preview, base, shelf, name, split):
    example = shelf(*CONVERSATIONS[name])
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=64, split=split))
    encoder = Encoder(base.processor, base.family, ImageFolder(shelf.folder))
    batch = collator_of(base, [example], encoder).batch(alone(0))
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()

    seen = preview(example, longest_edge=64, split=split)
    tokens = [(run["id"], run["learned"]) for run in seen["tokens"] for _ in range(run["count"])]

    assert tokens == [(token, label != IGNORED) for token, label in zip(ids, labels, strict=True)]
    assert any(run["learned"] for run in seen["tokens"])
    assert "".join(run["text"] * run["count"] for run in seen["tokens"]) == base.processor.tokenizer.decode(ids)
    assert (seen["num_tokens"], seen["num_learned_tokens"]) == (len(ids), len(labels) - labels.count(IGNORED))
    assert [cut["num_tiles"] > 1 for cut in seen["images"]] == [split] * len(example.images)
    assert all(len(cut["tiles"]) == cut["num_tiles"] for cut in seen["images"])
    assert sum(cut["num_tokens"] for cut in seen["images"]) == seen["num_image_tokens"]
    assert (seen["fits"], seen["refusal"], seen["is_shortened"]) == (True, None, False)
