"""A store that fails by seed: requests that never arrive, answers that are lost, a read that breaks off, a full disk."""

import random
from collections import Counter
from contextlib import contextmanager

import obstore
import pytest
from obstore.exceptions import GenericError

CHANGES = ("rename", "delete", "open_writer")
LOOKS = ("get", "head")


class FaultyStore:
    """Counts what it did; `is_full` fails every write until it is false again."""

    def __init__(self, seed: int, *, share: float) -> None:
        self.counts: Counter[str] = Counter()
        self.is_full = False
        self.is_on = True
        self._dice = random.Random(seed)
        self._share = share

    def change(self, name, real):
        """Return a function that changes the store, or does not, or does and does not say so."""

        def changed(*asked, **options):
            if self.is_full:
                self.counts["full"] += 1
                raise GenericError("No space left on device (os error 28)")
            if not self._strikes():
                return real(*asked, **options)
            if name == "rename" and self._dice.random() < 0.5:
                real(*asked, **options)
                self.counts["reply lost"] += 1
                raise GenericError("the connection was closed before the answer")
            self.counts[f"{name} failed"] += 1
            raise GenericError("the connection was refused")

        return changed

    def look(self, name, real):
        """Return a function that reads the store, or does not."""

        def looked(*asked, **options):
            if self._strikes():
                self.counts[f"{name} failed"] += 1
                raise GenericError("the connection was refused")
            return real(*asked, **options)

        return looked

    def _strikes(self) -> bool:
        return self.is_on and self._dice.random() < self._share


@contextmanager
def faulty_store(seed: int, *, share: float):
    """Let every store of this process fail with this share of its requests, as long as the block lasts."""
    store = FaultyStore(seed, share=share)
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(obstore, name, store.change(name, getattr(obstore, name)))
        for name in LOOKS:
            patch.setattr(obstore, name, store.look(name, getattr(obstore, name)))
        yield store
