"""The forms of a row (question and answer, caption, text, messages, OpenAI vision) become one draft.

A wrong field does not end the reading: the rest of the row is read too, so that one pass finds every fault.
"""

from collections.abc import Callable
from typing import Any, get_args

from ingest.columns import Columns, escape
from ingest.drafts import Draft, ImageDraft, ImageReference, TextDraft, TurnDraft
from ingest.issues import Finding, Rule, shown
from vlm.conversation import Role, Split

_KINDS: tuple[tuple[type, str], ...] = (
    (type(None), "null"),
    (bool, "true or false"),  # before the numbers, for a bool is one
    (int, "a number"),
    (float, "a number"),
    (str, "a string"),
    (list, "a list"),
    (bytes, "bytes"),
)
CAPTION_PROMPT = "Describe the image."
_FORMS = "{image, question, answer}, {image, caption}, {image, text} and {images, messages}"
_SPLITS: tuple[str, ...] = get_args(Split)
_ROLES: tuple[str, ...] = get_args(Role)
_CONTENT = 'Write a string, or a list of parts such as {"type": "image"} and {"type": "text", "text": "..."}.'
_PARTS = '{"type": "text", "text": "..."}, {"type": "image"} or {"type": "image_url", "image_url": {"url": "data:..."}}'


def read_form(value: dict[str, Any], findings: list[Finding], columns: Columns) -> Draft | None:
    """Return the draft of a row and add what is wrong with its shape; `None` when its form is not known."""
    field = _deciding_field(value, columns)
    if field is not None:
        reader = _RowReader(value, findings, columns)
        draft = _READERS[field](reader)
        _report_ignored(value, reader)
        return draft
    keys = ", ".join(shown(key) for key in list(value)[:10]) or "no keys at all"
    findings.append(
        Finding(
            rule=Rule.UNKNOWN_FORM,
            message=f"the row is in no known form; it has {keys}.",
            fix=f"Taken are the forms {_FORMS}; `columns` says which of your names stands for which of these.",
        )
    )
    return None


def _deciding_field(value: dict[str, Any], columns: Columns) -> str | None:
    """Return the field that decides the form: a mapped one that the row has, else any, else a mapped one."""
    mapped = [field for field in _READERS if field in columns.mapping]
    for field in (*mapped, *_READERS):
        if columns.holds(value, field):
            return field
    return mapped[0] if mapped else None


class _RowReader:
    """Reads the fields of one row; a wrong one is reported and read as if it were absent."""

    def __init__(self, value: dict[str, Any], findings: list[Finding], columns: Columns) -> None:
        self._value = value
        self._findings = findings
        self.columns = columns
        self.used: set[str] = set()

    def say(self, rule: Rule, pointer: str, message: str, fix: str) -> None:
        self._findings.append(Finding(rule=rule, pointer=pointer, message=message, fix=fix))

    def has(self, field: str) -> bool:
        is_there = self.columns.holds(self._value, field)
        if is_there:
            self.used.add(self.columns.name(field))
        return is_there

    def field(self, field: str) -> Any:
        return self._value[self.columns.name(field)]

    def text(self, field: str) -> TextDraft | None:
        pointer, name = self.columns.pointer(field), shown(self.columns.name(field))
        if not self.has(field):
            fix = f"Add {name} as text{self._or_map(field)}."
            self.say(Rule.MISSING_FIELD, pointer, f"the row has no {name}.", fix)
            return None
        return self.text_at(pointer, self.field(field))

    def text_at(self, pointer: str, value: Any) -> TextDraft | None:
        if isinstance(value, str):
            return TextDraft(pointer=pointer, text=value)
        self.say(Rule.WRONG_TYPE, pointer, f"the text is {_kind(value)}.", 'Write text in double quotes, such as "7".')
        return None

    def split(self) -> Split | None:
        if not self.has("split"):
            return None
        value = self.field("split")
        if isinstance(value, str) and value in _SPLITS:
            return value  # type: ignore[return-value]  # mypy does not narrow by a tuple of names
        name = shown(value) if isinstance(value, str) else _kind(value)
        fix = f'Write "train" or "validation", or leave {shown(self.columns.name("split"))} out and we choose.'
        self.say(Rule.BAD_SPLIT, self.columns.pointer("split"), f"the split is {name}.", fix)
        return None

    def images(self, *, needed: bool) -> tuple[str, tuple[ImageReference, ...]]:
        """Return the pointer of the row's list of images, and its images."""
        fields = [field for field in ("images", "image") if self.has(field)]
        one, many = (shown(self.columns.name(field)) for field in ("image", "images"))
        if len(fields) > 1:
            both = f"the row has both {one} and {many}."
            self.say(Rule.WRONG_TYPE, self.columns.pointer("image"), both, f"Keep {many}.")
        if not fields:
            if needed:
                fix = f"Add {one} with the path of a file in the upload, or a data: URL{self._or_map('image')}."
                self.say(Rule.MISSING_FIELD, self.columns.pointer("image"), f"the row has no {one}.", fix)
            return self.columns.pointer("images"), ()
        pointer, value = self.columns.pointer(fields[0]), self.field(fields[0])
        found = value if isinstance(value, list) else [value]
        pointers = [f"{pointer}/{i}" for i in range(len(found))] if isinstance(value, list) else [pointer]
        if needed and not found:
            self.say(Rule.MISSING_FIELD, pointer, "the list of images is empty.", "Name at least one image.")
        references = (self.reference(at, item) for at, item in zip(pointers, found, strict=True))
        return pointer, tuple(reference for reference in references if reference is not None)

    def _or_map(self, field: str) -> str:
        is_mapped = field in self.columns.mapping
        return "" if is_mapped else "; or let `columns` say which of your names stands for it"

    def reference(self, pointer: str, value: Any) -> ImageReference | None:
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            value = value["bytes"]  # Hugging Face's struct of bytes and path
        elif isinstance(value, dict) and isinstance(value.get("path"), str):
            value = value["path"]
        if isinstance(value, (str, bytes)):
            return ImageReference(pointer=pointer, source=value)
        fix = "Write the path of a file in the upload, or a data: URL, as a string."
        self.say(Rule.WRONG_TYPE, pointer, f"the image is {_kind(value)}.", fix)
        return None

    def messages(self) -> tuple[TurnDraft, ...]:
        pointer, name = self.columns.pointer("messages"), shown(self.columns.name("messages"))
        shape = 'Write a list of {"role": ..., "content": ...}.'
        if not self.has("messages"):
            self.say(Rule.MISSING_FIELD, pointer, f"the row has no {name}.", shape)
            return ()
        value = self.field("messages")
        if not isinstance(value, list):
            self.say(Rule.WRONG_TYPE, pointer, f"{name} is {_kind(value)}.", shape)
            return ()
        if not value:
            fix = "Add a user turn and an assistant turn."
            self.say(Rule.EMPTY_MESSAGES, pointer, f"{name} is empty.", fix)
        turns = (self._turn(f"{pointer}/{i}", item) for i, item in enumerate(value))
        return tuple(turn for turn in turns if turn is not None)

    def _turn(self, pointer: str, value: Any) -> TurnDraft | None:
        if not isinstance(value, dict):
            fix = 'Write {"role": "user", "content": "..."}.'
            self.say(Rule.WRONG_TYPE, pointer, f"the turn is {_kind(value)}.", fix)
            return None
        self._others_ignored(pointer, value, {"role", "content", "weight"})
        role = value.get("role")
        return TurnDraft(
            pointer=pointer,
            role=self._role(f"{pointer}/role", role),
            parts=self._content(pointer, value),
            weight=self._weight(pointer, value),
        )

    def _role(self, pointer: str, value: Any) -> Role | None:
        if isinstance(value, str) and value in _ROLES:
            return value  # type: ignore[return-value]  # mypy does not narrow by a tuple of names
        name = shown(value) if isinstance(value, str) else "missing" if value is None else _kind(value)
        self.say(Rule.BAD_ROLE, pointer, f"the role is {name}.", 'Write "system", "user" or "assistant".')
        return None

    def _weight(self, pointer: str, turn: dict[str, Any]) -> int:
        weight = turn.get("weight", 1)
        if isinstance(weight, bool) or weight not in (0, 1) or ("weight" in turn and turn.get("role") != "assistant"):
            fix = "Write 0 or 1, and only on an assistant turn."
            self.say(Rule.BAD_WEIGHT, f"{pointer}/weight", "the weight cannot be used.", fix)
            return 1
        return int(weight)

    def _content(self, pointer: str, turn: dict[str, Any]) -> tuple[TextDraft | ImageDraft, ...]:
        pointer = f"{pointer}/content"
        if "content" not in turn:
            self.say(Rule.MISSING_FIELD, pointer, 'the turn has no "content".', _CONTENT)
            return ()
        content = turn["content"]
        if isinstance(content, str):
            return (TextDraft(pointer=pointer, text=content),)
        if not isinstance(content, list):
            self.say(Rule.WRONG_TYPE, pointer, f'"content" is {_kind(content)}.', _CONTENT)
            return ()
        parts = (self._part(f"{pointer}/{i}", item) for i, item in enumerate(content))
        return tuple(part for part in parts if part is not None)

    def _part(self, pointer: str, value: Any) -> TextDraft | ImageDraft | None:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "text":
            self._others_ignored(pointer, value, {"type", "text"})
            return self.text_at(f"{pointer}/text", value.get("text"))
        if kind == "image":
            self._others_ignored(pointer, value, {"type"})
            return ImageDraft(pointer=pointer)
        if kind == "image_url":
            self._others_ignored(pointer, value, {"type", "image_url"})
            reference = self._image_url(f"{pointer}/image_url", value.get("image_url"))
            return ImageDraft(pointer=pointer, reference=reference) if reference else None
        name = shown(kind) if isinstance(kind, str) else "missing" if isinstance(value, dict) else _kind(value)
        self.say(Rule.UNKNOWN_PART, pointer, f"the part's type is {name}.", f"Write {_PARTS}.")
        return None

    def _image_url(self, pointer: str, value: Any) -> ImageReference | None:
        if isinstance(value, dict) and isinstance(value.get("url"), str):
            self._others_ignored(pointer, value, {"url", "detail"} if value.get("detail") == "auto" else {"url"})
            return ImageReference(pointer=f"{pointer}/url", source=value["url"])
        if isinstance(value, str):
            return ImageReference(pointer=pointer, source=value)
        fix = 'Write {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}.'
        self.say(Rule.WRONG_TYPE, pointer, '"image_url" has no "url".', fix)
        return None

    def _others_ignored(self, pointer: str, value: dict[str, Any], used: set[str]) -> None:
        for key in (key for key in value if key not in used):
            self.ignored(f"{pointer}/{escape(key)}", key)

    def ignored(self, pointer: str, key: str) -> None:
        message = f"the field {shown(key)} is not used, here or in any later row."
        fix = "Nothing, if it is a note for yourself; the model does not see it."
        if key == "detail":  # of OpenAI's image_url
            fix = "Say in the job how images are cut: image.longest_edge, image.split and image.upscale."
        self.say(Rule.IGNORED_FIELD, pointer, message, fix)


def _messages(reader: _RowReader) -> Draft:
    listed_pointer, listed = reader.images(needed=False)
    return Draft(
        turns=reader.messages(),
        listed=listed,
        listed_pointer=listed_pointer,
        messages_pointer=reader.columns.pointer("messages"),
        split=reader.split(),
        split_pointer=reader.columns.pointer("split"),
    )


def _question(reader: _RowReader) -> Draft:
    return _simple(reader, question=reader.text("question"), answer=reader.text("answer"))


def _caption(reader: _RowReader) -> Draft:
    return _simple(reader, question=TextDraft(pointer="#", text=CAPTION_PROMPT), answer=reader.text("caption"))


def _text(reader: _RowReader) -> Draft:
    return _simple(reader, question=TextDraft(pointer="#", text=CAPTION_PROMPT), answer=reader.text("text"))


def _simple(reader: _RowReader, *, question: TextDraft | None, answer: TextDraft | None) -> Draft:
    listed_pointer, listed = reader.images(needed=True)
    places = tuple(ImageDraft(pointer=reference.pointer) for reference in listed)
    asked_pointer = reader.columns.pointer("question")
    asked = TurnDraft(pointer=asked_pointer, role="user", parts=(*places, question) if question else places)
    turns: tuple[TurnDraft, ...] = (asked,)
    if answer is not None:
        turns += (TurnDraft(pointer=answer.pointer, role="assistant", parts=(answer,)),)
    return Draft(
        turns=turns,
        listed=listed,
        listed_pointer=listed_pointer,
        split=reader.split(),
        split_pointer=reader.columns.pointer("split"),
    )


def _report_ignored(value: dict[str, Any], reader: _RowReader) -> None:
    for key in (key for key in value if key not in reader.used):
        reader.ignored(f"#/{escape(key)}", key)


def _kind(value: object) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "an object")


# The first field that a row has decides its form.
_READERS: dict[str, Callable[[_RowReader], Draft]] = {
    "messages": _messages,
    "question": _question,
    "answer": _question,
    "caption": _caption,
    "text": _text,
}
