"""A folder of pictures and *.jsonl becomes a zip on its way to the server: the same folder, the same bytes."""

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from lensmith.errors import NotUploadable

_PACKED = {".png", ".jpg", ".jpeg", ".webp"}  # packed already; to deflate them again takes time and saves nothing


@contextmanager
def zipped(folder: Path) -> Iterator[IO[bytes]]:
    """Yield a zip of a folder, in a temporary file without a name.

    Names that begin with a dot are left out, and times are not kept, so that the same files give the same bytes.

    Raises:
        NotUploadable: it holds a link, a special file, a name that is not UTF-8, or what cannot be read.
    """
    try:
        packed = _packed(folder)
    except OSError as error:
        place = error.filename or tempfile.gettempdir()
        raise NotUploadable(f"The folder cannot be zipped: {error.strerror} ({place}).") from error
    except UnicodeEncodeError as error:
        raise NotUploadable(f"The folder holds the name {error.object!r}, which is not UTF-8. Rename it.") from error
    with packed:
        yield packed


def _packed(folder: Path) -> IO[bytes]:
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryFile())
        with zipfile.ZipFile(out, "w") as archive:
            for name in sorted(_files(folder, folder)):
                _write(archive, folder, name)
        out.seek(0)
        stack.pop_all()
        return out


def _write(archive: zipfile.ZipFile, folder: Path, name: str) -> None:
    descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        info = zipfile.ZipInfo(name)  # of 1980, like every other
        is_packed = Path(name).suffix.lower() in _PACKED
        info.compress_type = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
        info.file_size = os.fstat(descriptor).st_size  # tells whether ZIP64 is needed
        with archive.open(info, "w") as member:
            while chunk := stream.read(1024 * 1024):
                member.write(chunk)


def _files(root: Path, folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(root, Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield os.path.relpath(entry.path, root)
            else:
                name = os.path.relpath(entry.path, root)
                raise NotUploadable(f"The folder holds a link or a special file: {name!r}. Put the file itself in.")
