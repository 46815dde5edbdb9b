"""The shape of the demo's vision tower and connector; the pretraining and the build agree on it here."""

from pathlib import Path

from transformers import LlamaConfig
from transformers.models.idefics3.configuration_idefics3 import Idefics3Config, Idefics3VisionConfig

IMAGE_SIDE_PX = 64
PATCH_PX = 16
PIXEL_SHUFFLE = 2
IMAGE_TOKENS = (IMAGE_SIDE_PX // PATCH_PX // PIXEL_SHUFFLE) ** 2
TEXT_HIDDEN = 576

# Tower and connector, as bfloat16 under their names in `Idefics3Model`.
WEIGHTS = Path(__file__).with_name("vision.safetensors")


def vision_config() -> Idefics3VisionConfig:
    """Return the tower's configuration."""
    return Idefics3VisionConfig(
        hidden_size=224,
        intermediate_size=896,
        num_hidden_layers=6,
        num_attention_heads=7,
        image_size=IMAGE_SIDE_PX,
        patch_size=PATCH_PX,
    )


def connector_config() -> Idefics3Config:
    """Return a configuration that is enough to make the connector alone."""
    text = LlamaConfig(hidden_size=TEXT_HIDDEN, num_hidden_layers=1, vocab_size=8, num_attention_heads=9)
    return Idefics3Config(vision_config=vision_config(), text_config=text, scale_factor=PIXEL_SHUFFLE)
