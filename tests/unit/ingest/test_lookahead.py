"""Reading ahead changes when things are done, and nothing else."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from ingest.container import Container
from ingest.issues import Finding, Rule, SourceFault
from ingest.limits import MIB
from ingest.lookahead import look_ahead
from ingest.options import Options
from ingest.skipped import OnBadRow
from ingest.threads import _WORTH_A_THREAD_BYTES
from ingest.validate import validate


@dataclass(frozen=True)
class Item:
    number: int
    num_running: int = 1
    held_bytes: int = 0


def noise(seed):
    """Return an image that is large enough to be decoded on a thread of its own."""
    levels = np.random.default_rng(seed).integers(0, 256, (150, 200, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels if seed % 4 else levels[:, :, :3]).save(buffer, "PNG")
    return buffer.getvalue()


def fault():
    return SourceFault(Finding(rule=Rule.UNREADABLE, message="the file ends here.", fix="Upload it again."))


def asked_when_taken(items, *, max_running):
    """Return how many items were asked for when each one was yielded."""
    asked = []

    def ask():
        for item in items:
            asked.append(item)
            yield item

    return [(item.number, len(asked)) for item in look_ahead(ask(), max_running=max_running)]


def test_items_are_begun_ahead_and_come_in_their_order():
    assert asked_when_taken([Item(i) for i in range(5)], max_running=3) == [(0, 3), (1, 4), (2, 5), (3, 5), (4, 5)]


def test_without_threads_each_is_begun_when_it_is_wanted():
    assert asked_when_taken([Item(i) for i in range(3)], max_running=0) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("item", "most"),
    [(Item(0, num_running=10), 1), (Item(0, held_bytes=40 * MIB), 2), (Item(0, num_running=0), 64)],
    ids=["a row of many images", "large images", "texts"],
)
def test_what_waits_is_bounded(item, most):
    ahead = [asked - taken for taken, (_, asked) in enumerate(asked_when_taken([item] * 200, max_running=4))]
    assert max(ahead) == most


def test_a_fault_comes_after_all_that_was_before_it():
    def items():
        yield Item(0)
        yield Item(1)
        raise fault()

    taken = []
    with pytest.raises(SourceFault):
        taken += look_ahead(items(), max_running=8)
    assert taken == [Item(0), Item(1)]


def test_the_report_and_the_digest_are_the_same_with_any_number_of_cores(make, tmp_path):
    files = {f"images/{i}.png": make.image(i) if i % 2 else noise(i) for i in range(40)}
    assert len(files["images/0.png"]) > _WORTH_A_THREAD_BYTES > len(files["images/1.png"])
    files["turned.jpg"] = make.image(
        5, kind="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    )
    files |= {"cut.jpg": make.image(6, kind="JPEG")[:-300], "clear.png": make.image(7, mode="RGBA"), "no.png": b"text"}
    rows = [{"image": name, "question": "Which?", "answer": str(i)} for i, name in enumerate([*files, *files])]
    rows.insert(20, b"{")
    (tmp_path / "upload").write_bytes(make.zip(files | {"a.jsonl": make.lines(rows)}))
    reports = []
    for num_cores in (1, 2, 8):
        out = tmp_path / str(num_cores)
        out.mkdir()
        options = Options(num_cores=num_cores, on_bad_row=OnBadRow.SKIP)
        reports.append(validate(tmp_path / "upload", Container.ZIP, out, options).model_dump())
    assert reports[0] == reports[1] == reports[2]
    assert {Rule.IMAGE_ROTATED, Rule.IMAGE_CONVERTED, Rule.CORRUPT_IMAGE} < reports[0]["counts"]["by_rule"].keys()
    packs = [(tmp_path / name / "images.pack").read_bytes() for name in ("1", "2", "8")]
    assert packs[0] == packs[1] == packs[2]
