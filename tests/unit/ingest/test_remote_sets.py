"""Data sets whose pictures lie elsewhere: what becomes of the set when they come, and when they do not."""

import json

import pytest

from ingest.container import Container
from ingest.issues import Rule
from ingest.limits import Limits
from ingest.options import Options
from ingest.pack import packed_images
from ingest.run import _refused
from ingest.skipped import OnBadRow
from ingest.validate import validate
from tests.unit.ingest.elsewhere import images
from vlm.conversation import read_examples


@pytest.fixture
def check(tmp_path, make, there):
    """Return a function that validates rows as bare JSONL, with images from `there`."""

    def run(rows, *, out="out", **limits):
        path, folder = tmp_path / f"{out}.jsonl", tmp_path / out
        path.write_bytes(make.lines(rows))
        folder.mkdir()
        remote = images(there.guard())
        return validate(path, Container.JSONL, folder, Options(limits=Limits(**limits), remote=remote))

    return run


@pytest.mark.parametrize(
    ("statuses", "retryable"), [([503], True), ([429, 500], True), ([404], False), ([403], False), ([503, 410], False)]
)
def test_a_set_may_be_tried_again_when_all_that_was_wrong_may_pass(statuses, retryable, check, there):
    """A picture that was gone (404) made a set "may be tried again", which it may for ever."""
    report = check([question(there.gives(f"/{status}", b"", status=status)) for status in statuses])
    assert report.num_errors == len(statuses)
    assert _refused(report, report.refusal).retryable is retryable


def question(url):
    return {"image": url, "question": "Which?", "answer": "This."}


def openai(url):
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "This."}]}


def test_a_set_of_urls_becomes_the_same_set_as_one_of_files(make, check, there, tmp_path):
    rows = [question(there.gives(f"/{i}.png", make.image(i))) for i in range(12)]
    report = check(rows)
    assert (report.issues, report.num_fetched) == ([], 12)
    assert json.loads((tmp_path / "out/report.json").read_text())["num_fetched"] == 12
    stored = dict(packed_images(tmp_path / "out"))
    for number, example in enumerate(read_examples(tmp_path / "out")):
        assert stored[example.images[0]] == make.image(number)


def test_each_url_is_fetched_once_whatever_form_and_fragment_it_comes_in(make, check, there):
    url = there.gives("/a.png", make.image(1))
    gone = there.gives("/gone.png", b"", status=404)
    report = check([question(url), openai(url), question(f"{url}#top"), question(gone), openai(gone)])
    assert sorted(there.asked) == ["/a.png", "/gone.png"]
    errors = [(i.row, i.rule, i.pointer) for i in report.issues if i.severity == "error"]
    assert errors == [
        (4, Rule.URL_BAD_ANSWER, "#/image"),
        (5, Rule.URL_BAD_ANSWER, "#/messages/0/content/0/image_url/url"),
    ]
    assert (report.num_fetched, report.statistics.num_images) == (1, 1)


def test_what_came_is_looked_at_like_any_image(make, check, there):
    rows = [
        question(there.gives("/page", b"<html>Not found</html>")),
        question(there.gives("/small", make.image(1, size=(2, 2)))),
        question(there.gives("/large", b"x" * 2000)),
        question("https://10.0.0.1/a.png"),
        question("s3://bucket/a.png"),
    ]
    report = check(rows, max_image_bytes=1024)
    errors = [issue for issue in report.issues if issue.severity == "error"]
    assert [(issue.row, issue.rule) for issue in errors] == [
        (1, Rule.UNSUPPORTED_IMAGE),
        (2, Rule.IMAGE_TOO_SMALL),
        (3, Rule.IMAGE_TOO_LARGE),
        (4, Rule.URL_FORBIDDEN),
        (5, Rule.URL_FORBIDDEN),
    ]
    assert all(issue.fix and issue.pointer == "#/image" for issue in errors)
    assert errors[0].message.startswith(f'"{there.url("/page")}": the file is HTML')


def test_no_issue_shows_the_query_of_a_url_which_may_be_a_signature(make, check, there, tmp_path):
    signed = [there.gives(path, data) for path, data in (("/a?sig=secret", b"nothing"), ("/b?sig=secret", b""))]
    report = check([question(url) for url in signed])
    assert len(report.issues) >= 2
    bare = tmp_path / "bare.jsonl"
    bare.write_bytes(make.lines([question(signed[0])]))
    (tmp_path / "off").mkdir()
    off = validate(bare, Container.JSONL, tmp_path / "off", Options())
    assert off.refusal.rule is Rule.REMOTE_IMAGE
    assert "secret" not in report.model_dump_json() + off.model_dump_json()


def test_a_share_that_is_used_up_refuses_the_set_even_where_bad_rows_are_skipped(make, there, tmp_path):
    """A slow network would have made another, smaller data set of the same upload."""
    path, out = tmp_path / "rows.jsonl", tmp_path / "out"
    path.write_bytes(make.lines([question(there.gives(f"/{i}.png", make.image(i))) for i in range(12)]))
    out.mkdir()
    remote = images(there.guard(), max_urls=5)
    report = validate(path, Container.JSONL, out, Options(remote=remote, on_bad_row=OnBadRow.SKIP))
    assert (report.refusal.rule, report.digest) == (Rule.TOO_MUCH_DATA, None)
