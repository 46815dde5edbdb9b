import pytest
from pydantic import ValidationError

from training.resources import Resources
from training.spec import TrainingSpec


@pytest.mark.parametrize(
    ("asked", "processes", "gpus_of_each"),
    [
        ({}, 1, 1),
        ({"gpus": 0}, 1, 0),
        ({"gpus": 1}, 1, 1),
        ({"gpus": 4}, 4, 1),
        ({"gpus": 2, "parallelism": "fsdp"}, 2, 1),
        ({"gpus": 2, "parallelism": "model"}, 1, 2),
        ({"gpus": 0, "num_processes": 2}, 2, 0),
    ],
)
def test_what_is_asked_becomes_processes_and_what_each_sees(asked, processes, gpus_of_each):
    resources = Resources.model_validate(asked)
    assert (resources.resolved_processes, resources.gpus_per_process) == (processes, gpus_of_each)


@pytest.mark.parametrize("name", ["tensor", "TP", "pipeline", "pp"])
def test_tensor_and_pipeline_parallelism_are_refused_in_one_sentence_that_says_why(name):
    with pytest.raises(ValidationError, match="neither LoRA's layers nor 4-bit and 8-bit ones survive that"):
        Resources.model_validate({"gpus": 2, "parallelism": name})


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"num_processes": 2}, "give it with gpus 0"),
        ({"gpus": 2, "num_processes": 2}, "each GPU has a process"),
        ({"parallelism": "model"}, "give gpus of 2 or more"),
        ({"gpus": 1, "parallelism": "ddp"}, "needs several processes"),
        ({"gpus": 99}, "less than or equal to 16"),
        ({"memory_gb": 0}, "greater than"),
        ({"memory": 8}, "Extra inputs"),
    ],
)
def test_what_does_not_go_together_says_what_would(asked, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Resources.model_validate(asked)


@pytest.mark.parametrize("parallelism", ["ddp", "model", "fsdp"])
def test_eight_bit_weights_are_not_sharded(parallelism, tmp_path):
    asked = {
        "base_model": "tiny",
        "models_dir": tmp_path,
        "dataset_dir": tmp_path,
        "dataset_digest": "d",
        "method": {"type": "qlora", "quantization": "int8"},
        "resources": {"gpus": 2, "parallelism": parallelism},
    }
    if parallelism == "fsdp":
        with pytest.raises(ValidationError, match="cannot shard 8-bit weights"):
            TrainingSpec.model_validate(asked)
    else:
        TrainingSpec.model_validate(asked)


@pytest.mark.parametrize("part", ["train_connector", "train_vision"])
def test_fsdp_is_refused_where_more_than_the_text_layers_is_trained(part):
    spread = Resources(gpus=2, parallelism="fsdp")
    spread.check_method("nf4", trains_beside_text=False)
    with pytest.raises(ValueError, match=part):
        spread.check_method("nf4", trains_beside_text=True)
