"""What validation says: one `Issue` per fault, with the place, a sentence, and what to do. Nothing stops at the first."""

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict

from core.errors import LensmithError

SHOWN_CHARS = 80


class Severity(StrEnum):
    """How bad an issue is: an error makes the row unusable, a warning deserves a look, an info says what was done."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Rule(StrEnum):
    """Every rule of validation. The names are part of the report."""

    NOT_UTF8 = "not_utf8"
    BOM = "bom"
    LINE_TOO_LONG = "line_too_long"
    JSON_SYNTAX = "json_syntax"
    NOT_AN_OBJECT = "not_an_object"
    UNREADABLE = "unreadable"
    TOO_MUCH_DATA = "too_much_data"
    UNSAFE_MEMBER = "unsafe_member"
    UNKNOWN_FORM = "unknown_form"
    IGNORED_FIELD = "ignored_field"
    UNUSED_COLUMN = "unused_column"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY_MESSAGES = "empty_messages"
    BAD_ROLE = "bad_role"
    ROLE_ORDER = "role_order"
    NO_ANSWER = "no_answer"
    EMPTY_ANSWER = "empty_answer"
    EMPTY_TURN = "empty_turn"
    NOTHING_TO_LEARN = "nothing_to_learn"
    EXAMPLE_TOO_LONG = "example_too_long"
    TEMPLATE_REFUSED = "template_refused"
    UNANSWERED_TURN = "unanswered_turn"
    BAD_WEIGHT = "bad_weight"
    BAD_SPLIT = "bad_split"
    UNKNOWN_PART = "unknown_part"
    RESERVED_TOKEN = "reserved_token"  # noqa: S105 - no password
    NUL_CHARACTER = "nul_character"
    PLACEHOLDER_COUNT = "placeholder_count"
    TOO_MANY_IMAGES = "too_many_images"
    IMAGE_OUTSIDE_USER = "image_outside_user"
    MISSING_IMAGE = "missing_image"
    REMOTE_IMAGE = "remote_image"
    URL_FORBIDDEN = "url_forbidden"
    URL_UNREACHABLE = "url_unreachable"  # this may pass
    URL_BAD_ANSWER = "url_bad_answer"  # this may not: gone, closed, no whole file
    BAD_DATA_URL = "bad_data_url"
    BAD_BASE64 = "bad_base64"
    MIME_MISMATCH = "mime_mismatch"
    UNSUPPORTED_IMAGE = "unsupported_image"
    CORRUPT_IMAGE = "corrupt_image"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    EXTREME_ASPECT = "extreme_aspect"
    ANIMATED_IMAGE = "animated_image"
    IMAGE_CONVERTED = "image_converted"
    IMAGE_ROTATED = "image_rotated"
    UNUSED_FILES = "unused_files"
    NO_ROWS = "no_rows"
    FEW_ROWS = "few_rows"
    DUPLICATE_EXAMPLE = "duplicate_example"
    NEAR_DUPLICATE_EXAMPLE = "near_duplicate_example"
    NEAR_DUPLICATE_IMAGE = "near_duplicate_image"
    LABEL_IMBALANCE = "label_imbalance"
    SPLIT_LEAK = "split_leak"
    NEAR_SPLIT_LEAK = "near_split_leak"
    NO_TRAINING = "no_training"
    NO_VALIDATION = "no_validation"


_LIGHTER = {
    Rule.BOM: Severity.WARNING,
    Rule.IGNORED_FIELD: Severity.WARNING,
    Rule.UNUSED_COLUMN: Severity.WARNING,
    Rule.UNANSWERED_TURN: Severity.WARNING,
    Rule.MIME_MISMATCH: Severity.WARNING,
    Rule.EXTREME_ASPECT: Severity.WARNING,
    Rule.ANIMATED_IMAGE: Severity.WARNING,
    Rule.IMAGE_CONVERTED: Severity.INFO,
    Rule.IMAGE_ROTATED: Severity.INFO,
    Rule.UNUSED_FILES: Severity.INFO,
    Rule.FEW_ROWS: Severity.WARNING,
    Rule.DUPLICATE_EXAMPLE: Severity.WARNING,
    Rule.NEAR_DUPLICATE_EXAMPLE: Severity.WARNING,
    Rule.NEAR_DUPLICATE_IMAGE: Severity.WARNING,
    Rule.LABEL_IMBALANCE: Severity.WARNING,
    Rule.SPLIT_LEAK: Severity.WARNING,
    Rule.NEAR_SPLIT_LEAK: Severity.WARNING,
    Rule.NO_VALIDATION: Severity.WARNING,
}


def severity_of(rule: Rule) -> Severity:
    """Return how bad a breach of the rule is."""
    return _LIGHTER.get(rule, Severity.ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule found inside one row: a JSON pointer (as a URI fragment), a sentence, and what to do."""

    rule: Rule
    message: str
    fix: str
    pointer: str = "#"

    @property
    def is_error(self) -> bool:
        """Return whether the row cannot be used."""
        return severity_of(self.rule) is Severity.ERROR

    def at(self, pointer: str) -> "Finding":
        """Return the same finding at another place."""
        return replace(self, pointer=pointer)


class Issue(BaseModel):
    """A finding with its row. `row` counts the lines of `file` from 1; without a row it is about the whole set."""

    model_config = ConfigDict(frozen=True)

    rule: Rule
    severity: Severity
    row: int | None
    file: str | None
    pointer: str
    message: str
    fix: str

    @classmethod
    def of(cls, finding: Finding, *, row: int | None = None, file: str | None = None) -> Self:
        """Return a finding at its row."""
        return cls(
            rule=finding.rule,
            severity=severity_of(finding.rule),
            row=row,
            file=file,
            pointer=finding.pointer,
            message=finding.message,
            fix=finding.fix,
        )

    @property
    def sentence(self) -> str:
        """Return the place and the message in one sentence."""
        place = "" if self.row is None else f"row {self.row}"
        if self.file is not None:
            place = f"{place} of {shown(self.file)}" if place else shown(self.file)
        return f"{place}: {self.message}" if place else self.message


class SourceFault(LensmithError):
    """The source cannot be read any further; everything before it was."""

    def __init__(self, finding: Finding, *, file: str | None = None, row: int | None = None) -> None:
        super().__init__(finding.message)
        self.finding = finding
        self.file = file
        self.row = row

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_fault, (self.finding, self.file, self.row)


def _rebuild_fault(finding: Finding, file: str | None, row: int | None) -> SourceFault:
    return SourceFault(finding, file=file, row=row)


class ImageRefused(LensmithError):
    """An image that cannot be used, and why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding

    def __reduce__(self) -> tuple[object, ...]:
        return ImageRefused, (self.finding,)


class FetchFailed(LensmithError):
    """Something with a URL that was not fetched, and why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding

    def __reduce__(self) -> tuple[object, ...]:
        return FetchFailed, (self.finding,)


class IssueLog:
    """Collects issues: all are counted, and of each rule the first `max_kept_per_rule` are listed."""

    def __init__(self, max_kept_per_rule: int) -> None:
        self._max = max_kept_per_rule
        self.kept: list[Issue] = []
        self.by_rule: Counter[Rule] = Counter()

    def add(self, finding: Finding, *, row: int | None = None, file: str | None = None) -> None:
        """Count one finding and list it while its rule's list is not full."""
        self.by_rule[finding.rule] += 1
        if self.by_rule[finding.rule] <= self._max:
            self.kept.append(Issue.of(finding, row=row, file=file))

    @property
    def by_severity(self) -> dict[Severity, int]:
        """Return the true count of each severity."""
        counts = dict.fromkeys(Severity, 0)
        for rule, count in self.by_rule.items():
            counts[severity_of(rule)] += count
        return counts


def shown(text: str) -> str:
    r"""Return a user's text as it may stand in a message: short, quoted, and with `\n` and the like made visible."""
    short = text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"
    visible = (
        short
        if short.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in short)
    )
    return f'"{visible}"'
