"""The published shapes of the SmolVLM line and of our own bases: what a model costs follows from them. Torch-free data beside the catalogue.

Source: `config.json` and the processor's settings of each model on the Hub. A test builds each of them without memory and
holds its number of parameters against what the Hub publishes.
"""

from dataclasses import dataclass, replace

from vlm import catalog
from vlm.cutting import Cutting
from vlm.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """The text model, a Llama.

    Attributes:
        hidden: Width of the residual stream.
        intermediate: Width of the gated MLP.
        vocabulary: Rows of the embedding and of the head, unused ones included.
        context_tokens: The longest sequence.
        rope_theta: Base of the rotary embedding.
    """

    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    layers: int
    vocabulary: int
    context_tokens: int
    rope_theta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionShape:
    """The vision tower, a SigLIP.

    Attributes:
        side_px: The side of a tile; the processor cuts to it.
        patch_px: The side of a patch.
    """

    hidden: int
    heads: int
    intermediate: int
    layers: int
    side_px: int
    patch_px: int

    @property
    def patches(self) -> int:
        """Return the patches of one tile."""
        return (self.side_px // self.patch_px) ** 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """One published model.

    Attributes:
        id: Its short name in the catalogue.
        pixel_shuffle: Patches per side that the connector folds into one token (`scale_factor`).
        longest_edge_px: To which the processor scales every image before it cuts it into tiles.
        is_head_tied: Whether the head shares the embedding's weights. The class could; the checkpoints do not: only with a
            head of its own do the parameters add up to what is published.
        precision: How the published weights are held.
        is_split: Whether its processor cuts images into tiles.
    """

    id: str
    text: TextShape
    vision: VisionShape
    pixel_shuffle: int
    longest_edge_px: int
    is_head_tied: bool = False
    precision: Precision = "bf16"
    is_split: bool = True

    @property
    def family(self) -> str:
        """Return the name of its `Family`."""
        entry = catalog.find(self.id)
        assert entry is not None, self.id
        return entry.family

    @property
    def tokens_per_tile(self) -> int:
        """Return how many tokens one tile becomes."""
        return self.vision.patches // self.pixel_shuffle**2

    @property
    def cutting(self) -> Cutting:
        """Return how its processor cuts an image."""
        return Cutting(
            longest_edge_px=self.longest_edge_px,
            tile_px=self.vision.side_px,
            is_split=self.is_split,
            tokens_per_tile=self.tokens_per_tile,
        )


_SIGLIP_BASE_512 = VisionShape(hidden=768, heads=12, intermediate=3072, layers=12, side_px=512, patch_px=16)
_SIGLIP_SO400M_384 = VisionShape(hidden=1152, heads=16, intermediate=4304, layers=27, side_px=384, patch_px=14)

_SMOLLM2_135M = TextShape(
    hidden=576,
    heads=9,
    kv_heads=3,
    intermediate=1536,
    layers=30,
    vocabulary=49280,
    context_tokens=8192,
    rope_theta=100_000.0,
)
_SMOLLM2_360M = TextShape(
    hidden=960,
    heads=15,
    kv_heads=5,
    intermediate=2560,
    layers=32,
    vocabulary=49280,
    context_tokens=8192,
    rope_theta=100_000.0,
)


def _smollm2_1700m(vocabulary: int) -> TextShape:
    return TextShape(
        hidden=2048,
        heads=32,
        kv_heads=32,
        intermediate=8192,
        layers=24,
        vocabulary=vocabulary,
        context_tokens=16384,
        rope_theta=273_768.0,
    )


def _small(name: str, text: TextShape) -> Geometry:
    return Geometry(id=name, text=text, vision=_SIGLIP_BASE_512, pixel_shuffle=4, longest_edge_px=4 * 512)


def _large(name: str, text: TextShape) -> Geometry:
    return Geometry(id=name, text=text, vision=_SIGLIP_SO400M_384, pixel_shuffle=3, longest_edge_px=4 * 384)


GEOMETRIES: tuple[Geometry, ...] = (
    _small("smolvlm-256m", _SMOLLM2_135M),
    _small("smolvlm-500m", _SMOLLM2_360M),
    _large("smolvlm-2.2b", _smollm2_1700m(49155)),
    _small("smolvlm2-256m", _SMOLLM2_135M),
    _small("smolvlm2-500m", _SMOLLM2_360M),
    _large("smolvlm2-2.2b", _smollm2_1700m(49280)),
)


# The bases that Lensmith builds itself: one tile of each image, and a head that shares the embedding's weights.
BUILT: tuple[Geometry, ...] = (
    Geometry(
        id="lensmith-demo",
        text=replace(_SMOLLM2_135M, vocabulary=49192),
        vision=VisionShape(hidden=224, heads=7, intermediate=896, layers=6, side_px=64, patch_px=16),
        pixel_shuffle=2,
        longest_edge_px=64,
        is_head_tied=True,
        is_split=False,
    ),
    Geometry(
        id="tiny",
        text=TextShape(
            hidden=64,
            heads=4,
            kv_heads=2,
            intermediate=128,
            layers=2,
            vocabulary=299,
            context_tokens=1024,
            rope_theta=10_000.0,
        ),
        vision=VisionShape(hidden=32, heads=2, intermediate=64, layers=2, side_px=32, patch_px=8),
        pixel_shuffle=2,
        longest_edge_px=32,
        is_head_tied=True,
        precision="fp32",
        is_split=False,
    ),
)


def find(name: str) -> Geometry | None:
    """Return the shape of the model with this short name or Hub id; None where only its own files say it."""
    entry = catalog.find(name)
    return next((each for each in GEOMETRIES + BUILT if entry is not None and each.id == entry.id), None)
