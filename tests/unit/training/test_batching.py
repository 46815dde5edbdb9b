"""Whatever the plan of a step: every example once, and no pass above its budget."""

from hypothesis import given
from hypothesis import strategies as st

from training.batching import Budget, num_steps_per_epoch, padded_tokens, plan, row_tokens

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


def examples_of(micro_batches):
    return [example for micro_batch in micro_batches for row in micro_batch for example in row]


@given(LENGTHS, st.integers(1, 8), st.integers(1, 600), st.integers(1, 400) | st.none())
def test_every_example_is_in_one_row_of_one_pass_within_the_budget(lengths, count, num_tokens, pack_tokens):
    budget = Budget(num_examples=count, num_tokens=num_tokens, pack_tokens=pack_tokens)
    micro_batches = plan(range(len(lengths)), lengths, budget)
    assert sorted(examples_of(micro_batches)) == list(range(len(lengths)))
    for micro_batch in micro_batches:
        taken = examples_of([micro_batch])
        assert len(taken) <= count
        assert (
            padded_tokens(micro_batch, lengths) <= num_tokens or len(taken) == 1
        )  # one that is too long alone still has to go through
        assert all(len(row) == 1 or row_tokens(row, lengths) <= pack_tokens for row in micro_batch)


@given(LENGTHS, st.integers(1, 8))
def test_without_a_bound_on_tokens_the_order_stays(lengths, count):
    micro_batches = plan(range(len(lengths)), lengths, Budget(num_examples=count))
    assert examples_of(micro_batches) == list(range(len(lengths)))
    assert all(len(micro_batch) == count for micro_batch in micro_batches[:-1])


def test_rows_of_like_length_share_a_pass_so_that_little_is_padded():
    lengths = [100, 10, 100, 10, 100, 10]
    micro_batches = plan(range(6), lengths, Budget(num_examples=6, num_tokens=300))
    assert [sorted(examples_of([each])) for each in micro_batches] == [[0, 2, 4], [1, 3, 5]]


def test_short_examples_are_laid_behind_each_other_into_rows_as_long_as_the_longest():
    lengths = [60, 50, 40, 30, 20]
    micro_batches = plan(range(5), lengths, Budget(num_examples=5, num_tokens=400, pack_tokens=100))
    assert micro_batches == (((0,), (2, 4), (1,), (3,)),)


def test_examples_of_one_length_are_not_packed():
    micro_batches = plan(range(4), [10] * 4, Budget(num_examples=4, num_tokens=100, pack_tokens=100))
    assert micro_batches == (((0,), (1,), (2,), (3,)),)


def test_the_examples_of_a_pass_are_bounded_though_a_row_has_room():
    lengths = [40, 10, 10, 10, 10]
    micro_batches = plan(range(5), lengths, Budget(num_examples=2, num_tokens=100, pack_tokens=100))
    assert [len(examples_of([each])) for each in micro_batches] == [1, 2, 2]


def test_a_step_takes_the_examples_that_it_is_given():
    micro_batches = plan([7, 3, 5], [1] * 8, Budget(num_examples=2, num_tokens=100))
    assert sorted(examples_of(micro_batches)) == [3, 5, 7]


def test_the_last_step_of_an_epoch_counts():
    assert [num_steps_per_epoch(number, 4) for number in (1, 4, 5)] == [1, 1, 2]


def test_a_large_split_is_packed_in_blocks_and_still_whole():
    """Packing compares each example with every row: 16,000 examples at once took five seconds, after every epoch."""
    lengths = [20 + 7 * (number % 40) for number in range(2000)]
    micro_batches = plan(range(2000), lengths, Budget(num_examples=2000, num_tokens=2048, pack_tokens=1024))
    assert sorted(examples_of(micro_batches)) == list(range(2000))
    padded = sum(padded_tokens(each, lengths) for each in micro_batches)
    assert padded < 1.1 * sum(lengths)
