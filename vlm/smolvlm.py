"""The SmolVLM family: SmolVLM2 256M, 500M and 2.2B (Idefics3's modules and tokens under another class, plus video)."""

from vlm.tiled import TiledFamily

SMOLVLM = TiledFamily(name="smolvlm", architectures=("SmolVLMForConditionalGeneration",))
