"""The LoRA adapter around a base model: what is trained, in which dtype, and what stays out of the graph."""

import warnings
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from training.spec import Method
from vlm.loading import LoadedBase


def wrap(base: LoadedBase, method: Method, *, name: str) -> Any:
    """Return the base as a `PeftModel` whose only trainable parameters are LoRA's, in float32.

    A *list* of targets plus `exclude_modules` is the form that PEFT, vLLM and SGLang all read; the list alone would
    also hit the vision tower, whose attention has the same names.

    Args:
        base: The loaded base model; it is changed in place.
        method: Rank, scale, dropout and targets.
        name: What the base is called outside of this machine; PEFT would write the path of its folder.
    """
    _keep_frozen_inputs_out_of_graph(base.model)
    alpha = method.resolved_alpha
    config = LoraConfig(
        r=method.r,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # some readers of the file take whole numbers only
        lora_dropout=method.dropout,
        target_modules=list(method.target_modules),
        exclude_modules=base.family.lora_exclude,
        bias="none",
    )
    with warnings.catch_warnings():  # peft 0.21 asks the model by a name that transformers 5.23 deprecates
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = get_peft_model(base.model, config)
    config.base_model_name_or_path = name  # after wrapping, which puts the folder's path there
    return model


def keep_float32(model: Any) -> None:
    """Cast what is trained to float32.

    TRL casts it to bfloat16 whenever the base is quantized: fp16 training then dies in the gradient scaler (TRL
    #4901), and on the CPU small updates are rounded away. Call it after the trainer was made and before it trains.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def document(method: Method, model: Any) -> dict[str, Any]:
    """Return the method as it was settled, as JSON."""
    return {
        "type": method.type,
        "quantization": method.resolved_quantization,
        "r": method.r,
        "alpha": method.resolved_alpha,
        "dropout": method.dropout,
        "target_modules": sorted(method.target_modules),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _keep_frozen_inputs_out_of_graph(model: Any) -> None:
    """Let gradient checkpointing hook the text embeddings only.

    transformers 5.23 hooks the input embeddings of every nested model, the frozen vision tower's too, which then is
    back-propagated through for nothing: 103 GFLOP a step where 54 do (measured on the 256M geometry).
    """

    def hook_text_embeddings() -> None:
        def require_grad(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            output.requires_grad_()

        model._require_grads_hook = model.get_input_embeddings().register_forward_hook(require_grad)  # noqa: SLF001
        model._require_grads_hooks = [model._require_grads_hook]  # noqa: SLF001 - `disable_...` removes these

    model.enable_input_require_grads = hook_text_embeddings
