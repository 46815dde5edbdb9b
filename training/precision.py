"""The context in which a run computes: the same for training, validation, and the features of images."""

import torch

from vlm import loading
from vlm.precision import Precision


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context that computes in `precision`; none for fp32."""
    return torch.autocast(device.type, loading.DTYPES[precision], enabled=precision != "fp32")
