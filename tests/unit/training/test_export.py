import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from core.errors import FailureCode, WorkFailed
from tests.engine import alone, collator_of, pixel_vision
from training import adapter, export, pipeline
from training.distributed import ALONE
from training.export import ADAPTER_FOLDER, CONFIG_FILE, WEIGHTS_FILE
from training.spec import Method

FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "processor_config.json",
    "provenance.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def published(album, spec, run):
    """Return the folder of a small run's adapter."""

    def published(**asked):
        album.colours(8, 2)
        child_run = run()
        quick = {"max_steps": 3, "batch_size": 4, "learning_rate": 0.01}
        pipeline.fine_tune(spec(hyperparameters=quick, adapter_name="colours", **asked), child_run.child)
        return child_run.child.staging / ADAPTER_FOLDER

    return published


def test_the_folder_is_pefts_layout_with_the_processor(published):
    folder = published()
    assert {path.name for path in folder.iterdir()} == FILES
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == sorted(Method().target_modules)
    assert "vision_model" in config["exclude_modules"]
    assert config["inference_mode"]


def test_only_the_text_models_adapter_is_written(published):
    names = list(load_file(published() / WEIGHTS_FILE))
    assert len(names) == 2 * 2 * 7
    assert all(".text_model." in name and ".lora_" in name for name in names)


def test_the_processor_cuts_images_as_training_did(published):
    folder = published(image={"longest_edge": 96, "split": True})
    cutter = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    assert (cutter["size"]["longest_edge"], cutter["do_image_splitting"]) == (96, True)


def test_an_adapter_that_leaves_small_images_small_says_so_to_other_servers(published):
    folder = published(image={"longest_edge": 96, "split": True, "upscale": False})
    cutter = AutoProcessor.from_pretrained(folder).image_processor
    assert cutter.do_upscale is False
    card = (folder / "README.md").read_text()
    assert "## Small images" in card
    assert "such as vLLM, ignore that setting: they scale every image up to 96 pixels" in card
    assert "| image.upscale | False |" in card


def test_a_card_speaks_of_small_images_only_where_it_matters(published):
    assert "## Small images" not in (published(image={"split": False, "upscale": False}) / "README.md").read_text()


def test_the_card_and_the_provenance_tell_where_it_came_from(published):
    folder = published(seed=5)
    card, origin = (folder / "README.md").read_text(), json.loads((folder / "provenance.json").read_text())
    assert origin["seed"] == 5
    assert origin["settings"]["hyperparameters"]["total_steps"] == 3
    assert origin["metrics"]["eval_loss"] > 0
    assert card.startswith("---\nlibrary_name: peft\nbase_model: tiny\n")
    for told in ("# colours", "| data set digest | d1 |", origin["base_model"]["revision"], "| eval_loss |", "trl 1."):
        assert told in card
    assert str(folder.parent.parent) not in card + json.dumps(origin)
    assert 'from_pretrained("path/to/the/base")  # in Lensmith' in card, "`tiny` is no name that the Hub knows"


LOAD = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor
base_folder, adapter_folder = sys.argv[1:]
base = AutoModelForImageTextToText.from_pretrained(base_folder).eval()
ids = AutoProcessor.from_pretrained(adapter_folder).tokenizer("User: hi", return_tensors="pt").input_ids
with torch.no_grad():
    before = base(input_ids=ids).logits
    after = PeftModel.from_pretrained(base, adapter_folder).eval()(input_ids=ids).logits
print(json.dumps(float((after - before).abs().max())))
"""


def test_plain_peft_loads_it_in_a_fresh_process_and_it_changes_the_answers(published, models_dir):
    folder = published()  # which builds the base
    (base,) = models_dir.glob("tiny-*[0-9]")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(base), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 1e-3


def trained(base, method):
    """Return an adapter around the base, all of whose parameters moved."""
    torch.manual_seed(3)
    model = adapter.wrap(base, method, name="base")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def logits(model, base, album, encoder):
    rows = [album.question("what?", "red", images=2), album.question("and now?", "blue")]
    batch = collator_of(base, rows, encoder, vision=pixel_vision(base, encoder)).batch(alone(0, 1))
    batch.pop("labels")
    with torch.no_grad():
        return model(**batch).logits


LORA, QLORA = {"type": "lora"}, {"type": "qlora"}
METHODS = {
    "lora": LORA,
    "lora with a scale, a dropout and fewer targets": LORA
    | {
        "alpha": 3,
        "dropout": 0.3,
        "r": 5,
        "target_modules": ["q_proj", "up_proj"],
        "exclude_modules": ["layers.1.mlp"],
    },
    "rslora": LORA | {"use_rslora": True},
    "gaussian": LORA | {"init": "gaussian"},
    "dora": LORA | {"use_dora": True},
    "connector": LORA | {"train_connector": True},
    "vision": LORA | {"train_vision": True},
    "vision by kind": LORA | {"train_vision": True, "target_modules": ["v_proj", "o_proj"]},
    "pissa": LORA | {"init": "pissa"},
    "pissa with rslora": LORA | {"init": "pissa", "use_rslora": True},
    "pissa with dora": LORA | {"init": "pissa", "use_dora": True},
    "all at once": LORA
    | {"init": "pissa", "use_dora": True, "use_rslora": True, "train_connector": True, "train_vision": True},
    "nf4": QLORA,
    "fp4, quantized once": QLORA | {"quantization": "fp4", "double_quantization": False},
    "int8 with rslora": QLORA | {"quantization": "int8", "use_rslora": True},
    "nf4 with dora, connector and vision": QLORA | {"use_dora": True, "train_connector": True, "train_vision": True},
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT 0.21, of transformers 5.23
@pytest.mark.parametrize("name", METHODS)
def test_plain_peft_answers_as_the_trained_model_does(load, album, encoder_of, tmp_path, name):
    method = Method.model_validate(METHODS[name])

    def fresh():
        return load(method.resolved_quantization, double_quantization=method.resolved_double_quantization)

    base = fresh()
    model = trained(base, method)
    export.write_adapter(model, tmp_path / "adapter", ALONE.trained_weights(model))
    verified = export.verify(tmp_path / "adapter", model, family=base.family, method=method)
    expected = logits(model, base, album, encoder_of(base))

    other = fresh()
    untouched = logits(other.model, other, album, encoder_of(other))
    loaded = PeftModel.from_pretrained(other.model, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded, other, album, encoder_of(other)), expected, rtol=1e-5, atol=1e-5)
    assert (expected - untouched).abs().max() > 0.02
    assert not verified.is_noop


def config_of(folder):
    return json.loads((folder / CONFIG_FILE).read_text())


def test_pissa_is_published_as_plain_lora_of_twice_the_rank_and_says_so(load, tmp_path):
    """PEFT would take the largest singular values out of whatever base it loads a `pissa` adapter into."""
    model = trained(load(), Method(type="lora", r=4, alpha=6, init="pissa"))
    export.write_adapter(model, tmp_path, ALONE.trained_weights(model))
    config = config_of(tmp_path)
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 12, True)
    assert model.peft_config["default"].r == 4, "what is being trained is left alone"


@pytest.mark.parametrize("asked", [{}, {"use_dora": True}])
def test_pissa_that_was_not_trained_is_recognized_as_changing_nothing(load, tmp_path, asked):
    base, method = load(), Method(type="lora", r=4, init="pissa", **asked)
    model = adapter.wrap(base, method, name="base")
    export.write_adapter(model, tmp_path, ALONE.trained_weights(model))
    assert export.verify(tmp_path, model, family=base.family, method=method).is_noop


def test_the_configuration_names_the_parts_that_were_trained(load, tmp_path):
    model = trained(load(), Method(type="lora", train_vision=True))
    export.write_adapter(model, tmp_path, ALONE.trained_weights(model))
    config = config_of(tmp_path)
    assert config["exclude_modules"] == ".*(connector).*"
    assert {"out_proj", "fc1", "fc2"} < set(config["target_modules"])


@pytest.fixture
def written(load, tmp_path):
    """Return an untrained adapter's model and folder."""
    base = load()
    model = adapter.wrap(base, Method(), name="base")
    export.write_adapter(model, tmp_path / "adapter", ALONE.trained_weights(model))
    return base, model, tmp_path / "adapter"


def verify(written):
    base, model, folder = written
    return export.verify(folder, model, family=base.family, method=Method())


def spoil(written, change):
    path = written[2] / WEIGHTS_FILE
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_an_untrained_adapter_is_recognized_as_changing_nothing(written):
    assert verify(written).is_noop
    assert verify(written).num_tensors == 28


def test_one_update_that_is_not_zero_changes_something(written):
    spoil(written, lambda tensors: next(t for name, t in tensors.items() if "lora_B" in name)[0].fill_(1e-6))
    assert not verify(written).is_noop


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop(next(iter(tensors))),
        lambda tensors: tensors.update({"extra": torch.zeros(1)}),
        lambda tensors: tensors.update({next(iter(tensors)): torch.zeros(1)}),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_a_file_that_does_not_hold_what_the_method_implies_is_refused(written, change):
    spoil(written, change)
    with pytest.raises(WorkFailed) as failure:
        verify(written)
    assert failure.value.code is FailureCode.INTERNAL


def test_a_weight_that_is_not_finite_is_refused(written):
    spoil(written, lambda tensors: next(iter(tensors.values()))[0].fill_(torch.nan))
    with pytest.raises(WorkFailed) as failure:
        verify(written)
    assert failure.value.code is FailureCode.DIVERGED
