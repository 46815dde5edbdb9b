"""A preview on a terminal: the conversation with what is learned highlighted, the counts, the grid of each image."""

import unicodedata
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.text import Text

from lensmith.resources import Preview, PreviewImage, PreviewToken

LEARNED = "bold black on green"
IMAGE = "cyan"


def show_preview(preview: Preview, console: Console) -> None:
    """Print a preview. Its words are a user's and a tokenizer's, so nothing in them is markup."""
    if preview.tokens:
        console.print(_conversation(preview.tokens, has_colour=console.color_system is not None))
    else:
        console.print(Text(_visible(preview.text)))
    console.print(Text(_counts(preview), style="bold"))
    for number, image in enumerate(preview.images, start=1):
        console.print(Text(f"image {number}: {_grid(image)}"))
    for remark in _remarks(preview):
        console.print(Text(remark, style="yellow"))


def _conversation(tokens: tuple[PreviewToken, ...], *, has_colour: bool) -> Text:
    shown = Text()
    for learned, run in groupby(tokens, key=lambda token: token.learned):
        if not learned:
            for token in run:
                shown.append(*_unlearned(token))
            continue
        text = _visible("".join(token.text for token in run))
        shown.append(text if has_colour else f"⟦{text}⟧", LEARNED)
    return shown


def _unlearned(token: PreviewToken) -> tuple[str, str]:
    return (f"{token.text}*{token.count}", IMAGE) if token.count > 1 else (_visible(token.text), "")


def _visible(text: str) -> str:
    """Spell control characters out: a terminal obeys them, and whoever wrote the data set is not who sits at it."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) != "Cc" else f"\\x{ord(character):02x}"
        for character in text
    )


def _counts(preview: Preview) -> str:
    return (
        f"row {preview.row}{f' of {_visible(preview.file)}' if preview.file else ''} ({preview.split}): {preview.num_tokens:,} tokens, {preview.num_image_tokens:,} for images, "
        f"{preview.num_learned_tokens:,} learned; {preview.base_model} takes {preview.context_tokens:,}"
    )


def _grid(image: PreviewImage) -> str:
    size = f"{image.width_px} x {image.height_px} px"
    cut = f"{image.rows} rows x {image.columns} columns and the whole" if image.rows else "the whole, not cut"
    tiles = "1 tile" if image.num_tiles == 1 else f"{image.num_tiles} tiles"
    return f"{size}, {cut}: {tiles}, {image.num_tokens:,} tokens"


def _remarks(preview: Preview) -> Iterator[str]:
    if preview.refusal is not None:
        yield f"A job would refuse this row: {preview.refusal}"
    if preview.is_shortened:
        yield "There is more than is shown here: tokens or tiles are left out, the counts are whole."
