"""A base model as a plan needs it: its shape, and how it cuts pictures. Torch-free: from the catalogue, or from its files."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from vlm import geometry
from vlm.catalog import is_on_hub
from vlm.cutting import UPSCALE, Cutting
from vlm.geometry import Geometry
from vlm.image_options import ImageOptions
from vlm.precision import Precision
from vlm.shapes import geometry_of

_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_MAX_BYTES = 2**20  # of a file of settings
_MOST, _MOST_LAYERS = 10_000_000, 1000
_FILES = ("processor_config.json", "preprocessor_config.json")  # as transformers 5 writes it, and as it did before


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """The shape of a base, and how it cuts pictures as it comes.

    Attributes:
        origin: Says whether two of them are the same: a name of the catalogue, or what the files say.
    """

    geometry: Geometry
    cutting: Cutting
    origin: str

    def cutting_with(self, options: ImageOptions) -> Cutting:
        """Return how it cuts pictures with the options of a job, as `Family.set_image_options` sets them."""
        cutting = self.cutting
        return replace(
            cutting,
            longest_edge_px=options.longest_edge or cutting.longest_edge_px,
            is_split=cutting.is_split if options.split is None else options.split,
            is_upscaled=cutting.is_upscaled if options.upscale is None else options.upscale,
        )


def find(name: str) -> Blueprint | None:
    """Return the blueprint of a base; None where it is of a family that is not counted, or its files are not here.

    Args:
        name: A short name of the catalogue, a Hub id, or an absolute folder.
    """
    known = geometry.find(name)
    if known is not None:
        return Blueprint(geometry=known, cutting=known.cutting, origin=known.id)
    try:
        found = _read(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None  # not the files of such a model, or not all of them
    return found if found is not None and _is_sane(found) else None


def _read(name: str) -> Blueprint | None:
    config = _document(name, "config.json")
    precision = _PRECISIONS.get(config.get("dtype") or config.get("torch_dtype") or "", "fp32")
    found = geometry_of(config, name=name, published=precision)
    if found is None:
        return None
    written = _document(name, *_FILES)
    cutter = written.get("image_processor", written)
    cutting = Cutting(
        longest_edge_px=cutter["size"]["longest_edge"],
        tile_px=cutter["max_image_size"]["longest_edge"],
        is_split=cutter.get("do_image_splitting", True),
        tokens_per_tile=found.tokens_per_tile,
        is_upscaled=cutter.get(UPSCALE, True),
    )
    return Blueprint(geometry=found, cutting=cutting, origin=repr((found, cutting)))


def _document(name: str, *files: str) -> dict[str, Any]:
    """Return the first of some files of a base that is here."""
    for file in files:
        path = Path(name, file) if Path(name).is_absolute() else _in_cache(name, file)
        if path is not None and path.is_file() and path.stat().st_size <= _MAX_BYTES:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return document
    raise FileNotFoundError(name)


def _is_sane(found: Blueprint) -> bool:
    """Tell whether all numbers are such that a model can have them: a stranger may have written the files."""
    shape, cutting = found.geometry, found.cutting
    sizes = [
        value for part in (shape.text, shape.vision) for name, value in asdict(part).items() if name != "rope_theta"
    ]
    sizes += [shape.pixel_shuffle, cutting.longest_edge_px, cutting.tile_px, cutting.tokens_per_tile]
    layers = (shape.text.layers, shape.vision.layers)
    return all(type(size) is int and 0 < size <= _MOST for size in sizes) and max(layers) <= _MOST_LAYERS


def _in_cache(name: str, file: str) -> Path | None:
    path = try_to_load_from_cache(name, file) if is_on_hub(name) else None
    return Path(path) if isinstance(path, str) else None
