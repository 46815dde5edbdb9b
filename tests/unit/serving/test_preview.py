"""`POST /preview`: the tiles, the counts, and what is refused."""

import base64
import hashlib
import io
from contextlib import contextmanager

import pytest
from PIL import Image

from serving import preview as previews
from serving import previewer
from serving.turns import WORKING
from vlm import loading


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def stored(world):
    """Store a picture and return its reference."""

    def stored(image: Image.Image, *, sha256: str | None = None) -> dict[str, str]:
        data = png(image)
        digest = sha256 or hashlib.sha256(data).hexdigest()
        world.storage.put_bytes(f"default/images/{digest}", data)
        return {"key": f"default/images/{digest}", "sha256": digest}

    return stored


def body_of(*images, question="What?", answer="red", base="tiny", places=None, **image):
    places = len(images) if places is None else places
    content = [*({"type": "image"} for _ in range(places)), {"type": "text", "text": question}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return {"base": base, "row": {"number": 7, "messages": messages, "images": list(images)}, "image": image}


def preview(client, body, *, status=200):
    response = client.post("/preview", json=body)
    assert response.status_code == status, response.text
    return response.json()


def picture_in(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def quarters() -> Image.Image:
    """Return a picture of four colours: red and green above blue and white."""
    image = Image.new("RGB", (64, 64), "white")
    for colour, corner in (("red", (0, 0)), ("lime", (32, 0)), ("blue", (0, 32))):
        image.paste(colour, (*corner, corner[0] + 32, corner[1] + 32))
    return image


def is_near(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    middle = image.getpixel((image.width // 2, image.height // 2))
    return all(abs(one - other) < 30 for one, other in zip(middle, colour, strict=True))


def test_the_tiles_show_what_is_cut_row_by_row_and_the_whole_at_last(client, stored):
    (cut,) = preview(client, body_of(stored(quarters()), longest_edge=64, split=True))["images"]
    assert (cut["width_px"], cut["height_px"], cut["rows"], cut["columns"]) == (64, 64, 2, 2)
    places = [tile["place"] for tile in cut["tiles"]]
    assert places == [*({"row": r, "column": c} for r in (1, 2) for c in (1, 2)), None]
    shown = [picture_in(tile["url"]) for tile in cut["tiles"]]
    assert {tile.size for tile in shown} == {(32, 32)}
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for tile, colour in zip(shown[:4], colours, strict=True):
        assert is_near(tile, colour)


def test_small_images_that_are_left_small_are_shown_so(client, stored):
    body = body_of(stored(Image.new("RGB", (50, 30), "red")), longest_edge=128, split=True, upscale=False)
    seen = preview(client, body)
    (cut,) = seen["images"]
    assert (cut["rows"], cut["columns"], cut["num_tiles"], len(cut["tiles"])) == (1, 2, 3, 3)
    assert seen["image"]["upscale"] is False
    assert seen["num_image_tokens"] == cut["num_tokens"]


def test_the_tiles_of_several_images_are_not_mixed_up(client, stored):
    red, wide = stored(Image.new("RGB", (64, 64), "red")), stored(Image.new("RGB", (96, 32), "blue"))
    first, second = preview(client, body_of(red, wide, longest_edge=96, split=True))["images"]
    assert (first["rows"], first["columns"], len(first["tiles"])) == (3, 3, 10)
    assert (second["rows"], second["columns"], len(second["tiles"])) == (1, 3, 4)
    assert all(is_near(picture_in(tile["url"]), (255, 0, 0)) for tile in first["tiles"])
    assert all(is_near(picture_in(tile["url"]), (0, 0, 255)) for tile in second["tiles"])


def test_runs_of_image_features_are_one_item(client, stored):
    seen = preview(client, body_of(stored(quarters())))
    assert [run["count"] for run in seen["tokens"] if run["text"] == "<image>"] == [4]
    assert {run["count"] for run in seen["tokens"] if run["text"] != "<image>"} == {1}
    assert seen["text"].count("<image>") == 1
    assert seen["image"]["longest_edge"] == 32


def test_a_character_of_several_tokens_is_shown_once(client):
    runs = preview(client, body_of(answer="🙂 µ"))["tokens"]
    assert "".join(run["text"] for run in runs if run["learned"]) == " 🙂 µ<end_of_utterance>"
    assert sum(run["text"] == "" for run in runs) == 4


def test_options_of_one_preview_do_not_reach_the_next(client, stored):
    body = body_of(stored(quarters()))
    before = preview(client, body)["images"]
    assert preview(client, body_of(stored(quarters()), longest_edge=64, split=True))["images"] != before
    assert preview(client, body)["images"] == before


def test_a_row_longer_than_the_context_is_shown_with_what_training_would_say(client):
    seen = preview(client, body_of(question="x" * 1100))
    assert (seen["context_tokens"], seen["fits"]) == (1024, False)
    assert "Row 7 has 1,1" in seen["refusal"]
    assert seen["num_tokens"] == sum(run["count"] for run in seen["tokens"]) > 1024


def test_a_row_with_nothing_to_learn_is_shown_with_what_training_would_say(client):
    body = body_of()
    body["row"]["messages"][1]["weight"] = 0
    seen = preview(client, body)
    assert "nothing to learn" in seen["refusal"]
    assert (seen["fits"], seen["num_learned_tokens"]) == (True, 0)
    assert not any(run["learned"] for run in seen["tokens"])


def test_more_tiles_than_fit_anywhere_are_counted_and_not_cut(client, stored, monkeypatch):
    monkeypatch.setattr(previews, "MAX_TILES", 9)
    seen = preview(client, body_of(*[stored(quarters())] * 2, longest_edge=64, split=True))
    assert (seen["tokens"], seen["is_shortened"]) == ([], True)
    assert [(cut["num_tiles"], cut["tiles"]) for cut in seen["images"]] == [(5, [])] * 2
    assert seen["num_tokens"] > seen["num_image_tokens"] == sum(cut["num_tokens"] for cut in seen["images"]) > 0


def test_only_so_many_tiles_are_shown(client, stored, monkeypatch):
    monkeypatch.setattr(previews, "MAX_TILES_SHOWN", 7)
    seen = preview(client, body_of(*[stored(quarters())] * 3, longest_edge=64, split=True))
    assert [len(cut["tiles"]) for cut in seen["images"]] == [5, 2, 0]
    assert seen["is_shortened"]


def test_large_tiles_are_scaled_down_to_be_shown(client, stored, monkeypatch):
    monkeypatch.setattr(previews, "TILE_SIDE_PX", 16)
    (cut,) = preview(client, body_of(stored(quarters())))["images"]
    assert picture_in(cut["tiles"][0]["url"]).size == (16, 16)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [({"longest_edge": 193, "split": True}, "longest_edge"), ({"longest_edge": 8}, "longest_edge")],
)
def test_image_options_that_the_base_cannot_have_are_pointed_at(client, options, pointer):
    problem = preview(client, body_of(**options), status=422)
    assert [error["pointer"] for error in problem["errors"]] == [f"#/image/{pointer}"]


def test_text_that_would_be_taken_for_an_image_is_refused_by_its_row(client, stored):
    problem = preview(client, body_of(stored(quarters()), question="see <image>"), status=422)
    assert "Row 7" in problem["detail"]
    assert problem["code"] == "bad_data"


def test_an_unknown_base_is_not_found_and_named(client):
    assert "no-such-base" in preview(client, body_of(base="no-such-base"), status=404)["detail"]


def test_a_folder_that_is_no_model_is_not_found(client, tmp_path):
    assert preview(client, body_of(base=str(tmp_path)), status=404)["code"] == "base_model"


def test_an_image_that_storage_lacks_is_unavailable(client):
    ref = {"key": "default/images/none", "sha256": "0" * 64}
    assert "default/images/none" in preview(client, body_of(ref), status=503)["detail"]


def test_an_image_that_is_not_what_its_name_says_is_a_conflict(client, stored):
    ref = stored(quarters(), sha256="1" * 64)
    assert preview(client, body_of(ref), status=409)["code"] == "image_damaged"


def test_a_preview_does_not_wait_for_a_generation(client):
    """The engine holds `WORKING` for as long as an answer takes, which may be minutes."""
    preview(client, body_of())
    with WORKING:
        assert preview(client, body_of())["num_tokens"]


def test_a_base_of_ours_is_built_only_while_nothing_is_generated(fresh_world, client_of, monkeypatch):
    """Building seeds torch's random numbers and sets its default type, which all threads share."""
    models_dir, states = fresh_world.settings.layout.models, []
    models_dir.unlink()

    @contextmanager
    def working():
        states.append(loading.is_built("tiny", models_dir=models_dir))
        yield
        states.append(loading.is_built("tiny", models_dir=models_dir))

    monkeypatch.setattr(previewer, "WORKING", working())
    preview(client_of(fresh_world.settings), body_of())
    assert states == [False, True]


def test_more_previews_than_may_wait_are_told_to_come_again(client, monkeypatch):
    monkeypatch.setattr(previewer, "MAX_WAITING", 0)
    assert "previews" in preview(client, body_of(), status=429)["detail"]
