"""What features depend on, beside the image's own bytes."""

from importlib.metadata import version

import torch

from vlm.digest import processor_digest
from vlm.loading import LoadedBase
from vlm.precision import Precision

_FORMAT = 1


def feature_key(base: LoadedBase, *, precision: Precision, trains_connector: bool) -> dict[str, object]:
    """Return everything that changes what the tower makes of an image, as JSON.

    The quantization is that of the text model, and does not reach the tower today; the device and the versions are in it
    because kernels round differently, and those of pillow and torchvision because they resize images into pixels.
    """
    parameter = next(base.model.parameters())
    return {
        "format": _FORMAT,
        "family": base.family.name,
        "revision": base.revision,
        "processor": processor_digest(base.processor),
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "precision": precision,
        "quantization": base.quantization,
        "stage": "before the connector" if trains_connector else "after the connector",
        "device": parameter.device.type,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "pillow": version("pillow"),
        "torchvision": version("torchvision"),
    }
