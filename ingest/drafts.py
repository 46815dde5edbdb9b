"""A row on its way to an example: its turns and images with the places they came from, faults and all."""

from collections.abc import Iterator
from dataclasses import dataclass

from vlm.conversation import Role, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """An image as a row names it: a path, a URL, or its bytes (Parquet)."""

    pointer: str
    source: str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDraft:
    """A run of text."""

    pointer: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDraft:
    """The place of an image: its own (`image_url`), or, without a reference, the next of the row's list."""

    pointer: str
    reference: ImageReference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDraft:
    """One turn. `role` is `None` when it was bad."""

    pointer: str
    role: Role | None
    parts: tuple[TextDraft | ImageDraft, ...]
    weight: int = 1

    @property
    def text(self) -> str:
        """Return the turn's text, its parts joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextDraft))

    @property
    def answers(self) -> bool:
        """Return whether this is an assistant turn."""
        return self.role == "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A row in one shape, whatever form it came in."""

    turns: tuple[TurnDraft, ...]
    listed: tuple[ImageReference, ...] = ()
    listed_pointer: str = "#/images"
    messages_pointer: str = "#/messages"
    split: Split | None = None
    split_pointer: str = "#/split"

    @property
    def places(self) -> list[ImageDraft]:
        """Return the places of images, in order of appearance."""
        return [part for turn in self.turns for part in turn.parts if isinstance(part, ImageDraft)]

    @property
    def references(self) -> list[ImageReference]:
        """Return the row's images in order of appearance; then those that no place takes."""
        listed = iter(self.listed)
        placed = [place.reference or next(listed, None) for place in self.places]
        return [reference for reference in placed if reference is not None] + list(listed)

    def texts(self) -> Iterator[TextDraft]:
        """Yield every run of text."""
        return (part for turn in self.turns for part in turn.parts if isinstance(part, TextDraft))
