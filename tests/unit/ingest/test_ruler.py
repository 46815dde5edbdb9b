"""Rules and figures for a named base, against the real processors of both families and training's own encoder."""

import json
import math

import pytest
from PIL import Image

from core.errors import FailureCode, WorkFailed
from ingest.issues import Rule
from ingest.pack import packed_images
from ingest.skipped import OnBadRow
from tests.models import make_smolvlm2, make_variant
from tests.qwen import make_qwen2_5_vl
from training.encoding import Encoder
from training.images import ImageFolder
from vlm import loading, tiny
from vlm.base_ruler import load_ruler
from vlm.chat import CHAT_TEMPLATE
from vlm.conversation import IMAGES_FOLDER, read_examples
from vlm.image_options import ImageOptions
from vlm.labels import IGNORED

CONTEXT = 1024
# As the reasoning models' templates do: of an answer, only what comes after the reasoning is kept.
DROPS_REASONING = CHAT_TEMPLATE.replace(
    "{{line['text']}}", "{{line['text'].split('</think>')[-1] if message['role'] == 'assistant' else line['text']}}"
).replace("<end_of_utterance>\n", "\n")
WANTS_NO_SYSTEM = (
    "{% if messages and messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
) + CHAT_TEMPLATE


@pytest.fixture(scope="module")
def ruler(models_dir):
    """Return a function that returns the ruler of a base."""

    def ruler(name="tiny", **image):
        return load_ruler(str(name), models_dir=models_dir, image=ImageOptions(**image))

    return ruler


@pytest.fixture
def variant(models_dir, tmp_path):
    """Return a function that makes a base with a peculiarity."""
    return lambda **changes: make_variant(tiny.ensure(models_dir), tmp_path / "variant", **changes)


@pytest.fixture(scope="module", params=["tiny", "smolvlm2", "qwen2_5_vl"])
def base_name(request, models_dir, tmp_path_factory):
    if request.param == "tiny":
        return "tiny"
    if request.param == "qwen2_5_vl":
        return str(make_qwen2_5_vl(tmp_path_factory.mktemp("qwen")))
    return str(make_smolvlm2(tiny.ensure(models_dir), tmp_path_factory.mktemp("smolvlm2")))


class Recorder:
    """A ruler that keeps what it measured."""

    def __init__(self, ruler):
        self._ruler = ruler
        self.facts = ruler.facts
        self.measures = []

    def measure(self, messages, sides_px):
        self.measures.append(self._ruler.measure(messages, sides_px))
        return self.measures[-1]


def qa(question="Which?", answer="7", image="images/0.png"):
    return {"image": image, "question": question, "answer": answer}


def talk(*turns, images=()):
    """Return a row of (role, text) turns; the first shows the images."""
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    messages[0]["content"] = [{"type": "image"}] * len(images) + messages[0]["content"]
    return {"images": list(images), "messages": messages}


def found(report, rule):
    return [(issue.row, issue.file, issue.pointer) for issue in report.issues if issue.rule is rule]


def planted(make):
    """Return a zip whose rows from the 21st on are too long, and where each of them is."""
    long, squares = "x" * CONTEXT, [f"square{i}.png" for i in range(5)]
    rows = {
        "#/question": qa(question=long),
        "#/answer": qa(answer=long),
        "#/messages/1/content/0/text": talk(("user", "a?"), ("assistant", long)),
        "#/images": talk(("user", "Which is red?"), ("assistant", "None."), images=squares),
        "#/messages/2/content": {
            "messages": [
                {"role": role, "content": text}
                for role, text in (("user", "a"), ("assistant", "b"), ("user", long * 30))
            ]
            + [{"role": "assistant", "content": "c"}]
        },
    }
    files = {name: make.image(number, size=(96, 96)) for number, name in enumerate(squares)}
    return make.good_zip(20, rows=list(rows.values()), files=files), [
        (21 + index, "train.jsonl", pointer) for index, pointer in enumerate(rows)
    ]


def test_rows_longer_than_the_context_are_errors_at_their_place(make, check, ruler):
    data, places = planted(make)
    report = check(data, ruler=ruler(longest_edge=192, split=True))
    assert found(report, Rule.EXAMPLE_TOO_LONG) == places
    assert report.counts.by_rule[Rule.EXAMPLE_TOO_LONG] == report.num_errors == len(places)
    assert (report.digest, report.refusal.row, report.rows.refused) == (None, 21, len(places))


def test_the_message_has_the_numbers_and_the_fix_what_can_be_changed(make, check, ruler):
    data, _ = planted(make)
    tiled = check(data, ruler=ruler(longest_edge=192, split=True))
    text, _, _, images, endless = (issue for issue in tiled.issues if issue.rule is Rule.EXAMPLE_TOO_LONG)
    assert text.message == 'the row has 1,239 tokens, 193 of them for its images; "tiny" takes at most 1,024.'
    assert images.message == 'the row has 1,189 tokens, 1,150 of them for its images; "tiny" takes at most 1,024.'
    assert "image.longest_edge" in images.fix
    assert "image.split to false" in images.fix
    assert endless.message.startswith("the row has 30,723 characters of text, surely too many tokens;")


def test_a_fix_names_no_option_that_would_change_nothing(make, check, ruler):
    rows = [qa(question="x" * 1000), qa(question="x" * CONTEXT), talk(("user", "y" * CONTEXT), ("assistant", "z"))]
    report = check(make.good_zip(20, rows=rows), ruler=ruler(split=False))
    by_images, by_text, bare = (issue for issue in report.issues if issue.rule is Rule.EXAMPLE_TOO_LONG)
    assert "image." not in by_images.fix + by_text.fix + bare.fix
    assert "fewer images" in by_images.fix
    assert "images" not in by_text.fix
    assert "images" not in bare.message + bare.fix


def test_whole_images_fit_where_their_tiles_do_not(make, check, ruler):
    data, places = planted(make)
    report = check(data, ruler=ruler(split=False))
    assert "#/images" not in [pointer for _, _, pointer in found(report, Rule.EXAMPLE_TOO_LONG)]
    assert len(found(report, Rule.EXAMPLE_TOO_LONG)) == len(places) - 1


def test_a_row_that_fills_the_context_to_the_last_token_is_good(make, check, ruler):
    recorder = Recorder(ruler())
    check(make.good_zip(20, rows=[qa(question="")]), ruler=recorder, out="first")
    room = CONTEXT - recorder.measures[-1].tokens
    rows = [qa(question="x" * room), qa(question="x" * (room + 1))]
    report = check(make.good_zip(20, rows=rows), ruler=ruler())
    assert found(report, Rule.EXAMPLE_TOO_LONG) == [(22, "train.jsonl", "#/question")]
    assert "1,025 tokens" in report.refusal.message


def test_an_answer_of_which_the_template_keeps_nothing_is_found_after_masking(make, check, ruler, variant):
    base = variant(chat_template=DROPS_REASONING)
    rows = [qa(answer="<think>It is red.</think>"), qa(answer="<think>It is red.</think>red"), qa(answer="red")]
    report = check(make.good_zip(20, rows=rows), ruler=ruler(base))
    assert found(report, Rule.NOTHING_TO_LEARN) == [(21, "train.jsonl", "#/answer")]
    assert report.num_errors == 1
    assert check(make.good_zip(20, rows=rows), ruler=ruler(), out="plain").num_errors == 0


def test_a_special_token_of_the_base_is_reserved_where_it_is_named_and_nowhere_else(make, check, ruler, variant):
    base = variant(special=["<|scratch|>"])
    rows = [talk(("user", "a?"), ("assistant", "see <|scratch|>")), qa(question="<image> and <|scratch|>")]
    report = check(make.good_zip(20, rows=rows), ruler=ruler(base))
    assert found(report, Rule.RESERVED_TOKEN) == [
        (21, "train.jsonl", "#/messages/1/content/0/text"),
        *[(22, "train.jsonl", "#/question")] * 2,
    ]
    assert report.num_errors == 3
    assert check(make.good_zip(20, rows=rows[:1]), ruler=ruler(), out="other").num_errors == 0


def test_a_reserved_token_in_two_pieces_is_found_as_training_finds_it(make, check):
    """A template writes the parts of a turn behind each other: the job refused what the report had called good."""
    pieces = [{"type": "text", "text": text} for text in ("see <ima", "ge> here")]
    row = {"messages": [{"role": "user", "content": pieces}, {"role": "assistant", "content": "b"}]}
    report = check(make.good_zip(20, rows=[row]))
    assert found(report, Rule.RESERVED_TOKEN) == [(21, "train.jsonl", "#/messages/0/content")]
    assert report.num_errors == 1


def test_a_row_that_the_template_does_not_take_is_told_with_its_words(make, check, ruler, variant):
    base = variant(chat_template=WANTS_NO_SYSTEM)
    rows = [talk(("system", "Be brief."), ("user", "a?"), ("assistant", "b")), qa()]
    report = check(make.good_zip(20, rows=rows), ruler=ruler(base))
    assert found(report, Rule.TEMPLATE_REFUSED) == [(21, "train.jsonl", "#")]
    assert "System role not supported" in report.refusal.message


def test_a_template_that_fits_no_conversation_is_the_fault_of_the_base(make, check, ruler, variant):
    base = variant(chat_template="{{ messages | length }}" + CHAT_TEMPLATE)
    with pytest.raises(WorkFailed) as failed:
        check(make.good_zip(20), ruler=ruler(base))
    assert failed.value.code is FailureCode.BASE_MODEL


def test_skipped_rows_are_listed_and_counted_in_no_figure(make, check, ruler):
    data, places = planted(make)
    measuring = {"ruler": ruler(longest_edge=192, split=True), "on_bad_row": OnBadRow.SKIP}
    report, good = check(data, **measuring), check(make.good_zip(20), out="good", **measuring)
    (skipped,) = report.skipped
    assert (skipped.rules, skipped.rows) == ([Rule.EXAMPLE_TOO_LONG], [row for row, _, _ in places])
    assert (report.digest, report.statistics.tokens) == (good.digest, good.statistics.tokens)


def test_a_row_with_another_error_is_not_measured(make, check, ruler):
    recorder = Recorder(ruler())
    report = check(make.good_zip(20, rows=[qa(image="gone.png"), qa(answer=" ")]), ruler=recorder)
    assert len(recorder.measures) == 20
    assert (report.num_errors, report.counts.by_rule.get(Rule.EXAMPLE_TOO_LONG)) == (2, None)


def test_without_a_base_no_row_is_too_long_and_there_are_no_figures(make, check):
    report = check(make.good_zip(20, rows=[qa(question="x" * 100_000)]))
    assert (report.num_errors, report.statistics.tokens) == (0, None)


def varied(make):
    """Return a zip of rows of every form, with images of every shape, one of them on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    sizes = [(10, 10), (100, 30), (30, 100), (64, 64), (65, 33), (300, 200), (48, 130)]
    files = {f"{place}.png": make.image(place, size=size) for place, size in enumerate(sizes)}
    files["side.jpg"] = make.image(99, size=(120, 40), kind="JPEG", exif=exif.tobytes())
    names = list(files)
    rows = [
        *(
            qa(question="why? " * place, answer="Weil's 🙂 so ist.\n" * place, image=n)
            for place, n in enumerate(names, 1)
        ),
        *({"image": name, "caption": f"Größe {name}"} for name in names),
        talk(("user", "no image"), ("assistant", " spaces  around ")),
        talk(("system", "Be brief."), ("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")),
        talk(("user", "all"), ("assistant", "of them"), images=names),
        {
            "images": ["0.png", "side.jpg"],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "first"}, {"type": "image"}]},
                {"role": "assistant", "content": "wrong", "weight": 0},
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": "second"}, {"type": "text", "text": "!"}],
                },
                {"role": "assistant", "content": "right"},
            ],
        },
    ]
    return make.zip(files | {"a.jsonl": make.lines(rows)}), len(rows)


@pytest.mark.parametrize(
    "image",
    [
        {},
        {"longest_edge": 96, "split": True},
        {"longest_edge": 192, "split": True, "upscale": False},
        {"longest_edge": 100, "split": False},
    ],
)
def test_every_row_measures_what_training_encodes_and_so_do_the_figures(
    make, check, ruler, models_dir, base_name, image, tmp_path
):
    if image.get("split") and "qwen" in base_name:
        image = {"longest_edge": 96}  # it cuts nothing
    data, num_rows = varied(make)
    recorder = Recorder(ruler(base_name, **image))
    report = check(data, ruler=recorder)
    assert report.num_errors == 0

    base = loading.load_processor(loading.resolve(base_name, models_dir=models_dir))
    base.family.set_image_options(base.processor, ImageOptions(**image))
    (tmp_path / "out" / IMAGES_FOLDER).mkdir()
    for sha256, stored in packed_images(tmp_path / "out"):
        (tmp_path / "out" / IMAGES_FOLDER / sha256).write_bytes(stored)
    encoder = Encoder(base.processor, base.family, ImageFolder(tmp_path / "out"))
    encoded = [encoder.encode(example) for example in read_examples(tmp_path / "out")]
    tokens = [len(each.input_ids) for each in encoded]
    learned = [len(each.labels) - each.labels.count(IGNORED) for each in encoded]

    assert len(encoded) == num_rows
    assert [(m.tokens, m.labelled_tokens) for m in recorder.measures] == list(zip(tokens, learned, strict=True))
    figures = report.statistics.tokens
    ordered = sorted(tokens)
    p50, p95 = (ordered[math.ceil(share * num_rows) - 1] for share in (0.5, 0.95))
    assert figures.tokens.model_dump() == {"min": ordered[0], "p50": p50, "p95": p95, "max": ordered[-1]}
    assert figures.image_tokens.max == max(measure.image_tokens for measure in recorder.measures)
    assert figures.learned_ratio == sum(learned) / sum(tokens)
    assert (figures.revision, figures.context_tokens) == (base.revision, CONTEXT)
    assert figures.base_model == base_name


def test_a_picture_that_the_base_does_not_take_is_an_error_of_its_row(make, check, ruler, tmp_path):
    base = make_qwen2_5_vl(tmp_path / "qwen")
    files = {"0.png": make.image(), "thin.png": make.image(1, size=(3201, 16))}
    rows = make.lines([qa(image="0.png"), qa(image="thin.png")])
    report = check(make.zip(files | {"a.jsonl": rows}), ruler=ruler(base))
    (issue,) = [issue for issue in report.issues if issue.rule is Rule.IMAGE_TOO_SMALL]
    assert (issue.row, issue.pointer) == (2, "#/image")
    assert "an image is 3201 x 16 pixels" in issue.message


def test_the_figures_are_written_with_the_report(make, check, ruler, tmp_path):
    check(make.good_zip(20), ruler=ruler())
    tokens = json.loads((tmp_path / "out/report.json").read_text())["statistics"]["tokens"]
    assert (tokens["base_model"], tokens["longest_edge"], tokens["split"]) == ("tiny", 32, False)
    assert tokens["upscale"] is True
    assert tokens["tokens"]["max"] > tokens["image_tokens"]["max"] == 7


def test_small_images_that_are_left_small_are_measured_so(make, check, ruler):
    image = {"longest_edge": 192, "split": True}
    small = check(make.good_zip(20), ruler=ruler(**image, upscale=False), out="small").statistics.tokens
    published = check(make.good_zip(20), ruler=ruler(**image), out="published").statistics.tokens
    assert (small.upscale, published.upscale) == (False, True)
    assert small.image_tokens.max < published.image_tokens.min


def test_image_options_that_the_base_cannot_have_are_its_failure_with_the_largest_edge(ruler):
    with pytest.raises(WorkFailed, match=r"image\.longest_edge is 193") as failed:
        ruler(longest_edge=193, split=True)
    assert failed.value.code is FailureCode.BASE_MODEL
