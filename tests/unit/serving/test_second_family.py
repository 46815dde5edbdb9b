"""A family whose images are no tiles, through the whole of serving: answers, adapters, the preview."""

import copy
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from serving.app import create_app
from tests.qwen import make_qwen2_5_vl
from tests.unit.serving.conftest import data_url

PICTURES = [
    Image.new("RGB", (40, 30), "red"),
    Image.new("RGB", (60, 130), "blue"),
    Image.new("RGB", (130, 60), "lime"),
]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return make_qwen2_5_vl(tmp_path_factory.mktemp("qwen"), liveliness=8)


@pytest.fixture(scope="module")
def client(world):
    with TestClient(create_app(world.settings)) as client:
        yield client


@pytest.fixture(scope="module")
def adapter(world, qwen):
    own = copy.copy(world)
    own.base = str(qwen)
    return own.publish(own.make_adapter("qwen", seed=1))


@pytest.fixture
def ask_qwen(ask, qwen):
    """Return a function that makes the body of a question about some of the pictures."""
    return lambda prompt, *pictures, **options: ask(
        prompt, images=tuple(map(data_url, pictures)), base=str(qwen), **options
    )


def store(world, picture):
    out = io.BytesIO()
    picture.save(out, "PNG")
    name = hashlib.sha256(out.getvalue()).hexdigest()
    world.storage.put_bytes(f"default/images/{name}", out.getvalue())
    return name


def generate(client, body):
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_it_answers_as_plain_transformers_does(client, ask_qwen, oracle, num_images):
    shown = PICTURES[:num_images]
    body = ask_qwen("What is this?", *shown)
    answer = generate(client, body)
    assert answer["text"] == oracle(body, tuple(shown))
    assert answer["usage"]["image_tokens"] == [0, 4, 4 + 32, 4 + 32 + 32][num_images]


def test_other_pictures_give_other_answers(client, ask_qwen):
    answers = {generate(client, ask_qwen("What is this?", picture))["text"] for picture in PICTURES}
    assert len(answers) == len(PICTURES)


def test_an_adapter_answers_as_peft_alone_does(client, ask_qwen, oracle, adapter):
    body = ask_qwen("What is this?", PICTURES[1], adapter=adapter)
    answer = generate(client, body)
    assert answer["text"] == oracle(body, (PICTURES[1],))
    assert answer["text"] != generate(client, body | {"adapter": None})["text"]


def test_concurrent_requests_with_pictures_of_any_size_answer_as_each_does_alone(client, ask_qwen):
    bodies = [ask_qwen("?" * count, *PICTURES[:count]) for count in (0, 1, 2, 3, 1, 0)]
    alone = [generate(client, body)["text"] for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        assert list(pool.map(lambda body: generate(client, body)["text"], bodies)) == alone


def test_the_preview_shows_the_whole_picture_and_the_settings_in_force(client, qwen, world):
    name = store(world, Image.new("RGB", (130, 60), "red"))
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ]
    row = {"number": 1, "messages": messages, "images": [{"key": f"default/images/{name}", "sha256": name}]}
    response = client.post("/preview", json={"base": str(qwen), "row": row, "image": {"longest_edge": 64}})
    assert response.status_code == 200, response.text
    seen = response.json()
    (cut,) = seen["images"]
    assert (cut["rows"], cut["columns"], cut["num_tiles"], len(cut["tiles"])) == (0, 0, 1, 1)
    assert cut["num_tokens"] == seen["num_image_tokens"] == 2 * 5
    assert [run["count"] for run in seen["tokens"] if run["text"] == "<|image_pad|>"] == [10]
    assert "".join(run["text"] for run in seen["tokens"] if run["learned"]) == "red<|im_end|>"
    cut = {"longest_edge": 64, "split": False, "upscale": False}
    assert seen["image"] == cut | {"tile_px": None, "image_tokens_per_tile": None}


@pytest.mark.parametrize(
    ("image", "option"),
    [
        ({"split": True}, "split"),
        ({"upscale": True}, "upscale"),
        ({"longest_edge": 64, "split": True}, "split"),
        ({"longest_edge": 64, "split": False, "upscale": True}, "upscale"),
    ],
)
def test_an_option_that_means_nothing_to_the_base_is_pointed_at(client, qwen, image, option):
    messages = [{"role": "user", "content": [{"type": "text", "text": "What?"}]}]
    row = {"number": 1, "messages": messages, "images": []}
    response = client.post("/preview", json={"base": str(qwen), "row": row, "image": image})
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["pointer"] == f"#/image/{option}"
    assert f"Leave image.{option} out" in error["detail"]
