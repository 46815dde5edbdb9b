import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.images import decode_images


def generate(client, body, *, status=200):
    response = client.post("/generate", json=body)
    assert response.status_code == status, response.text
    return response.json()


def stream(client, body):
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def test_the_base_answers_as_plain_transformers_does(client, ask, oracle):
    body = ask()
    answer = generate(client, body)
    assert answer["text"] == oracle(body) != ""
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["image_tokens"] == 0
    assert answer["base_revision"]
    assert answer["adapter_sha256"] is None


@pytest.mark.parametrize("num_images", [1, 3])
def test_images_reach_the_model_in_order(client, ask, url, oracle, num_images):
    urls = tuple(url(colour=(60 * index, 200, 30)) for index in range(num_images))
    body = ask(images=urls)
    answer = generate(client, body)
    assert answer["text"] == oracle(body, decode_images(urls))
    assert answer["usage"]["image_tokens"] == 4 * num_images
    assert answer["usage"]["prompt_tokens"] > 4 * num_images


def test_an_adapter_answers_as_peft_alone_does(client, ask, url, oracle, adapters):
    urls = (url(),)
    texts = []
    for adapter in adapters:
        body = ask(images=urls, adapter=adapter)
        answer = generate(client, body)
        assert answer["text"] == oracle(body, decode_images(urls))
        assert answer["adapter_sha256"] == adapter["sha256"]
        texts.append(answer["text"])
    assert len({*texts, generate(client, ask(images=urls))["text"]}) == len(adapters) + 1


@pytest.mark.parametrize(
    "method",
    [
        {"use_dora": True, "use_rslora": True},
        {"init": "pissa", "use_dora": True},
        {"train_connector": True, "exclude_modules": ("layers.1.mlp",)},
        {"train_vision": True, "train_connector": True, "use_dora": True},
    ],
)
def test_every_kind_of_adapter_that_is_published_answers_as_peft_alone_does(client, world, ask, url, oracle, method):
    adapter = world.publish(world.make_adapter("kind-" + "-".join(method), seed=5, **method))
    urls = (url(), url(colour=(9, 9, 200)))
    body = ask(images=urls, adapter=adapter)
    assert generate(client, body)["text"] == oracle(body, decode_images(urls))
    assert generate(client, body)["text"] != generate(client, ask(images=urls))["text"]


def test_going_back_to_an_adapter_that_is_attached_goes_back_to_its_weights(client, ask, oracle, adapters):
    """PEFT's active adapter is global: without a switch before every batch, the last one attached would answer."""
    bodies = [ask("and again?", adapter=adapter) for adapter in (*adapters, *reversed(adapters))]
    assert [generate(client, body)["text"] for body in bodies] == [oracle(body) for body in bodies]


def test_the_base_is_the_same_after_adapters_were_used(client, ask, adapters):
    before = generate(client, ask())["text"]
    for adapter in adapters:
        generate(client, ask(adapter=adapter))
    assert generate(client, ask())["text"] == before


def test_concurrent_mixed_requests_answer_as_each_does_alone(client, ask, url, adapters):
    bodies = [
        ask(
            f"question {index} " + "x" * (7 * index % 31),
            images=tuple(url(colour=(9 * index, 50, 70)) for _ in range(index % 3)),
            adapter=(None, *adapters)[index % 4],
            max_tokens=4 + index % 9,
        )
        for index in range(24)
    ]
    alone = [generate(client, body) for body in bodies]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda body: generate(client, body), bodies))
    for one, other in zip(alone, together, strict=True):
        for field in ("text", "usage", "finish_reason", "adapter_sha256"):
            assert one[field] == other[field]


def test_the_end_token_ends_an_answer(client, ask):
    answers = [generate(client, ask(max_tokens=200, temperature=2.0, seed=seed)) for seed in range(8)]
    ended = [answer for answer in answers if answer["finish_reason"] == "stop"]
    assert ended, "none of these answers ended; choose other seeds"
    for answer in ended:
        assert answer["usage"]["completion_tokens"] < 200
        assert "<end_of_utterance>" not in answer["text"]


def test_tiny_answers_by_its_name(client, ask):
    assert generate(client, ask(base="tiny"))["text"]


def test_a_stop_string_ends_the_text_before_it(client, ask):
    whole = generate(client, ask(max_tokens=12))["text"]
    stop = whole[4:6]
    answer = generate(client, ask(max_tokens=12, stop=[stop]))
    assert answer["text"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 12


def test_a_seed_makes_a_sampled_answer_reproducible(client, ask):
    first = generate(client, ask(temperature=1.5, seed=7))["text"]
    generate(client, ask(temperature=1.5))
    assert generate(client, ask(temperature=1.5, seed=7))["text"] == first
    assert generate(client, ask(temperature=1.5, seed=8))["text"] != first


def test_seeded_requests_keep_their_answer_in_a_crowd(client, ask):
    bodies = [ask(temperature=1.0, seed=seed) for seed in range(6)]
    alone = [generate(client, body)["text"] for body in bodies]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda body: generate(client, body)["text"], bodies)) == alone


@pytest.mark.parametrize("options", [{}, {"stop": ["zzzz", "never"]}, {"temperature": 2.0, "seed": 3}])
def test_streamed_pieces_join_to_the_whole_text(client, ask, adapters, options):
    body = ask(adapter=adapters[0], max_tokens=40, **options)
    whole = generate(client, body)
    *pieces, last = stream(client, body | {"stream": True})
    assert len(pieces) > 1
    assert "".join(piece["delta"] for piece in pieces) == last["text"] == whole["text"]
    for field in ("usage", "finish_reason", "base_revision", "adapter_sha256"):
        assert last[field] == whole[field]


def test_a_refusal_of_a_stream_is_a_status_and_not_a_line(client, ask):
    body = ask(base="no-such-base", stream=True)
    assert client.post("/generate", json=body).status_code == 404


def test_an_unknown_base_is_not_found_and_named(client, ask):
    problem = generate(client, ask(base="no-such-base"), status=404)
    assert "no-such-base" in problem["detail"]


def test_a_base_folder_that_is_no_model_is_not_found(client, ask, tmp_path):
    generate(client, ask())
    before = client.get("/healthz").json()["bases"]
    problem = generate(client, ask(base=str(tmp_path)), status=404)
    assert problem["code"] == "base_model"
    assert client.get("/healthz").json()["bases"] == before != [], (
        "a folder that is none pushed out a base that answers"
    )


def test_an_adapter_that_storage_lacks_is_not_found(client, ask):
    problem = generate(client, ask(adapter={"key": "default/adapters/none", "sha256": "0" * 64}), status=404)
    assert "adapter" in problem["detail"]


@pytest.mark.parametrize("key", ["../adapters/x", "/etc", "a//b", "a/./b", ""])
def test_a_key_that_could_leave_storage_is_refused(client, ask, key):
    problem = generate(client, ask(adapter={"key": key, "sha256": "0" * 64}), status=422)
    assert problem["errors"][0]["pointer"] == "#/adapter/key"


def test_a_prompt_longer_than_the_context_says_how_long_it_is(client, ask, url):
    problem = generate(client, ask("x" * 1100, images=(url(),)), status=422)
    assert problem["errors"][0]["pointer"] == "#/messages"
    assert "1024" in problem["detail"]


def test_a_prompt_at_the_limit_of_the_context_is_answered(client, ask):
    used = generate(client, ask("", max_tokens=1))["usage"]["prompt_tokens"]
    prompt = "x" * (1024 - 5 - used)
    assert generate(client, ask(prompt, max_tokens=5))["usage"]["prompt_tokens"] == 1019
    generate(client, ask(prompt + "x", max_tokens=5), status=422)


def test_one_bad_prompt_does_not_spoil_its_neighbours(client, ask):
    bodies = [ask("x" * 1100 if index == 2 else "fine") for index in range(5)]
    with ThreadPoolExecutor(5) as pool:
        statuses = list(pool.map(lambda body: client.post("/generate", json=body).status_code, bodies))
    assert statuses == [200, 200, 422, 200, 200]


def test_as_many_images_as_places_are_needed(client, ask, url):
    body = ask(images=(url(),))
    problem = generate(client, body | {"images": []}, status=422)
    assert "1 image parts" in problem["detail"]


def test_text_that_stands_for_an_image_is_refused(client, ask):
    problem = generate(client, ask("look: <image>"), status=422)
    assert problem["errors"][0]["pointer"] == "#/messages/0/content"


def test_a_message_without_content_is_refused(client, ask):
    body = ask() | {"messages": [{"role": "user", "content": []}]}
    assert generate(client, body, status=422)["errors"][0]["pointer"] == "#/messages"


def test_a_field_that_does_not_exist_is_refused(client, ask):
    assert generate(client, ask(beams=4), status=422)["errors"][0]["pointer"] == "#/sampling/beams"


def test_an_image_that_cannot_be_taken_is_pointed_at(client, ask, url):
    body = ask(images=(url(), "data:image/png;base64,AAAA"))
    assert generate(client, body, status=422)["errors"][0]["pointer"] == "#/images/1"


def test_earlier_turns_and_a_system_message_are_part_of_the_prompt(client, ask, oracle):
    turns = [("system", "be brief"), ("user", "one?"), ("assistant", "1"), ("user", "two?")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    body = ask() | {"messages": messages}
    assert generate(client, body)["text"] == oracle(body)
