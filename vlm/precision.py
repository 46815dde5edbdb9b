"""The words for how numbers are held. Torch-free; `vlm.loading` turns them into types."""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
Quantization = Literal["nf4", "fp4", "int8", "none"]
