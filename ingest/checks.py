"""Rules about what a row says, once its shape is read: one function per rule, each yields what it finds."""

import re
from collections.abc import Callable, Collection, Iterator
from itertools import groupby

from ingest.drafts import Draft, ImageDraft, TextDraft, TurnDraft
from ingest.issues import Finding, Rule, shown
from ingest.limits import Limits

# Structural tokens of the Idefics3 and SmolVLM families: typed in a text they would be taken for the real ones, and the
# count of image places would no longer agree (facts: api 2.7, training 6.8).
RESERVED = re.compile(
    r"<image>|<fake_token_around_image>|<global-img>|<row_\d+_col_\d+>|<end_of_utterance>|<\|im_start\|>|<\|im_end\|>|<\|endoftext\|>"
)
# A row in which one of these was found has turns that are only partly known; rules about the whole would guess.
_BROKEN = {Rule.MISSING_FIELD, Rule.WRONG_TYPE, Rule.EMPTY_MESSAGES, Rule.BAD_ROLE, Rule.UNKNOWN_PART}
_WRITE_IMAGE = 'Take it out; the place of an image is the part {"type": "image"}.'


def check_draft(
    draft: Draft, found: Collection[Finding], limits: Limits, *, reserved: re.Pattern[str] = RESERVED
) -> Iterator[Finding]:
    """Yield what every rule finds in a draft; `found` is what reading its shape found."""
    yield from reserved_token(draft, reserved)
    for check in _ALWAYS:
        yield from check(draft)
    yield from too_many_images(draft, limits)
    if not any(finding.rule in _BROKEN for finding in found):
        for check in _WHOLE:
            yield from check(draft)


def reserved_token(draft: Draft, reserved: re.Pattern[str] = RESERVED) -> Iterator[Finding]:
    """Find structural tokens that somebody typed as text, those of the families or also a base's own.

    A chat template writes the parts of a turn behind each other, so one in two pieces counts as well.
    """
    for turn in draft.turns:
        whole = {token for run in _runs(turn) for token in reserved.findall(run)}
        for part in turn.parts:
            tokens = set(reserved.findall(part.text)) if isinstance(part, TextDraft) else set()
            whole -= tokens
            yield from (_reserved(token, part.pointer) for token in sorted(tokens))
        yield from (_reserved(token, _content(draft, turn.pointer)) for token in sorted(whole))


def _runs(turn: TurnDraft) -> Iterator[str]:
    """Yield the texts of a turn that stand between its images, their parts joined."""
    for is_text, parts in groupby(turn.parts, key=lambda part: isinstance(part, TextDraft)):
        if is_text:
            yield "".join(part.text for part in parts if isinstance(part, TextDraft))


def _reserved(token: str, pointer: str) -> Finding:
    return Finding(
        rule=Rule.RESERVED_TOKEN,
        pointer=pointer,
        message=f"the text holds {shown(token)}, which the model reserves for itself.",
        fix=_WRITE_IMAGE if token == "<image>" else "Take it out, or write it another way.",  # noqa: S105 - no password
    )


def nul_character(draft: Draft) -> Iterator[Finding]:
    """Find NUL characters."""
    for text in draft.texts():
        if "\x00" in text.text:
            message = f"the text holds a NUL character at position {text.text.index(chr(0)) + 1}."
            yield Finding(rule=Rule.NUL_CHARACTER, pointer=text.pointer, message=message, fix="Take it out.")


def image_outside_user(draft: Draft) -> Iterator[Finding]:
    """Find images in turns of the assistant or the system."""
    for turn in draft.turns:
        if turn.role not in ("system", "assistant"):
            continue
        for place in turn.parts:
            if isinstance(place, ImageDraft):
                message = f"the {turn.role} turn holds an image; the model can only be shown images by the user."
                fix = "Move the image into a user turn."
                yield Finding(rule=Rule.IMAGE_OUTSIDE_USER, pointer=place.pointer, message=message, fix=fix)


def too_many_images(draft: Draft, limits: Limits) -> Iterator[Finding]:
    """Find rows with more images than one example may have."""
    count = len(draft.references)
    if count > limits.max_images:
        message = f"the row has {count} images; at most {limits.max_images} are taken."
        pointer = draft.listed_pointer if draft.listed else draft.messages_pointer
        yield Finding(rule=Rule.TOO_MANY_IMAGES, pointer=pointer, message=message, fix="Split it into several rows.")


def placeholder_count(draft: Draft) -> Iterator[Finding]:
    """Find rows whose places for images and whose list of images differ in number."""
    slots = sum(place.reference is None for place in draft.places)
    if slots != len(draft.listed):
        message = f'the messages have {slots} {{"type": "image"}} parts, but the row lists {len(draft.listed)} images.'
        fix = 'Write one {"type": "image"} part for each image, in the same order.'
        yield Finding(rule=Rule.PLACEHOLDER_COUNT, pointer=draft.listed_pointer, message=message, fix=fix)


def no_answer(draft: Draft) -> Iterator[Finding]:
    """Find conversations without a turn of the assistant."""
    if not any(turn.answers for turn in draft.turns):
        message, fix = "no turn is the assistant's, so there is nothing to learn.", "Add an assistant turn."
        yield Finding(rule=Rule.NO_ANSWER, pointer=draft.messages_pointer, message=message, fix=fix)


def nothing_to_learn(draft: Draft) -> Iterator[Finding]:
    """Find conversations whose answers all have weight 0."""
    answers = [turn for turn in draft.turns if turn.answers]
    if answers and not any(turn.weight for turn in answers):
        message, fix = "every assistant turn has weight 0.", "Give at least one assistant turn weight 1."
        yield Finding(rule=Rule.NOTHING_TO_LEARN, pointer=draft.messages_pointer, message=message, fix=fix)


def empty_answer(draft: Draft) -> Iterator[Finding]:
    """Find turns of the assistant without text."""
    for turn in draft.turns:
        if turn.answers and not turn.text.strip():
            message, fix = "the answer is empty.", "Write the answer, or take the row out."
            yield Finding(rule=Rule.EMPTY_ANSWER, pointer=_content(draft, turn.pointer), message=message, fix=fix)


def empty_turn(draft: Draft) -> Iterator[Finding]:
    """Find turns of the user or the system with neither text nor image."""
    for turn in draft.turns:
        has_image = any(isinstance(part, ImageDraft) for part in turn.parts)
        if not turn.answers and not has_image and not turn.text.strip():
            message, fix = f"the {turn.role} turn is empty.", "Write its text, or take the turn out."
            yield Finding(rule=Rule.EMPTY_TURN, pointer=_content(draft, turn.pointer), message=message, fix=fix)


def role_order(draft: Draft) -> Iterator[Finding]:
    """Find system turns that are not first, and answers that come before any question."""
    asked = False
    for index, turn in enumerate(draft.turns):
        if turn.role == "system" and index > 0:
            message, fix = "a system turn comes after other turns.", "Move it to the front."
            yield Finding(rule=Rule.ROLE_ORDER, pointer=turn.pointer, message=message, fix=fix)
        if turn.answers and not asked:
            message, fix = "the assistant answers before the user has asked.", "Put a user turn in front of it."
            yield Finding(rule=Rule.ROLE_ORDER, pointer=turn.pointer, message=message, fix=fix)
            return
        if turn.answers and draft.turns[index - 1].answers:
            message, fix = (
                "the assistant answers twice in a row.",
                "Put a user turn between, or make one turn of the two.",
            )
            yield Finding(rule=Rule.ROLE_ORDER, pointer=turn.pointer, message=message, fix=fix)
        asked = asked or turn.role == "user"


def unanswered_turn(draft: Draft) -> Iterator[Finding]:
    """Find conversations that end with somebody other than the assistant."""
    if any(turn.answers for turn in draft.turns) and not draft.turns[-1].answers:
        message, fix = (
            "the last turn is not the assistant's; nothing is learned from it.",
            "Add its answer, or take it out.",
        )
        yield Finding(rule=Rule.UNANSWERED_TURN, pointer=draft.turns[-1].pointer, message=message, fix=fix)


def _content(draft: Draft, pointer: str) -> str:
    return f"{pointer}/content" if pointer.startswith(f"{draft.messages_pointer}/") else pointer


_ALWAYS: tuple[Callable[[Draft], Iterator[Finding]], ...] = (nul_character, image_outside_user)
_WHOLE: tuple[Callable[[Draft], Iterator[Finding]], ...] = (
    placeholder_count,
    no_answer,
    nothing_to_learn,
    empty_answer,
    empty_turn,
    role_order,
    unanswered_turn,
)
