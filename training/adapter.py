"""The LoRA adapter around a base model: what is trained, in which dtype, and what stays out of the graph."""

import warnings
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from core.errors import FailureCode, WorkFailed
from training import pissa
from training.spec import Method
from vlm.family import Family
from vlm.loading import LoadedBase
from vlm.lora_scope import LoraScope, asked_scope


def scope_of(method: Method, family: Family) -> LoraScope:
    """Return the modules that an adapter of this method reaches on a base of this family."""
    return asked_scope(
        family.lora,
        method.target_modules,
        connector=method.train_connector,
        vision=method.train_vision,
        left_out=method.exclude_modules,
    )


def wrap(base: LoadedBase, method: Method, *, name: str) -> Any:
    """Return the base as a `PeftModel` whose only trainable parameters are LoRA's, in float32.

    A *list* of targets plus `exclude_modules` is the form that PEFT, vLLM and SGLang all read; the list alone would
    also hit the vision tower, whose attention has the same names.

    Args:
        base: The loaded base model; it is changed in place.
        method: Rank, scale, dropout, targets, and what kind of LoRA it is.
        name: What the base is called outside of this machine; PEFT would write the path of its folder.

    Raises:
        WorkFailed: `base_model`, when the method names modules, or a rank, that this base does not have.
    """
    scope = scope_of(method, base.family)
    _check_fit(base.model, scope, method)
    _keep_frozen_inputs_out_of_graph(base.model)
    alpha = method.resolved_alpha
    config = LoraConfig(
        r=method.r,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # some readers of the file take whole numbers only
        lora_dropout=method.dropout,
        target_modules=sorted(scope.targets),
        exclude_modules=scope.exclude_modules,
        init_lora_weights=True if method.init == "default" else method.init,
        use_dora=method.use_dora,
        use_rslora=method.use_rslora,
        bias="none",
    )
    with warnings.catch_warnings():  # peft 0.21 asks the model by a name that transformers 5.23 deprecates
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        model = get_peft_model(base.model, config)
    config.base_model_name_or_path = name  # after wrapping, which puts the folder's path there
    if method.init == "pissa":
        pissa.remember_start(model)
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
        "double_quantization": method.resolved_double_quantization,
        "r": method.r,
        "alpha": method.resolved_alpha,
        "dropout": method.dropout,
        "target_modules": sorted(method.target_modules),
        "exclude_modules": sorted(method.exclude_modules),
        "init": method.init,
        "use_dora": method.use_dora,
        "use_rslora": method.use_rslora,
        "train_connector": method.train_connector,
        "train_vision": method.train_vision,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _check_fit(model: torch.nn.Module, scope: LoraScope, method: Method) -> None:
    """Refuse what PEFT would skip in silence, or end in the middle of."""
    if scope.connector and scope.names.connector is None:
        raise _unfit(
            "the connector of this base model is a part of its vision tower, so method.train_connector has no meaning",
            remedy="Use method.train_vision.",
        )
    linears = {name: each for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    reached = {name for name in linears if scope.reaches(name)}
    if idle := sorted(scope.targets - {name.rsplit(".", 1)[-1] for name in reached}):
        raise _unfit(
            f"method.target_modules reaches no {idle[0]} on this base model",
            remedy="Leave it out of method.target_modules, or less into method.exclude_modules.",
        )
    for part, is_adapted, option in (
        (scope.names.vision, scope.vision, "train_vision"),
        (scope.names.connector, scope.connector, "train_connector"),
    ):
        if is_adapted and not any(part in name.split(".") for name in reached):
            raise _unfit(
                f"method.{option} reaches no layer of the kinds in method.target_modules",
                remedy="Name more kinds in method.target_modules, or less in method.exclude_modules.",
            )
    everything = replace(scope, left_out=())
    for part in scope.left_out:
        alone = replace(scope, left_out=(part,))
        if not any(everything.reaches(name) and alone.excludes(name) for name in linears):
            raise _unfit(
                f"method.exclude_modules names {part!r}, which LoRA would not reach on this base model anyway",
                remedy="Leave it out, or name a part of a module's full name, such as layers.0 or layers.0.mlp.",
            )
    most = min(min(linears[name].in_features, linears[name].out_features) for name in reached)
    if method.init == "pissa" and method.r > most:
        raise _unfit(
            f"method.r {method.r} is more than init pissa finds in this base model's smallest layer",
            remedy=f"Use method.r of {most} or less, or another method.init.",
        )


def _unfit(detail: str, *, remedy: str) -> WorkFailed:
    return WorkFailed(FailureCode.BASE_MODEL, f"The adapter does not fit: {detail}.", remedy=remedy)


def _keep_frozen_inputs_out_of_graph(model: Any) -> None:
    """Let gradient checkpointing hook the text embeddings only.

    LoRA inside the tower or the connector needs no hook: a checkpoint that is not reentrant looks at parameters, too.
    transformers 5.23 hooks the input embeddings of every nested model, the frozen vision tower's too, which then is
    back-propagated through for nothing: 103 GFLOP a step where 54 do (measured on the 256M geometry).
    """

    def hook_text_embeddings() -> None:
        def require_grad(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            output.requires_grad_()

        model._require_grads_hook = model.get_input_embeddings().register_forward_hook(require_grad)  # noqa: SLF001
        model._require_grads_hooks = [model._require_grads_hook]  # noqa: SLF001 - `disable_...` removes these

    model.enable_input_require_grads = hook_text_embeddings
