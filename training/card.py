"""The model card of an adapter: what it is, what made it, how good it is, and how to load it."""

from dataclasses import dataclass
from typing import Any

_TEMPLATE = """---
library_name: peft
base_model: {base_model}
pipeline_tag: image-text-to-text
license: {licence}
tags:
- lora
- lensmith
---

# {name}

A LoRA adapter for `{base_model}`{revision}, fine-tuned by Lensmith.

Licence of the base model: {licence}. The adapter is derived from it; the data it was trained on may set further terms.

## Results

{metrics}

## Made from

{sources}

## Settings

{settings}

## Load it

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

base = AutoModelForImageTextToText.from_pretrained("{load_from}"){where}
model = PeftModel.from_pretrained(base, "path/to/this/folder")
processor = AutoProcessor.from_pretrained("path/to/this/folder")
```

The processor in this folder cuts images as in training; use it instead of the base model's. All of `provenance.json`
is needed to make this adapter again.
{small_images}"""

_SMALL_IMAGES = """
## Small images

This adapter was trained with small images left small: one is only scaled up until it fills the tiles of {tile_px} pixels
that it needs. Lensmith serves it so, by `do_upscale: false` in `processor_config.json`. transformers and other servers,
such as vLLM, ignore that setting: they scale every image up to {longest_edge} pixels and cut it into more tiles than in
training, which is slower and may answer worse. There, cut as in training by hand: scale an image down to {longest_edge}
pixels if it is larger, then resize its width and its height to the next whole tiles, and call the processor with
`size={{"longest_edge": ...}}`, the longer of the two.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the card tells.

    Attributes:
        base_is_on_hub: Whether `base_model` is an id that the Hub knows.
        licence: Of the base model, as an SPDX identifier or `other`.
        metrics: Final figures by name.
        settings: Resolved settings, flat or nested.
        provenance: As `training.provenance.collect` returns it.
    """

    name: str
    base_model: str
    base_is_on_hub: bool
    revision: str | None
    licence: str
    metrics: dict[str, float | int | None]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    def render(self) -> str:
        """Return the card as Markdown with YAML front matter."""
        versions = ", ".join(f"{name} {number}" for name, number in self.provenance["versions"].items() if number)
        sources = {
            "data set digest": self.provenance["dataset_digest"],
            "base revision": self.revision or "unknown",
            "processor digest": self.provenance["processor_digest"],
            "chat template digest": self.provenance["chat_template_digest"],
            "seed": self.provenance["seed"],
            "device": self.provenance["device"],
            "versions": versions,
        }
        return _TEMPLATE.format(
            name=self.name,
            base_model=self.base_model,
            load_from=self.base_model if self.base_is_on_hub else "path/to/the/base",
            where="" if self.base_is_on_hub else "  # in Lensmith's data directory: cache/models",
            revision=f" at revision `{self.revision}`" if self.revision else "",
            licence=self.licence.lower(),
            metrics=_table("metric", {name: _number(value) for name, value in self.metrics.items()}),
            sources=_table("source", sources),
            settings=_table("setting", _flat(self.settings)),
            small_images=self._small_images(),
        )

    def _small_images(self) -> str:
        image = self.settings.get("image", {})
        leaves_small = image.get("split") and not image.get("upscale", True)
        return _SMALL_IMAGES.format(**image) if leaves_small else ""


def _table(title: str, rows: dict[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| {title} | value |", "|---|---|", *lines])


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
