"""`POST /tokens`: lengths by training's own measure, over a table and images in storage."""

import hashlib
import io

import pytest
from PIL import Image

from training.encoding import Encoder
from training.images import ImageFolder
from vlm import loading
from vlm.conversation import IMAGES_FOLDER, RECORDS_FILE, Example, ImagePart, Message, TextPart, write_examples
from vlm.image_options import ImageOptions

TABLE = "default/datasets/ds_1/records-1.parquet"


@pytest.fixture
def store(world, tmp_path):
    """Store examples of (question, answer, size of an image or None, weight), and return them; the folder has all files."""
    (tmp_path / IMAGES_FOLDER).mkdir()

    def image(size):
        out = io.BytesIO()
        Image.new("RGB", size, "red").save(out, "PNG")
        name = hashlib.sha256(out.getvalue()).hexdigest()
        (tmp_path / IMAGES_FOLDER / name).write_bytes(out.getvalue())
        world.storage.put_bytes(f"default/images/{name}", out.getvalue())
        return name

    def store(*rows):
        examples = []
        for number, (question, answer, size, weight) in enumerate(rows, start=1):
            shown = () if size is None else (ImagePart(),)
            messages = (
                Message(role="user", content=(*shown, TextPart(text=question))),
                Message(role="assistant", content=(TextPart(text=answer),), weight=weight),
            )
            names = () if size is None else (image(size),)
            examples.append(Example(row=number, file="a.jsonl", split="train", messages=messages, images=names))
        write_examples(tmp_path, iter(examples), batch_size=4)
        world.storage.put_file(TABLE, tmp_path / RECORDS_FILE)
        return examples

    return store


def count(client, *, status=200, base="tiny", image=None, **options):
    body = {"base": base, "table": TABLE, "images": "default/images", "image": image or {}} | options
    response = client.post("/tokens", json=body)
    assert response.status_code == status, response.text
    return response.json()


def test_the_counts_are_those_of_trainings_own_measure(client, store, models_dir, tmp_path):
    sizes = [None, (64, 64), (96, 32), (30, 100), None, (10, 10), (64, 64)]
    examples = store(*(("why? " * place, "because " * place, size, 1) for place, size in enumerate(sizes, start=1)))
    base = loading.load_processor(loading.resolve("tiny", models_dir=models_dir))
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=96, split=True))
    encoder = Encoder(base.processor, base.family, ImageFolder(tmp_path))
    measures = [encoder.measure(example) for example in examples]

    counted = count(client, image={"longest_edge": 96, "split": True})

    lengths = sorted(measure.tokens for measure in measures)
    assert counted["tokens"] == {"p50": lengths[3], "p95": lengths[6], "max": lengths[6]}
    assert counted["image_tokens"]["max"] == max(measure.image_tokens for measure in measures)
    assert counted["learned_ratio"] == sum(measure.labelled_tokens for measure in measures) / sum(lengths)
    assert (counted["num_sampled"], counted["num_too_long"], counted["num_nothing_learned"]) == (7, 0, 0)


def places(*rows):
    return [{"file": "a.jsonl", "row": row} for row in rows]


def test_rows_that_a_job_would_refuse_are_named(client, store):
    good = ("what?", "red", None, 1)
    store(good, ("x" * 1100, "red", None, 1), ("what?", "red", None, 0), ("see <image>", "red", None, 1), good)
    counted = count(client)
    assert (counted["num_too_long"], counted["too_long_rows"]) == (1, places(2))
    assert (counted["num_nothing_learned"], counted["nothing_learned_rows"]) == (1, places(3))
    assert (counted["num_unreadable"], counted["unreadable_rows"]) == (1, places(4))
    assert (counted["num_sampled"], counted["context_tokens"]) == (5, 1024)


def test_few_rows_are_named_and_all_are_counted(client, store):
    store(*[("x" * 1100, "red", None, 1)] * 25)
    counted = count(client)
    assert (counted["num_too_long"], counted["too_long_rows"]) == (25, places(*range(1, 21)))


def test_only_a_sample_is_measured(client, store):
    store(*[("x" * number, "red", None, 1) for number in range(1, 101)])
    counted = count(client, at_most=10)
    assert counted["num_sampled"] == 10
    assert counted["tokens"]["max"] - counted["tokens"]["p50"] == 50


def test_small_images_that_are_left_small_are_counted_so(client, store):
    store(("why?", "so", (50, 30), 1))
    image = {"longest_edge": 128, "split": True}
    published, small = (count(client, image=image | {"upscale": each})["image_tokens"]["max"] for each in (None, False))
    assert (published, small) == (13 * 4 + 12 * 2 + 3 + 3 + 1, 3 * 4 + 2 * 2 + 1 + 3 + 1)


def test_image_options_that_the_base_cannot_have_are_pointed_at(client, store):
    store(("what?", "red", None, 1))
    problem = count(client, status=422, image={"longest_edge": 193, "split": True})
    assert [error["pointer"] for error in problem["errors"]] == ["#/image/longest_edge"]


def test_an_unknown_base_is_not_found_and_named(client):
    assert "no-such-base" in count(client, status=404, base="no-such-base")["detail"]


def test_a_table_that_storage_lacks_is_unavailable(client):
    assert "none.parquet" in count(client, status=503, table="default/none.parquet")["detail"]


@pytest.mark.parametrize("table", ["../a.parquet", "/etc/passwd", "a//b.parquet", "a/.parquet", "a/b"])
def test_a_table_that_could_lie_outside_of_storage_is_refused(client, table):
    assert count(client, status=422, table=table)["errors"][0]["pointer"] == "#/table"
