"""Digests of what shapes a model's input, for the provenance of jobs and adapters."""

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin

_CHUNK_BYTES = 1 << 20
_WEIGHTS_AND_SETTINGS = {".json", ".safetensors", ".jinja", ".txt", ".model"}
# Where a processor was loaded from is not part of what it does.
_INCIDENTAL = {"name_or_path", "tokenizer_file", "processor_class", "_processor_class", "local_files_only", "is_local"}


def processor_digest(processor: ProcessorMixin) -> str:
    """Return the sha256 of the processor's settings and vocabulary: image sizes, normalisation, token layout."""
    settings = _without_incidentals(processor.to_dict()) | {"vocabulary": processor.tokenizer.get_vocab()}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def chat_template_digest(processor: ProcessorMixin) -> str:
    """Return the sha256 of the chat template's text."""
    template = processor.chat_template or ""
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the sha256 over names and bytes of a model folder's weights and settings."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _WEIGHTS_AND_SETTINGS and path.is_file():
            content = hashlib.sha256()
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    content.update(chunk)
            total.update(f"{path.name}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()


def _without_incidentals(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_incidentals(inner) for key, inner in value.items() if key not in _INCIDENTAL}
    return value
