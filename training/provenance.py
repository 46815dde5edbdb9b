"""Where an adapter came from: everything that is needed to make it again, or to tell why it cannot be."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from training.spec import TrainingSpec

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "tokenizers", "pillow", "lensmith")


def collect(
    spec: TrainingSpec,
    *,
    base_model: dict[str, str | None],
    processor_digest: str,
    chat_template_digest: str,
    device: str,
) -> dict[str, Any]:
    """Return the provenance of a run as JSON.

    Args:
        spec: What was asked.
        base_model: The name that was asked for, the public name, and the revision.
        processor_digest: Of the processor after the image options were applied.
        chat_template_digest: Of the template that rendered the conversations.
        device: The hardware in words.
    """
    return {
        "dataset_digest": spec.dataset_digest,
        "base_model": base_model,
        "processor_digest": processor_digest,
        "chat_template_digest": chat_template_digest,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "seed": spec.seed,
        "device": device,
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:  # Lensmith itself, when it runs from a source tree
        return None
