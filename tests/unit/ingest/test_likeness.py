"""What is nearly the same is said, and what only looks a little alike is not."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from examples.digits.sample import NUM_UPLOADED, digits, write_zip
from ingest.issues import Rule, Severity
from ingest.likeness import AlikeImages, AlikeTexts, Chains
from vlm.conversation import read_examples


def scene(number, size=(320, 240)):
    """Return a picture of soft blots, such as no other number has."""
    levels = np.random.default_rng(number).integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


AGAIN = {
    "as a JPEG": lambda image: saved(image, "JPEG", quality=60),
    "as a WEBP": lambda image: saved(image, "WEBP", quality=80),
    "half as large": lambda image: saved(image.resize((160, 120), Image.Resampling.LANCZOS)),
    "darker": lambda image: saved(ImageEnhance.Brightness(image).enhance(0.8)),
    "in grey": lambda image: saved(image.convert("L")),
}


def rows(names, **more):
    said = "A picture of soft blots in several colours, such as no other number has."  # too long to be a label
    return [{"image": name, "question": "What?", "answer": said, **more} for name in names]


def found(report):
    return [(issue.rule, issue.row, issue.pointer) for issue in report.issues]


@pytest.mark.parametrize("how", AGAIN)
def test_a_picture_that_was_saved_anew_is_known_again(how, make, check):
    files = {f"{i}.png": saved(scene(i)) for i in range(20)} | {"again": AGAIN[how](scene(3))}
    report = check(make.zip(files | {"a.jsonl": make.lines(rows(files))}))
    assert found(report) == [(Rule.NEAR_DUPLICATE_IMAGE, 21, "#/image")]
    assert "row 4" in report.issues[0].message
    assert report.issues[0].severity is Severity.WARNING


@pytest.mark.parametrize("size", [(256, 256), (300, 300), (620, 877), (2000, 1500), (97, 61)])
def test_a_picture_is_known_again_whatever_its_size(size, make, check):
    """Box filtering took whole pixels only: half as large, many a picture looked like another one."""
    files = {f"{i}.png": saved(scene(i, size)) for i in range(12)}
    files |= {"again.jpg": saved(scene(3, size), "JPEG", quality=60)}
    files |= {"half.png": saved(scene(5, size).resize((size[0] // 2, size[1] // 2), Image.Resampling.LANCZOS))}
    report = check(make.zip(files | {"a.jsonl": make.lines(rows(files))}))
    assert found(report) == [(Rule.NEAR_DUPLICATE_IMAGE, 13, "#/image"), (Rule.NEAR_DUPLICATE_IMAGE, 14, "#/image")]


def test_different_pictures_are_not_called_alike(make, check):
    files = {f"{i}.png": saved(scene(i, (64, 48))) for i in range(300)}
    assert found(check(make.zip(files | {"a.jsonl": make.lines(rows(files))}))) == []


def test_fifteen_hundred_real_handwritten_digits_have_no_issue(check, tmp_path):
    write_zip(digits()[:NUM_UPLOADED], tmp_path / "digits.zip")
    report = check((tmp_path / "digits.zip").read_bytes())
    assert (report.rows.kept, report.issues) == (NUM_UPLOADED, [])


@pytest.mark.parametrize("noise", [0, 3])
def test_pictures_of_one_colour_are_not_called_alike(noise, make, check):
    def plain(number):
        levels = np.random.default_rng(number).integers(100 + number, 101 + number + noise, (48, 64), np.uint8)
        return saved(Image.fromarray(levels))

    files = {f"{i}.png": plain(i) for i in range(30)}
    assert found(check(make.zip(files | {"a.jsonl": make.lines(rows(files))}))) == []


def test_two_like_pictures_of_one_row_belong_together(make, check):
    files = {f"{i}.png": saved(scene(i)) for i in range(20)}
    files |= {f"{i}.jpg": saved(scene(i), "JPEG") for i in range(20)}
    pairs = [{"image": [f"{i}.png", f"{i}.jpg"], "question": "What changed?", "answer": str(i)} for i in range(20)]
    assert found(check(make.zip(files | {"a.jsonl": make.lines(pairs)}))) == []


def test_a_like_picture_in_the_other_split_is_a_leak_and_said_once(make, check):
    files = {f"{i}.png": saved(scene(i)) for i in range(20)}
    files |= {"b.jpg": saved(scene(3), "JPEG"), "c.webp": saved(scene(3), "WEBP")}
    lines = rows(files)
    lines[20]["split"] = lines[3]["split"] = "validation"
    report = check(make.zip(files | {"a.jsonl": make.lines(lines)}))
    assert found(report) == [(Rule.NEAR_DUPLICATE_IMAGE, 21, "#/image"), (Rule.NEAR_SPLIT_LEAK, 22, "#/image")]


def test_a_split_that_we_choose_keeps_like_pictures_on_one_side(make, check, tmp_path):
    files = {f"{i:02}.{kind}": saved(scene(i), kind) for i in range(20) for kind in ("PNG", "JPEG")}
    report = check(make.zip(files | {"a.jsonl": make.lines(rows(files))}))
    sides = {((example.row - 1) // 2, example.split) for example in read_examples(tmp_path / "out")}
    assert report.splits == {"train": 36, "validation": 4}
    assert len(sides) == 20
    assert set(report.counts.by_rule) == {Rule.NEAR_DUPLICATE_IMAGE}


def test_a_set_of_pictures_that_all_look_alike_can_be_split_all_the_same(make, check):
    files = {f"{i}.jpg": saved(scene(1), "JPEG", quality=70 + i) for i in range(20)}
    report = check(make.zip(files | {"a.jsonl": make.lines(rows(files))}))
    assert report.splits == {"train": 18, "validation": 2}
    assert report.counts.by_rule[Rule.NEAR_SPLIT_LEAK] >= 2, "the split that was chosen parts what looks alike"


@pytest.mark.parametrize(
    ("question", "answer"),
    [("which?", "0"), ("  Which?\n", "0"), ("Which?", "0 ")],
)
def test_an_example_that_differs_in_what_the_eye_passes_over_is_said(question, answer, make, check):
    row = {"image": "images/0.png", "question": question, "answer": answer}
    report = check(make.good_zip(20, rows=[row]))
    assert found(report) == [(Rule.NEAR_DUPLICATE_EXAMPLE, 21, "#")]
    assert 'row 1 of "train.jsonl"' in report.issues[0].message


def test_what_means_another_thing_is_no_duplicate(make, check):
    rows = [{"image": "images/0.png", "question": text, "answer": "0"} for text in ("x\u00b2?", "x2?")]
    assert found(check(make.good_zip(20, rows=rows))) == []


def test_the_same_example_is_a_duplicate_and_not_a_near_one_as_well(make, check):
    twice = [{"image": "images/0.png", "question": text, "answer": "0"} for text in ("Which?", "WHICH?", "WHICH?")]
    report = check(make.good_zip(20, rows=twice))
    assert found(report) == [
        (Rule.DUPLICATE_EXAMPLE, 21, "#"),
        (Rule.DUPLICATE_EXAMPLE, 23, "#"),
        (Rule.NEAR_DUPLICATE_EXAMPLE, 22, "#"),
    ]


def test_the_same_words_about_another_picture_are_another_example(make, check):
    files = {f"images/{i}.png": make.image(i) for i in range(20)}
    lines = [
        {"image": name, "question": "WHICH?" if i % 2 else "which?", "answer": "7"} for i, name in enumerate(files)
    ]
    assert found(check(make.zip(files | {"a.jsonl": make.lines(lines)}))) == []


@pytest.mark.parametrize(
    ("count", "total", "is_said"), [(46, 50, True), (45, 50, False), (49, 49, False), (950, 1000, True)]
)
def test_one_answer_for_nearly_all_is_said_with_its_figures(count, total, is_said, make, check):
    answers = ["yes" if i < count else f"no {i}" for i in range(total)]
    talk = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": answer}]}
        for i, answer in enumerate(answers)
    ]
    report = check(make.lines(talk))
    assert found(report) == ([(Rule.LABEL_IMBALANCE, None, "#")] if is_said else [])
    if is_said:
        assert (
            f'{count} of {total:,} short answers ({100 * count / total:.0f} %) are "yes".' in report.issues[0].message
        )


def test_very_many_like_pictures_are_compared_with_a_few_each():
    with io.BytesIO() as thumbnails:
        alike = AlikeImages(thumbnails)
        levels = np.asarray(scene(1, (32, 32)).convert("L")).tobytes()
        for number in range(2000):
            alike.add(number, levels)
        pairs = alike.pairs(lambda _later, _earlier: True)
    assert {later for later, _ in pairs} == set(range(1, 2000)), "each is named, with one earlier"
    assert len(pairs) < 2 * 2000


def test_pictures_that_are_alike_over_others_hang_together():
    chains = Chains()
    for later, earlier in [(4, 2), (4, 0), (2, 1), (5, 3)]:
        assert chains.is_news(later, earlier)
        chains.add(later, earlier)
    assert not chains.is_news(4, 1), "they hang together, and 4 has an earlier one"
    assert chains.links() == [(2, 1), (4, 0), (4, 2), (5, 3)]


def test_an_example_takes_few_bytes_and_is_found_among_very_many():
    texts = AlikeTexts()
    tracemalloc.start()
    for number in range(50_000):
        texts.add(number.to_bytes(16, "little"), (number % 49_990).to_bytes(16, "little"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts.pairs() == [(49_990 + i, i) for i in range(10)]
    assert peak < 40 * 50_000


def page(number, size=(620, 877)):
    """Return one form that many people filled in: only the number on it differs."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, size[0], 90), fill="navy")
    for line in range(160, size[1] - 60, 40):
        draw.line((60, line, size[0] - 60, line), fill="grey")
    draw.text((80, 300), f"No. {number:05}", fill="black", font=ImageFont.load_default(size=22))
    return image


def test_forms_that_differ_in_a_number_are_no_duplicates_when_their_answers_differ(make, check):
    """At 32 pixels they are one picture: 39 of 40 clean invoices were called duplicates of each other."""
    files = {f"{i}.png": saved(page(12345 + i)) for i in range(40)}
    asked = [{"image": name, "question": "Which number?", "answer": str(12345 + i)} for i, name in enumerate(files)]
    assert found(check(make.zip(files | {"a.jsonl": make.lines(asked)}))) == []
