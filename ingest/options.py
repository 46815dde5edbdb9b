"""How a data set is read: what callers and the operator choose."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ingest.gallery import Remote
from ingest.limits import Limits
from ingest.ruler import Ruler
from ingest.skipped import OnBadRow
from ingest.threads import usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The choices of one validation.

    Attributes:
        seed: Of the split, when the rows name none.
        columns: What the upload calls the fields, as `ingest.columns.parse_columns` returns it.
        on_bad_row: Whether a row with an error refuses the data set or is left out; a fault of a file always refuses.
        limits: The bounds.
        remote: Where images with a URL come from; without it nothing is fetched.
        num_cores: For how many cores to decode ahead; the report is the same with any number.
        ruler: What measures the rows for a base model; without it no row is measured.
    """

    seed: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    on_bad_row: OnBadRow = OnBadRow.FAIL
    limits: Limits = field(default_factory=Limits)
    remote: Remote | None = None
    num_cores: int = field(default_factory=usable_cores)
    ruler: Ruler | None = None
