"""Passes of a budget that nobody listens to."""

import os

from core.events import Emitter
from training.recovery import Passes


def within(budget):
    """Return passes that begin with this budget."""
    return Passes(budget, Emitter(os.open(os.devnull, os.O_WRONLY)))
