"""Find the family of a model by its configuration."""

from transformers import PretrainedConfig

from core.errors import FailureCode, WorkFailed
from vlm.family import Family
from vlm.idefics3 import IDEFICS3
from vlm.qwen2_5_vl import QWEN2_5_VL
from vlm.smolvlm import SMOLVLM

FAMILIES: tuple[Family, ...] = (IDEFICS3, SMOLVLM, QWEN2_5_VL)


def family_of(config: PretrainedConfig) -> Family:
    """Return the family of a model.

    Raises:
        WorkFailed: `base_model`, when no family knows the architecture.
    """
    architectures = tuple(config.architectures or ())
    for family in FAMILIES:
        if set(family.architectures) & set(architectures):
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    found = ", ".join(architectures) or "none named"
    raise WorkFailed(
        FailureCode.BASE_MODEL,
        f"the base model's architecture ({found}) is not supported",
        remedy=f"Choose a base model of one of these architectures: {known}.",
    )
