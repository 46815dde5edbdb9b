from transformers import AutoProcessor

from vlm.digest import chat_template_digest, processor_digest


def test_a_processor_loaded_from_another_folder_has_the_same_digest(tiny_folder, tmp_path):
    processor = AutoProcessor.from_pretrained(tiny_folder)
    processor.save_pretrained(tmp_path)
    assert processor_digest(AutoProcessor.from_pretrained(tmp_path)) == processor_digest(processor)


def test_another_image_size_has_another_digest(tiny_folder):
    processor = AutoProcessor.from_pretrained(tiny_folder)
    before = processor_digest(processor)
    processor.image_processor.max_image_size = {"longest_edge": 16}
    assert processor_digest(processor) != before


def test_another_chat_template_has_another_digest(tiny_folder):
    processor = AutoProcessor.from_pretrained(tiny_folder)
    before = chat_template_digest(processor)
    processor.chat_template += " "
    assert chat_template_digest(processor) != before
