"""Names of files inside an upload: which are safe, which hold rows, and which one a row means."""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from ingest.issues import Finding, Rule, shown

_NESTED = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar"}
_DRIVE = re.compile(r"^[A-Za-z]:")
_MAX_CANDIDATES = 1000


def unsafe(name: str) -> str | None:
    """Return why a name must not stand in an archive; `None` when it may."""
    if "\x00" in name:
        return "has a NUL character"
    if "\\" in name:
        return "has a backslash"
    if name.startswith("/"):
        return "is absolute"
    if _DRIVE.match(name):
        return "starts with a drive letter"
    return "leaves the folder" if ".." in name.split("/") else None


def is_nested_archive(name: str) -> bool:
    """Return whether a name is that of another archive."""
    stem, _, suffix = _base(name).rpartition(".")
    return bool(stem) and f".{suffix.lower()}" in _NESTED


def is_litter(name: str) -> bool:
    """Return whether a file is one that macOS puts beside those of the user."""
    return "__MACOSX" in name.split("/") or _base(name).startswith("._")


def is_jsonl(name: str) -> bool:
    """Return whether a file holds rows."""
    return name.lower().endswith(".jsonl")


class Names:
    """The names of an upload's files, and how a path of a row finds one."""

    def __init__(self, names: Iterable[str], *, kind: str) -> None:
        """Take the names, in NFC; `kind` is what the upload is in a sentence: zip, tar, folder."""
        self._kind = kind
        self._names = frozenset(names)
        self._files = [name for name in sorted(self._names) if not is_jsonl(name)]
        self._folders: defaultdict[str, list[str]] = defaultdict(list)
        self._alike: defaultdict[str, list[str]] = defaultdict(list)  # by file name, and by that without its suffix
        for name in self._files:
            path = PurePosixPath(name)
            self._folders[str(path.parent)].append(name)
            for key in {path.name.casefold(), path.stem.casefold()}:
                self._alike[key].append(name)

    def jsonl(self) -> list[str]:
        """Return the names of the files of rows, in order."""
        return sorted(filter(is_jsonl, self._names))

    def files(self) -> Iterator[str]:
        """Yield the names of all files that hold no rows, in order."""
        return iter(self._files)

    def find(self, path: str, *, beside: str | None) -> str | None:
        """Return the file that a path means: from the root of the upload, else from the folder of the JSONL file."""
        if path in self._names and not is_jsonl(path):
            return path  # nearly always; the rest takes ten times as long
        plain = str(PurePosixPath(unicodedata.normalize("NFC", path)))
        folder = PurePosixPath(beside or "").parent
        for name in (plain, str(folder / plain)):
            if name in self._names and not is_jsonl(name):
                return name
        return None

    def missing(self, path: str) -> Finding:
        """Return that there is no such file, and the nearest name."""
        nearest = self._nearest(path)
        hint = f"The nearest name is {shown(nearest)}." if nearest else f"Put the file into the {self._kind}."
        return Finding(
            rule=Rule.MISSING_IMAGE,
            message=f"the image {shown(path)} is not in the {self._kind}.",
            fix=f"{hint} Paths start at the root of the {self._kind} or at the folder of the JSONL file.",
        )

    def _nearest(self, path: str) -> str | None:
        plain = PurePosixPath(path.replace("\\", "/"))
        for key in (plain.name.casefold(), plain.stem.casefold()):
            if alike := self._alike.get(key):
                return alike[0]
        candidates = (self._folders.get(str(plain.parent)) or self._files)[:_MAX_CANDIDATES]
        close = difflib.get_close_matches(str(plain)[:255], candidates, n=1)
        return close[0] if close else None


def _base(name: str) -> str:
    """Return the last part of a name; `PurePosixPath` takes ten times as long, and there are 200,000 names."""
    return name.rstrip("/").rpartition("/")[2]
