"""Splits without leaks: examples that share an image, directly or over others, always go to the same side."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

VALIDATION_RATIO = 0.1
MIN_EXAMPLES = 10


class Grouping:
    """Joins examples that share a key (an image's hash, or an example's own when it has no image)."""

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._parents: list[int] = []
        self._first_key: list[bytes] = []
        self._examples: list[int] = []

    def __len__(self) -> int:
        return len(self._examples)

    def add(self, keys: Sequence[bytes]) -> None:
        """Add the next example with its keys, at least one."""
        roots = [self._root(self._id(key)) for key in keys]
        for root in roots[1:]:
            self._join(roots[0], root)
        self._examples.append(roots[0])

    def join(self, one: bytes, other: bytes) -> None:
        """Join the examples of two keys that were seen."""
        self._join(self._ids[one], self._ids[other])

    def groups(self) -> list[bytes]:
        """Return the group of each example: the smallest key in it, so that the order of rows does not matter."""
        return [self._first_key[self._root(example)] for example in self._examples]

    def _id(self, key: bytes) -> int:
        number = self._ids.setdefault(key, len(self._parents))
        if number == len(self._parents):
            self._parents.append(number)
            self._first_key.append(key)
        return number

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    def _join(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        if one != other:
            self._parents[other] = one
            self._first_key[one] = min(self._first_key[one], self._first_key[other])


def choose_validation(groups: Iterable[bytes], *, seed: int, fixed: frozenset[bytes] = frozenset()) -> frozenset[bytes]:
    """Choose the groups that become the validation split.

    Groups are taken in the order of `sha256(seed, group)` while they fit into a tenth of the examples. When none fits,
    the smallest is taken, unless more than half of the examples hang together in it.

    Args:
        groups: the group of each example.
        seed: another seed chooses other groups.
        fixed: groups that must stay in training, because a row of theirs says so.

    Returns:
        The chosen groups; empty below 10 examples, or when no leak-free split exists.
    """
    sizes: defaultdict[bytes, int] = defaultdict(int)
    for group in groups:
        sizes[group] += 1
    total = sum(sizes.values())
    free = sorted((group for group in sizes if group not in fixed), key=lambda group: _rank(seed, group))
    if total < MIN_EXAMPLES or not free:
        return frozenset()
    wanted = max(1, round(total * VALIDATION_RATIO))
    chosen: set[bytes] = set()
    taken = 0
    for group in free:
        if taken + sizes[group] <= wanted:
            chosen.add(group)
            taken += sizes[group]
    if not chosen:
        smallest = min(free, key=lambda group: sizes[group])
        chosen = {smallest} if sizes[smallest] <= total / 2 else set()
    return frozenset(chosen)


def _rank(seed: int, group: bytes) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + group).digest()
