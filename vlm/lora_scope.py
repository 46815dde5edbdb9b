"""Which modules LoRA reaches, as a list of targets plus `exclude_modules`: the form that PEFT, vLLM and SGLang all read.

Torch-free: training asks it what to adapt, serving what a published configuration implies.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product

MODULE_NAME = r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$"

_ESCAPED = r"[a-z][a-z0-9_]*(?:\\\.[a-z0-9_]+)*"
_LEFT_OUT = re.compile(rf"\.\*\\\.\(({_ESCAPED}(?:\|{_ESCAPED})*)\)\(\\\.\.\*\)\?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraNames:
    """What the parts of a family are called in full module names, and the linear layers that LoRA may reach there.

    Attributes:
        text: The component of the name that all of the text model's modules share.
        vision: Likewise of the vision tower.
        connector: Likewise of what lies between the two; None where that is a part of the vision tower.
        vision_targets: The vision tower's layer for each target of the text model that has a counterpart there. A
            name of both parts stands for itself, so that one list of names can mean the same kinds of layers in both.
        connector_targets: The linear layers of the connector, by the last component of their names.
    """

    text: str
    vision: str
    connector: str | None
    vision_targets: tuple[tuple[str, str], ...]
    connector_targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraScope:
    """The modules that one adapter reaches.

    Attributes:
        targets: `target_modules`: the last component of the full names of linear layers.
        connector: Whether the connector is adapted, too.
        vision: Whether the vision tower is adapted, too.
        left_out: Names of one or more components; every module at or below them stays as it is.
    """

    names: LoraNames
    targets: frozenset[str]
    connector: bool = False
    vision: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def exclude_modules(self) -> str | None:
        """Return PEFT's pattern on full module names; None where nothing is left out."""
        frozen = [
            name
            for name, is_adapted in ((self.names.vision, self.vision), (self.names.connector, self.connector))
            if name is not None and not is_adapted
        ]
        patterns = [f".*({'|'.join(frozen)}).*"] if frozen else []
        if self.left_out:
            patterns.append(rf".*\.({'|'.join(map(re.escape, self.left_out))})(\..*)?")
        return "|".join(patterns) or None

    def reaches(self, name: str) -> bool:
        """Tell whether PEFT adapts the linear module of this full name."""
        return name.rsplit(".", 1)[-1] in self.targets and not self.excludes(name)

    def excludes(self, name: str) -> bool:
        """Tell whether `exclude_modules` keeps LoRA from the module of this full name."""
        pattern = self.exclude_modules
        return pattern is not None and re.fullmatch(pattern, name) is not None

    def is_inside(self, name: str) -> bool:
        """Tell whether a module lies in a part of the model that is to be adapted."""
        parts = {self.names.text}
        if self.connector and self.names.connector is not None:
            parts.add(self.names.connector)
        if self.vision:
            parts.add(self.names.vision)
        return not parts.isdisjoint(name.split(".")[:-1])


def asked_scope(
    names: LoraNames, targets: Collection[str], *, connector: bool, vision: bool, left_out: Collection[str]
) -> LoraScope:
    """Return the scope of an adapter that is about to be trained.

    Args:
        names: Of the base model's family.
        targets: Linear layers of the text model; of the vision tower their counterparts are adapted.
        connector: Whether to adapt the connector's linear layers, too.
        vision: Whether to adapt the vision tower, too.
        left_out: Names of modules that stay as they are.
    """
    reached = set(targets)
    if vision:
        reached |= {there for here, there in names.vision_targets if here in targets}
    if connector:
        reached |= set(names.connector_targets)
    return LoraScope(
        names=names, targets=frozenset(reached), connector=connector, vision=vision, left_out=tuple(sorted(left_out))
    )


def published_scope(names: LoraNames, targets: Collection[str], exclude_modules: str | None) -> LoraScope | None:
    """Return the scope of an adapter's configuration, or None where it is not one that `asked_scope` makes.

    The pattern is recognized before it is ever run: a foreign one can take hours on a single name.
    """
    found = _LEFT_OUT.search(exclude_modules or "")
    left_out = tuple(found[1].replace(r"\.", ".").split("|")) if found else ()
    for connector, vision in product((False, True), repeat=2):
        scope = LoraScope(
            names=names, targets=frozenset(targets), connector=connector, vision=vision, left_out=left_out
        )
        if scope.exclude_modules == exclude_modules:
            return scope
    return None
