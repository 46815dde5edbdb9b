"""The Idefics3 family: SmolVLM 256M, 500M and 2.2B, `lensmith-demo` and `tiny`."""

from vlm.tiled import TiledFamily

IDEFICS3 = TiledFamily(name="idefics3", architectures=("Idefics3ForConditionalGeneration",))
