"""Good rows on their way to the table: spooled to disk, remembered by hash only, split, digested."""

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from ingest.drafts import Draft, ImageDraft, TextDraft
from ingest.issues import Finding, Rule
from ingest.likeness import AlikeTexts, fold
from ingest.places import Places
from ingest.split import Grouping, choose_validation
from vlm.conversation import Row, Split, write_rows

_KEY_BYTES = 16
_IMAGE = '{"type":"image"}'
_OBJECT = "\ufffc"  # Unicode's own mark for what is no text


class Written(BaseModel):
    """What was written: the digest of the content, and the size of each split."""

    digest: str
    splits: dict[Split, int]


class ExampleSpool:
    """Takes good rows one by one; memory holds a few hashes for each, the rows lie in a temporary file."""

    def __init__(self, stream: IO[str], *, seed: int) -> None:
        self._stream = stream
        self._seed = seed
        self._grouping = Grouping()
        self._said: list[Split | None] = []
        self._by_content: dict[bytes, int] = {}
        self._splits_of_image: dict[bytes, tuple[Split, int]] = {}
        self._alike = AlikeTexts()
        self._texts = array("Q")  # the hash of what each asks and answers
        self.places = Places()

    def __len__(self) -> int:
        return len(self._said)

    def add(self, draft: Draft, images: tuple[str, ...], *, row: int, file: str | None) -> list[Finding]:
        """Take a row, and return what it shares with earlier rows."""
        messages = _messages(draft)
        self._stream.write(
            f"{row}\t{json.dumps(file)}\t{' '.join(images)}\t{messages}\n"
        )  # in JSON no tab stands plain
        self._said.append(draft.split)
        number = self.places.add(row, file)
        content = _hash(_content(images, messages, split=None))
        keys = [_key(sha256) for sha256 in images] or [content]
        self._grouping.add(keys)
        texts = _folded_texts(draft)
        self._alike.add(content, _hash(texts + "".join(images).encode()))
        self._texts.append(int.from_bytes(_hash(texts)[:8], "little"))
        earlier = self._by_content.setdefault(content, number)
        found = list(self._leaks(keys, draft.split or "train", number, pointer=draft.split_pointer))
        if earlier != number:
            message = f"the example is the same as {self.places.shown(earlier)}."
            fix = "Take one out, unless it should count twice."
            found.insert(0, Finding(rule=Rule.DUPLICATE_EXAMPLE, message=message, fix=fix))
        return found

    def say_the_same(self, one: int, other: int) -> bool:
        """Tell whether two examples ask and answer the same, whatever they show."""
        return self._texts[one] == self._texts[other]

    def near_duplicates(self) -> list[tuple[int, int]]:
        """Return the numbers of examples that differ from an earlier one only in case and the like, and that one."""
        return self._alike.pairs()

    def choose(self, findings: list[Finding], alike: Sequence[tuple[str, str]] = ()) -> list[Split]:
        """Return the split of each row, and add what is wrong with the splits as a whole.

        Images that are `alike` go to the same side as well, unless then no validation split would be left.
        """
        if "validation" in self._said:
            if all(split == "validation" for split in self._said):
                findings.append(_no_training())
            return [split or "train" for split in self._said]
        strict = self._grouping.groups()
        for one, other in alike:
            self._grouping.join(_key(one), _key(other))
        for groups in (self._grouping.groups(), strict):
            fixed = frozenset(group for group, split in zip(groups, self._said, strict=True) if split is not None)
            chosen = choose_validation(groups, seed=self._seed, fixed=fixed)
            if chosen:
                return ["validation" if group in chosen else "train" for group in groups]
        if self._said:
            findings.append(_no_validation())
        return ["train" for _ in self._said]

    def write(self, folder: Path, rows: IO[str], splits: list[Split]) -> Written:
        """Write `records.parquet` from the spooled rows with the split of each, and return what was written."""
        digest, counts = hashlib.sha256(), {"train": 0, "validation": 0}

        def final() -> Iterator[Row]:
            for line, split in zip(rows, splits, strict=True):
                row, file, names, messages = line.rstrip("\n").split("\t")
                images = names.split()
                digest.update(_content(images, messages, split=split) + b"\n")
                counts[split] += 1
                yield {
                    "row": int(row),
                    "file": json.loads(file),
                    "split": split,
                    "messages": messages,
                    "images": images,
                }

        write_rows(folder, final())
        return Written.model_validate({"digest": digest.hexdigest(), "splits": counts})

    def _leaks(self, keys: list[bytes], split: Split, number: int, *, pointer: str) -> Iterator[Finding]:
        """Yield what is on both sides. A row without a split is trained on as soon as any row says `validation`."""
        for key in dict.fromkeys(keys):
            other, where = self._splits_of_image.setdefault(key, (split, number))
            if other != split:
                message = f"an image of this {split} row is also in the {other} split ({self.places.shown(where)})."
                fix = "Put rows that share an image into the same split; else validation measures what was learned by heart."
                yield Finding(rule=Rule.SPLIT_LEAK, pointer=pointer, message=message, fix=fix)


def _no_training() -> Finding:
    message = 'every row that can be used says "split": "validation", so there is nothing to train on.'
    return Finding(rule=Rule.NO_TRAINING, message=message, fix='Mark only some rows with "split": "validation".')


def _no_validation() -> Finding:
    message = "there is no validation split, so a job cannot measure what it has learned on unseen rows."
    fix = 'Add rows, or mark some with "split": "validation". Rows that share an image stay together.'
    return Finding(rule=Rule.NO_VALIDATION, message=message, fix=fix)


def _messages(draft: Draft) -> str:
    """Return the turns of a row as canonical JSON: as the table holds them, and as the digest takes them."""
    turns = []
    for turn in draft.turns:
        assert turn.role is not None  # a bad role is an error, and such rows do not come here
        parts = ",".join(_IMAGE if isinstance(part, ImageDraft) else _text(part) for part in turn.parts)
        turns.append(f'{{"content":[{parts}],"role":"{turn.role}","weight":{0 if turn.weight == 0 else 1}}}')
    return f"[{','.join(turns)}]"


def _text(part: TextDraft) -> str:
    return f'{{"text":{encode_basestring(part.text)},"type":"text"}}'


def _content(images: Sequence[str], messages: str, *, split: Split | None) -> bytes:
    """Return an example as canonical JSON, without its place in the upload.

    Canonical: keys in order, no white space, characters as they are (`json.dumps` takes three times as long to say so).
    """
    names = ",".join(f'"{sha256}"' for sha256 in images)
    side = "null" if split is None else f'"{split}"'
    return f'{{"images":[{names}],"messages":{messages},"split":{side}}}'.encode()


def _folded_texts(draft: Draft) -> bytes:
    """Return the turns of an example without what the eye passes over; a mark stands where an image does.

    The separators are white space, so no folded text holds them.
    """
    turns = []
    for turn in draft.turns:
        text = "".join(_OBJECT if isinstance(part, ImageDraft) else fold(part.text) for part in turn.parts)
        turns.append(f"{turn.role}\x1f{turn.weight}\x1f{text}")
    return "\x1e".join(turns).encode()


def _key(sha256: str) -> bytes:
    return bytes.fromhex(sha256)[:_KEY_BYTES]


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_KEY_BYTES]
