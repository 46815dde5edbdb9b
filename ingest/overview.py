"""Rules about rows taken together: what is nearly the same, and what is nearly always the answer."""

from collections.abc import Iterator

from ingest.issues import Finding, Rule, shown
from ingest.pictures import Lookalike
from ingest.statistics import Labels

_MIN_SHORT_ANSWERS = 50
_MAX_LABEL_RATIO = 0.9


def look_alike(found: Lookalike, earlier: str) -> Finding:
    """Return that an image looks the same as that of an earlier row; across the splits that is a leak."""
    if found.is_leak:
        return Finding(
            rule=Rule.NEAR_SPLIT_LEAK,
            pointer=found.pointer,
            message=f"the image looks the same as one in the other split ({earlier}).",
            fix="Put rows with such images into the same split; else validation measures what was learned by heart.",
        )
    return Finding(
        rule=Rule.NEAR_DUPLICATE_IMAGE,
        pointer=found.pointer,
        message=f"the image looks the same as that of {earlier}.",
        fix="Take one out, unless both should count.",
    )


def near_duplicate(earlier: str) -> Finding:
    """Return that an example says the same as an earlier one in other letters."""
    return Finding(
        rule=Rule.NEAR_DUPLICATE_EXAMPLE,
        message=f"but for case and white space, the example is the same as {earlier}.",
        fix="Write both alike, or take one out; else the model learns that either will do.",
    )


def label_imbalance(labels: Labels) -> Iterator[Finding]:
    """Find that nearly all short answers are one and the same."""
    if labels.num_short_answers < _MIN_SHORT_ANSWERS:
        return
    count, total = labels.top[0].count, labels.num_short_answers
    if count > _MAX_LABEL_RATIO * total:
        message = (
            f"{count:,} of {total:,} short answers ({100 * count / total:.0f} %) are {shown(labels.top[0].answer)}."
        )
        fix = "Add rows with other answers; else the model learns to give this one without looking."
        yield Finding(rule=Rule.LABEL_IMBALANCE, message=message, fix=fix)
