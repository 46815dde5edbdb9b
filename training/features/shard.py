"""One file of features: safetensors, a tensor for each image under its sha256, with a checksum for each.

A shard is written under a temporary name and renamed, so what has its final name is whole; it is never changed.
"""

import os
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

SUFFIX = ".safetensors"
PART = ".part-"


class Damaged(Exception):
    """The file is not what was written."""


class Shard:
    """An open shard; tensors are mapped from the file, so they cost memory only while they are read.

    Raises:
        Damaged: The file has no usable header.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file: Any = safe_open(path, framework="pt")
            self._checksums: dict[str, str] = file.metadata() or {}
            self.names = frozenset(file.keys())
        except SafetensorError as error:
            raise Damaged(f"{path.name}: {error}") from error
        self._file = file

    def read(self, name: str) -> torch.Tensor:
        """Return what was kept of an image."""
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor

    def is_whole(self, name: str) -> bool:
        """Tell whether a tensor's bytes are those that were written."""
        return self._checksums.get(name) == checksum(self.read(name))


def write(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Shard:
    """Write a shard and return it, open: under its final name another job may evict it at once.

    Raises:
        OSError: There is no room, or no right to write; nothing is left behind.
    """
    name = secrets.token_hex(16)
    part, final = folder / f"{PART}{name}", folder / f"{name}{SUFFIX}"
    try:
        save_file(dict(tensors), part, metadata={name: checksum(tensor) for name, tensor in tensors.items()})
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        written = Shard(part)
        written.path = part.rename(final)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error
    finally:
        part.unlink(missing_ok=True)
    return written


def checksum(tensor: torch.Tensor) -> str:
    """Return the CRC-32 of a tensor's bytes: against damage, not against forgery."""
    raw = tensor.contiguous().flatten().view(torch.uint8)
    return f"{zlib.crc32(raw.numpy().data):08x}"
