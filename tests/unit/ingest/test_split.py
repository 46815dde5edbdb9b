import random

from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.split import MIN_EXAMPLES, Grouping, choose_validation

KEYS = st.lists(st.lists(st.integers(0, 60).map(lambda n: n.to_bytes(2, "big")), min_size=1, max_size=3), max_size=120)


def _sides(examples, seed, fixed=frozenset()):
    grouping = Grouping()
    for keys in examples:
        grouping.add(keys)
    groups = grouping.groups()
    chosen = choose_validation(groups, seed=seed, fixed=fixed)
    return [group in chosen for group in groups]


@settings(max_examples=300, deadline=None)
@given(examples=KEYS, seed=st.integers(0, 2**31))
def test_no_image_is_on_both_sides(examples, seed):
    sides = _sides(examples, seed)
    seen = {}
    for keys, side in zip(examples, sides, strict=True):
        for key in keys:
            assert seen.setdefault(key, side) == side


@settings(max_examples=200, deadline=None)
@given(examples=KEYS, seed=st.integers(0, 2**31))
def test_the_order_of_rows_does_not_change_the_side_of_any(examples, seed):
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    sides = _sides(examples, seed)
    assert _sides([examples[i] for i in order], seed) == [sides[i] for i in order]


@settings(max_examples=200, deadline=None)
@given(examples=KEYS, seed=st.integers(0, 2**31))
def test_the_validation_split_is_never_more_than_half_and_empty_below_ten(examples, seed):
    count = sum(_sides(examples, seed))
    assert count <= len(examples) / 2
    assert len(examples) >= MIN_EXAMPLES or count == 0


def test_a_tenth_of_independent_rows_is_chosen_exactly():
    examples = [[i.to_bytes(2, "big")] for i in range(1500)]
    assert sum(_sides(examples, 7)) == 150
    assert sum(_sides(examples[:10], 7)) == 1


def test_another_seed_chooses_others():
    examples = [[i.to_bytes(2, "big")] for i in range(1500)]
    assert _sides(examples, 1) == _sides(examples, 1)
    assert _sides(examples, 1) != _sides(examples, 2)


def test_fixed_groups_stay_in_training():
    examples = [[i.to_bytes(2, "big")] for i in range(20)]
    fixed = frozenset(keys[0] for keys in examples[:19])
    assert _sides(examples, 1, fixed) == [False] * 19 + [True]


def test_a_chain_of_shared_images_is_one_group():
    chain = [[i.to_bytes(2, "big"), (i + 1).to_bytes(2, "big")] for i in range(50)]
    assert len(set(_sides(chain, 3))) == 1


def test_the_side_of_joined_rows_does_not_depend_on_which_comes_first():
    examples = [[bytes([i, side])] for i in range(40) for side in (0, 1)] + [
        [bytes([i, 0]), bytes([i, 1])] for i in range(40)
    ]
    sides = _sides(examples, 4)
    assert sum(sides) == 12
    assert _sides(examples[::-1], 4)[::-1] == sides
    assert _sides([keys[::-1] for keys in examples], 4) == sides
