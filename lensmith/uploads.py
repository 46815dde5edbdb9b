"""Large files in parts: what a broken connection, a restart of the server or a new try of the command does not undo."""

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import IO

from lensmith import waiting
from lensmith.errors import ApiError, NotUploadable, Unreachable
from lensmith.paging import all_of
from lensmith.resources import Upload
from lensmith.transport import Transport, is_passing

Progress = Callable[[str, int, int], None]  # the upload's id, the bytes that are there, the bytes of the file


class Uploads:
    """`/uploads`. `datasets.upload` sends large files this way by itself."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def begin(self, filename: str, size_bytes: int) -> Upload:
        """Begin an upload; a file that is too large is refused here."""
        body = {"filename": filename, "size_bytes": size_bytes}
        return Upload.model_validate(self._transport.post("/uploads", json=body))

    def get(self, upload_id: str) -> Upload:
        """Return an upload and which of its parts are there."""
        return Upload.model_validate(self._transport.get(f"/uploads/{upload_id}"))

    def list(self) -> Iterator[Upload]:
        """Yield every upload, newest first."""
        return all_of(self._transport, "/uploads", Upload)

    def delete(self, upload_id: str) -> None:
        """Give an upload up; its parts are removed."""
        self._transport.delete(f"/uploads/{upload_id}")

    def send(self, upload: Upload, stream: IO[bytes], *, on_progress: Progress | None = None) -> None:
        """Send the parts of a file that are not there, or that are other bytes than the file has now.

        A part whose connection breaks is tried again, with longer and longer pauses; one part is in memory at a time.

        Raises:
            NotUploadable: the upload was begun for a file of another size.
        """
        size_bytes, done = stream.seek(0, os.SEEK_END), 0
        if size_bytes != upload.size_bytes:
            raise NotUploadable(
                f"The upload {upload.id} is of a file of {upload.size_bytes:,} bytes, and this one has {size_bytes:,}."
            )
        there = {part.number: part.sha256 for part in upload.parts}
        _tell(on_progress, upload, done)
        stream.seek(0)
        for number in range(1, upload.num_parts + 1):
            data = stream.read(upload.part_bytes)
            digest = hashlib.sha256(data).digest()
            if there.get(number) != digest.hex():
                self._deliver(upload.id, number, data, digest)
            done += len(data)
            _tell(on_progress, upload, done)

    def _deliver(self, upload_id: str, number: int, data: bytes, digest: bytes) -> None:
        headers = {
            "Content-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
            "Content-Type": "application/octet-stream",
        }

        patience = waiting.Patience()
        while not (patience.failures and self._has(upload_id, number, digest.hex())):  # only the answer may be lost
            try:
                self._transport.put(f"/uploads/{upload_id}/parts/{number}", content=data, headers=headers)
            except (Unreachable, ApiError) as error:
                patience.spend(error, is_passing=is_passing(error))
            else:
                return

    def _has(self, upload_id: str, number: int, sha256: str) -> bool:
        return any((part.number, part.sha256) == (number, sha256) for part in self.get(upload_id).parts)


def _tell(on_progress: Progress | None, upload: Upload, done: int) -> None:
    if on_progress is not None:
        on_progress(upload.id, done, upload.size_bytes)
