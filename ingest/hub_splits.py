"""Which splits of a data set of the Hub are taken, and as what."""

from dataclasses import dataclass
from typing import Literal

from ingest.hub_faults import faulty
from ingest.issues import shown
from ingest.origins import HubOrigin

_VALIDATION = ("validation", "valid", "val", "dev", "eval")
_TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A split that is taken; without a label its rows are split by us."""

    name: str
    label: Literal["train", "validation"] | None


def choose_splits(names: list[str], origin: HubOrigin) -> tuple[list[Chosen], list[str]]:
    """Return the splits to take, and those that are left out.

    The one that the caller names is taken as it is, whatever its name, and so is the only one there is. Otherwise
    `train` is, with what is called validation beside it. A test split is left out: whoever trains on it has none. Any
    other name might mean anything, so it is asked for.

    Raises:
        WorkFailed: the split is not there, or it has to be named.
    """
    if origin.split is not None:
        if origin.split not in names:
            raise faulty(
                f"{origin.shown} has no split {shown(origin.split)}; it has {_listed(names)}.", _name_one(names)
            )
        return [Chosen(name=origin.split, label=None)], [name for name in names if name != origin.split]
    if len(names) == 1 and names != [_TEST]:
        return [Chosen(name=names[0], label=None)], []
    validation = next((name for name in _VALIDATION if name in names), None)
    if "train" not in names or set(names) - {"train", validation, _TEST}:
        raise faulty(
            f"{origin.shown} has the splits {_listed(names)}, and it cannot be told what to train on.", _name_one(names)
        )
    left_out = [_TEST] if _TEST in names else []
    if validation is None:
        return [Chosen(name="train", label=None)], left_out
    return [Chosen(name="train", label="train"), Chosen(name=validation, label="validation")], left_out


def _listed(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names) or "none"


def _name_one(names: list[str]) -> str:
    return f"Name the one to take: add ?split={names[0]}, say." if names else "Name another configuration of it."
