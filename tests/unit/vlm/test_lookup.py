from random import Random

import pyarrow.parquet as pq
import pytest

from vlm.conversation import RECORDS_FILE, SCHEMA, Example, Message, TextPart, write_examples
from vlm.lookup import look_up, sample


def example(row, text="x"):
    turn = Message(role="user", content=(TextPart(text=text),))
    return Example(row=row, split="train", messages=(turn,), images=("a", "b"))


@pytest.fixture
def look(tmp_path):
    def look(examples, row, *, statistics=True):
        write_examples(tmp_path, iter(examples), batch_size=3)
        path = tmp_path / RECORDS_FILE
        if not statistics:
            pq.write_table(pq.read_table(path), path, row_group_size=3, write_statistics=False)
        with path.open("rb") as stream:
            return look_up(stream, row)

    return look


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("row", [1, 5, 14])
def test_a_row_is_found_as_it_was_written(look, row, statistics):
    examples = [example(number, f"text {number}") for number in range(1, 15)]
    found = look(examples, row, statistics=statistics)
    assert found.examples == (examples[row - 1],)
    assert (found.first_row, found.last_row) == (1, 14)


def test_rows_of_several_files_come_in_stored_order(look):
    examples = [example(row, text) for text in ("first", "second") for row in range(1, 5)]
    assert [found.messages[0].text for found in look(examples, 2).examples] == ["first", "second"]


def test_a_row_that_is_not_there_is_not_found_and_the_range_is_told(look):
    found = look([example(row) for row in (3, 5, 9)], 4)
    assert (found.examples, found.first_row, found.last_row) == ((), 3, 9)


def test_a_table_without_rows_has_none(look):
    assert look([], 1).examples == ()


def test_only_the_groups_that_may_hold_the_row_are_read(tmp_path):
    """A data set may have millions of rows; the texts of all of them are not for memory."""
    write_examples(tmp_path, (example(row, Random(row).randbytes(500).hex()) for row in range(1, 2001)), batch_size=100)
    path, read = tmp_path / RECORDS_FILE, []

    class Counting:
        def __init__(self, stream):
            self._stream = stream
            self.closed = False

        def __getattr__(self, name):
            return getattr(self._stream, name)

        def read(self, size=-1):
            data = self._stream.read(size)
            read.append(len(data))
            return data

    with path.open("rb") as stream:
        assert look_up(Counting(stream), 700).examples[0].row == 700
    assert pq.read_schema(path) == SCHEMA
    assert sum(read) < path.stat().st_size / 3


@pytest.mark.parametrize(
    ("at_most", "rows"), [(1, [1]), (2, [1, 6]), (4, [1, 3, 6, 8]), (10, list(range(1, 11))), (99, list(range(1, 11)))]
)
def test_a_sample_is_spread_over_the_whole_table(tmp_path, at_most, rows):
    write_examples(tmp_path, (example(row) for row in range(1, 11)), batch_size=3)
    with (tmp_path / RECORDS_FILE).open("rb") as stream:
        assert [found.row for found in sample(stream, at_most)] == rows


def test_a_table_without_rows_has_no_sample(tmp_path):
    write_examples(tmp_path, iter(()))
    with (tmp_path / RECORDS_FILE).open("rb") as stream:
        assert list(sample(stream, 5)) == []
