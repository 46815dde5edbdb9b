"""Faults to plant behind good rows, each with the rule that finds it and where."""

from ingest.issues import Rule

IMAGE = {"image": "images/0.png"}
QA = {**IMAGE, "question": "Which?", "answer": "7"}
USER = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}
ANSWER = {"role": "assistant", "content": "7"}
PNG_URL = "data:image/png;base64,"


def chat(*messages, images=("images/0.png",), **more):
    return {"images": list(images), "messages": list(messages), **more}


def with_url(url):
    image = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [image, {"type": "text", "text": "Which?"}]}, ANSWER]}


PLANTED = {
    "a line that is no JSON": (b'{"image": "a.png", "question": }', Rule.JSON_SYNTAX, "#"),
    "a line cut off": (b'{"image": "a.png"', Rule.JSON_SYNTAX, "#"),
    "not a number": (b'{"image": "a.png", "caption": NaN}', Rule.JSON_SYNTAX, "#"),
    "single quotes": (b"{'image': 'a.png'}", Rule.JSON_SYNTAX, "#"),
    "two objects on a line": (b'{"a": 1}{"b": 2}', Rule.JSON_SYNTAX, "#"),
    "nesting without end": (b'{"a":' * 5000, Rule.JSON_SYNTAX, "#"),
    "a lone surrogate": (b'{"image": "\\ud800"}', Rule.JSON_SYNTAX, "#"),
    "bytes of Latin-1": (b'{"caption": "caf\xe9"}', Rule.NOT_UTF8, "#"),
    "an array": (b"[1, 2]", Rule.NOT_AN_OBJECT, "#"),
    "a string": (b'"x"', Rule.NOT_AN_OBJECT, "#"),
    "unknown keys": ({"img": "a.png", "label": "7"}, Rule.UNKNOWN_FORM, "#"),
    "no keys": ({}, Rule.UNKNOWN_FORM, "#"),
    "no answer": ({**IMAGE, "question": "Which?"}, Rule.MISSING_FIELD, "#/answer"),
    "no question": ({**IMAGE, "answer": "7"}, Rule.MISSING_FIELD, "#/question"),
    "no image": ({"question": "Which?", "answer": "7"}, Rule.MISSING_FIELD, "#/image"),
    "no image for a caption": ({"caption": "A cat."}, Rule.MISSING_FIELD, "#/image"),
    "a number for an answer": ({**QA, "answer": 7}, Rule.WRONG_TYPE, "#/answer"),
    "null for a caption": ({**IMAGE, "caption": None}, Rule.WRONG_TYPE, "#/caption"),
    "an image that is no image field": ({**QA, "image": 12}, Rule.WRONG_TYPE, "#/image"),
    "an image in a list that is none": ({**QA, "image": ["images/0.png", {"a": 1}]}, Rule.WRONG_TYPE, "#/image/1"),
    "an empty list of images": ({**QA, "image": []}, Rule.MISSING_FIELD, "#/image"),
    "image and images": ({**QA, "images": ["images/0.png"]}, Rule.WRONG_TYPE, "#/image"),
    "messages that are no list": (chat() | {"messages": "hi"}, Rule.WRONG_TYPE, "#/messages"),
    "empty messages": (chat(images=()), Rule.EMPTY_MESSAGES, "#/messages"),
    "a turn that is no object": (chat(USER, "7", ANSWER), Rule.WRONG_TYPE, "#/messages/1"),
    "an unknown role": (chat(USER, {**ANSWER, "role": "gpt"}), Rule.BAD_ROLE, "#/messages/1/role"),
    "a missing role": (chat(USER, {"content": "7"}), Rule.BAD_ROLE, "#/messages/1/role"),
    "a missing content": (chat(USER, {"role": "assistant"}), Rule.MISSING_FIELD, "#/messages/1/content"),
    "a content that is a number": (chat(USER, {**ANSWER, "content": 7}), Rule.WRONG_TYPE, "#/messages/1/content"),
    "an unknown part": (
        chat(USER, {"role": "assistant", "content": [{"type": "audio"}]}),
        Rule.UNKNOWN_PART,
        "#/messages/1/content/0",
    ),
    "a text part without text": (
        chat(USER, {"role": "assistant", "content": [{"type": "text"}]}),
        Rule.WRONG_TYPE,
        "#/messages/1/content/0/text",
    ),
    "an image_url without url": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER]},
        Rule.WRONG_TYPE,
        "#/messages/0/content/0/image_url",
    ),
    "no assistant turn": (chat(USER), Rule.NO_ANSWER, "#/messages"),
    "an empty answer": ({**QA, "answer": "  "}, Rule.EMPTY_ANSWER, "#/answer"),
    "an empty assistant turn": (chat(USER, {**ANSWER, "content": ""}), Rule.EMPTY_ANSWER, "#/messages/1/content"),
    "an empty user turn": (
        chat({"role": "user", "content": ""}, ANSWER, images=()),
        Rule.EMPTY_TURN,
        "#/messages/0/content",
    ),
    "a system turn that is not first": (
        chat(USER, {"role": "system", "content": "Be brief."}, ANSWER),
        Rule.ROLE_ORDER,
        "#/messages/1",
    ),
    "an answer before the question": (chat(ANSWER, USER, ANSWER), Rule.ROLE_ORDER, "#/messages/0"),
    "a weight of two": (chat(USER, {**ANSWER, "weight": 2}), Rule.BAD_WEIGHT, "#/messages/1/weight"),
    "a weight that is true": (chat(USER, {**ANSWER, "weight": True}), Rule.BAD_WEIGHT, "#/messages/1/weight"),
    "a weight on a user turn": (chat({**USER, "weight": 1}, ANSWER), Rule.BAD_WEIGHT, "#/messages/0/weight"),
    "only weights of zero": (chat(USER, {**ANSWER, "weight": 0}), Rule.NOTHING_TO_LEARN, "#/messages"),
    "a split that is none": ({**QA, "split": "val"}, Rule.BAD_SPLIT, "#/split"),
    "a split that is null": ({**QA, "split": None}, Rule.BAD_SPLIT, "#/split"),
    "an image in an assistant turn": (
        chat(
            {"role": "user", "content": "Draw."},
            {"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "7"}]},
        ),
        Rule.IMAGE_OUTSIDE_USER,
        "#/messages/1/content/0",
    ),
    "an image in a system turn": (
        chat({"role": "system", "content": [{"type": "image"}]}, {"role": "user", "content": "Which?"}, ANSWER),
        Rule.IMAGE_OUTSIDE_USER,
        "#/messages/0/content/0",
    ),
    "more places than images": (chat(USER, ANSWER, images=()), Rule.PLACEHOLDER_COUNT, "#/images"),
    "more images than places": (chat(USER, ANSWER, images=["images/0.png"] * 2), Rule.PLACEHOLDER_COUNT, "#/images"),
    "too many images": ({**QA, "image": [f"images/{i}.png" for i in range(11)]}, Rule.TOO_MANY_IMAGES, "#/image"),
    "<image> in a text": ({**QA, "question": "<image>Which?"}, Rule.RESERVED_TOKEN, "#/question"),
    "<fake_token_around_image>": ({**QA, "answer": "7<fake_token_around_image>"}, Rule.RESERVED_TOKEN, "#/answer"),
    "<end_of_utterance>": (
        chat(USER, {**ANSWER, "content": "7<end_of_utterance>"}),
        Rule.RESERVED_TOKEN,
        "#/messages/1/content",
    ),
    "<row_1_col_1>": (
        chat({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "<row_1_col_1>"}]}, ANSWER),
        Rule.RESERVED_TOKEN,
        "#/messages/0/content/1/text",
    ),
    "the assistant twice in a row": (chat(USER, ANSWER, ANSWER), Rule.ROLE_ORDER, "#/messages/2"),
    "<image> in two parts": (
        chat(
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": "<ima"}, {"type": "text", "text": "ge>"}],
            },
            ANSWER,
        ),
        Rule.RESERVED_TOKEN,
        "#/messages/0/content",
    ),
    "a NUL in a text": ({**QA, "answer": "7\x00"}, Rule.NUL_CHARACTER, "#/answer"),
    "a missing image": ({**QA, "image": "images/00.png"}, Rule.MISSING_IMAGE, "#/image"),
    "a path that leaves the zip": ({**QA, "image": "../../etc/passwd"}, Rule.MISSING_IMAGE, "#/image"),
    "an absolute path": ({**QA, "image": "/etc/passwd"}, Rule.MISSING_IMAGE, "#/image"),
    "rows for an image": ({**QA, "image": "train.jsonl"}, Rule.MISSING_IMAGE, "#/image"),
    "an image on the network": ({**QA, "image": "https://example.com/a.png"}, Rule.REMOTE_IMAGE, "#/image"),
    "an image_url on the network": (
        with_url("http://127.0.0.1/a.png"),
        Rule.REMOTE_IMAGE,
        "#/messages/0/content/0/image_url/url",
    ),
    "a file: URL": ({**QA, "image": "file:///etc/passwd"}, Rule.REMOTE_IMAGE, "#/image"),
    "a data: URL without base64": (
        with_url("data:image/png,abc"),
        Rule.BAD_DATA_URL,
        "#/messages/0/content/0/image_url/url",
    ),
    "damaged base64": (with_url(PNG_URL + "abc$"), Rule.BAD_BASE64, "#/messages/0/content/0/image_url/url"),
    "base64 that is no ASCII": (with_url(PNG_URL + "äöü="), Rule.BAD_BASE64, "#/messages/0/content/0/image_url/url"),
    "base64 of text": (with_url(PNG_URL + "aGVsbG8="), Rule.UNSUPPORTED_IMAGE, "#/messages/0/content/0/image_url/url"),
    "no base64 at all": (with_url(PNG_URL), Rule.CORRUPT_IMAGE, "#/messages/0/content/0/image_url/url"),
    "an empty image": ({**QA, "image": "bad/empty.png"}, Rule.CORRUPT_IMAGE, "#/image"),
    "a truncated image": ({**QA, "image": "bad/cut.png"}, Rule.CORRUPT_IMAGE, "#/image"),
    "a truncated JPEG": ({**QA, "image": "bad/cut.jpg"}, Rule.CORRUPT_IMAGE, "#/image"),
    "a GIF": ({**QA, "image": "bad/a.gif"}, Rule.UNSUPPORTED_IMAGE, "#/image"),
    "text named PNG": (chat(USER, ANSWER, images=["bad/text.png"]), Rule.UNSUPPORTED_IMAGE, "#/images/0"),
    "a decompression bomb": ({**QA, "image": "bad/bomb.png"}, Rule.IMAGE_TOO_LARGE, "#/image"),
    "a bomb beyond Pillow's own bound": ({**QA, "image": "bad/huge.png"}, Rule.IMAGE_TOO_LARGE, "#/image"),
    "a side that is too long": ({**QA, "image": "bad/long.png"}, Rule.IMAGE_TOO_LARGE, "#/image"),
    "a file that is too large": ({**QA, "image": "bad/fat.png"}, Rule.IMAGE_TOO_LARGE, "#/image"),
    "a side that is too short": ({**QA, "image": "bad/small.png"}, Rule.IMAGE_TOO_SMALL, "#/image"),
}
