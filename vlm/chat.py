"""The prompt format of the SmolVLM line, for the bases that Lensmith builds itself: special tokens, template, processor."""

from tokenizers import AddedToken
from transformers import Idefics3Processor, PreTrainedTokenizerBase
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from vlm.cutting import GRID
from vlm.idefics3 import IDEFICS3

# Byte for byte what SmolVLM-Instruct and SmolVLM2 ship.
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# In the order of SmolVLM's own vocabulary.
ADDED_TOKENS: tuple[str, ...] = (
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, GRID + 1) for column in range(1, GRID + 1)),
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
)


def add_image_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the tokens of images and turns, and let the end of a turn end a generation."""
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in ADDED_TOKENS])
    tokenizer.add_special_tokens({"additional_special_tokens": list(ADDED_TOKENS)})
    tokenizer.eos_token = IDEFICS3.end_token


def make_processor(tokenizer: PreTrainedTokenizerBase, *, side_px: int, image_tokens: int) -> Idefics3Processor:
    """Make a processor that turns every image into one tile of `side_px` pixels."""
    image_processor = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        size={"longest_edge": side_px},
        max_image_size={"longest_edge": side_px},
    )
    return Idefics3Processor(
        image_processor=image_processor, tokenizer=tokenizer, image_seq_len=image_tokens, chat_template=CHAT_TEMPLATE
    )
