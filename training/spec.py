"""What a job may ask of training. Torch-free: the API reads it for its rules. `training.settings` resolves `auto`.

Ranges are checked here, once; the worker and the child get a spec that holds.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.pass_limit import PassLimit
from training.resources import Resources
from vlm.image_options import ImageOptions
from vlm.lora_scope import MODULE_NAME
from vlm.precision import Precision, Quantization

Auto = Literal["auto"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(_Options):
    """How the adapter is made: LoRA on the text model, over a base that may be quantized (QLoRA)."""

    type: Literal["qlora", "lora", "auto"] = Field(
        "qlora",
        description="LoRA over a quantized base, or over the base as it is; auto: as it is where memory allows that, else nf4",
    )
    quantization: Quantization | None = Field(None, description="default: nf4 for qlora, none for lora")
    double_quantization: bool | None = Field(
        None, description="quantize the scales of nf4 and fp4, too (0.4 bits a weight); default: yes"
    )
    r: int = Field(8, ge=1, le=256, description="rank of the update")
    alpha: float | None = Field(None, gt=0, le=1024, description="scale of the update; default: twice the rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of LoRA's inputs")
    target_modules: tuple[Literal[LORA_TARGETS], ...] = Field(  # type: ignore[valid-type]
        LORA_TARGETS, min_length=1, description="kinds of linear layers to adapt; default: all of the text model"
    )
    exclude_modules: tuple[Annotated[str, Field(pattern=MODULE_NAME, max_length=128)], ...] = Field(
        (), max_length=64, description="modules to leave as they are, by a part of their names, such as layers.0"
    )
    init: Literal["default", "gaussian", "pissa"] = Field(
        "default", description="how LoRA begins; pissa: from the largest singular values of the weights"
    )
    use_dora: bool = Field(default=False, description="learn magnitude and direction of the weights apart (DoRA)")
    use_rslora: bool = Field(default=False, description="scale by alpha / sqrt(r) instead of alpha / r (rsLoRA)")
    train_connector: bool = Field(default=False, description="LoRA on the connector's linear layers, too")
    train_vision: bool = Field(default=False, description="LoRA on the vision tower's layers of the same kinds, too")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        quantization = self.resolved_quantization
        if self.type == "auto" and self.quantization is not None:
            raise ValueError(
                'type "auto" chooses the quantization itself; leave it out, or use type "qlora" or "lora".'
            )
        if self.type == "lora" and quantization != "none":
            raise ValueError('type "lora" keeps the base as it is; use type "qlora" with a quantization.')
        if self.type == "qlora" and quantization == "none":
            raise ValueError('type "qlora" needs a quantized base; use type "lora" for quantization "none".')
        if self.double_quantization is not None and quantization not in ("nf4", "fp4"):
            raise ValueError(f"double_quantization is for nf4 and fp4, not for {quantization}; leave it out.")
        if self.use_dora and quantization == "int8":
            # bitsandbytes drops an int8 weight's scales after its first pass; DoRA needs the weight in every one
            raise ValueError("use_dora does not work over an int8 base; use nf4, fp4 or none, or turn use_dora off.")
        if self.init == "pissa" and quantization != "none":
            # PiSSA trains what it takes out of the weights; a quantized rest could not be put together with it again
            raise ValueError('init "pissa" needs the base as it is; use type "lora", or another init.')
        return self

    @property
    def resolved_quantization(self) -> Quantization:
        """Return the quantization of the base; as long as it is left to us, none."""
        return self.quantization or ("nf4" if self.type == "qlora" else "none")

    @property
    def resolved_double_quantization(self) -> bool:
        """Return whether the scales of a 4-bit base are quantized, too; False for any other base."""
        if self.resolved_quantization not in ("nf4", "fp4"):
            return False
        return self.double_quantization is not False

    @property
    def settled(self) -> "Method":
        """Return it with the type that it has when memory is enough."""
        return self.model_copy(update={"type": "lora"}) if self.type == "auto" else self

    @property
    def quantized(self) -> "Method | None":
        """Return it over a 4-bit base; None where that is not left to us, or cannot be."""
        return self.model_copy(update={"type": "qlora"}) if self.type == "auto" and self.init != "pissa" else None

    @property
    def resolved_alpha(self) -> float:
        """Return LoRA's alpha."""
        return self.alpha if self.alpha is not None else 2.0 * self.r


class Hyperparameters(_Options):
    """The schedule. Each is a value or `"auto"`; the resolved values come back on the job."""

    epochs: Annotated[float, Field(gt=0, le=1000)] | Auto = Field(
        "auto", description="passes over the training split; auto: 3; not together with max_steps"
    )
    max_steps: Annotated[int, Field(ge=1, le=1_000_000)] | Auto = Field(
        "auto", description="optimizer steps, instead of epochs"
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Auto = Field("auto", description="the highest; auto: 2e-4")
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = Field(
        "auto", description="examples of an optimizer step; auto: 16"
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=512)] | Auto = Field(
        "auto", description="examples of a forward pass; auto: as many as micro_batch_tokens allows"
    )
    micro_batch_tokens: Annotated[int, Field(ge=64, le=1_000_000)] | Auto = Field(
        "auto",
        description="tokens of a forward pass, padding included; changes time and memory, not the result. auto: 8,192 on a "
        "GPU, 2,048 on a CPU, no bound with micro_batch_size",
    )
    packing: bool | Auto = Field(
        "auto",
        description="lay short examples behind each other where that leaves less padding; they do not see each other. auto: "
        "yes, but not with micro_batch_size or neftune_alpha",
    )
    feature_cache: bool | Auto = Field(
        "auto",
        description="look at every image once, before the first step, and keep what the frozen vision tower makes of it. "
        "auto: yes, but not with train_vision",
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | Auto = Field(
        "auto", description="share of the steps over which the rate rises from zero; auto: 0.03"
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] | Auto = Field("auto", description="AdamW's; auto: 0")
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] | Auto = Field(
        "auto", description="gradients are scaled down to this norm; auto: 1"
    )
    lr_scheduler: Scheduler | Auto = Field("auto", description="how the rate falls after the warm-up; auto: linear")
    optimizer: Optimizer | Auto = Field(
        "auto", description="8bit: a quarter of the state; paged: state may leave the GPU; auto: adamw"
    )
    loraplus_lr_ratio: Annotated[float, Field(ge=1, le=1000)] | Auto = Field(
        "auto", description="LoRA+: learning rate of B over that of A; auto is 1, the same"
    )
    neftune_alpha: Annotated[float, Field(ge=0, le=1000)] | Auto = Field(
        "auto", description="NEFTune: noise on the embeddings of tokens; auto is 0, none"
    )
    gradient_checkpointing: bool | Literal["selective"] | Auto = Field(
        "auto",
        description="compute activations again instead of keeping them; selective keeps the outputs of attention, whose "
        "second run costs most. auto: on a GPU",
    )
    activation_offload: bool | Auto = Field("auto", description="keep activations in the host's memory; needs a GPU")
    compact_memory: bool | Auto = Field(
        "auto",
        description="on a CPU give back at once what is freed: about a third less memory, at six tenths of the speed. "
        "auto: no",
    )
    precision: Precision | Auto = Field(
        "auto", description="what to compute in; the adapter is always learned in fp32. auto: what the device does best"
    )
    checkpoint_every: Annotated[int, Field(ge=1, le=1_000_000)] | Auto = Field(
        "auto", description="steps between checkpoints; each epoch's end is saved anyway. auto: about twenty a run"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.max_steps != "auto" and self.epochs != "auto":
            raise ValueError("give epochs or max_steps, not both.")
        if self.activation_offload is True and self.gradient_checkpointing in (False, "selective"):
            # torch 2.14 loses count of the operations in a selective checkpoint whose tensors are moved
            raise ValueError("activation_offload moves what full gradient_checkpointing keeps; set that to true.")
        batch, micro = self.batch_size, self.micro_batch_size
        if isinstance(batch, int) and isinstance(micro, int) and batch % micro:
            raise ValueError(f"batch_size ({batch}) must be a multiple of micro_batch_size ({micro}).")
        return self


def check_sharing(method: Method, resources: Resources) -> None:
    """Refuse what several devices cannot do with this method; raises `ValueError`."""
    resources.check_method(
        method.resolved_quantization, trains_beside_text=method.train_connector or method.train_vision
    )


class TrainingSpec(_Options):
    """Everything that one run needs, resolved to local folders; the child process gets exactly this."""

    base_model: str
    models_dir: Path
    dataset_dir: Path = Field(description="holds records.parquet and images/<sha256>")
    dataset_digest: str
    seed: int = Field(0, ge=0, le=2**31 - 1)
    method: Method = Method()
    hyperparameters: Hyperparameters = Hyperparameters()
    image: ImageOptions = ImageOptions()
    resources: Resources = Resources()
    allow_quality_tradeoff: bool = False
    features_dir: Path | None = Field(None, description="the feature cache; none: every step looks at its images")
    features_bytes: int = Field(0, ge=0, description="what the feature cache may hold, for all jobs together")
    adapter_name: str = Field("adapter", description="for the model card")
    pass_limit: PassLimit | None = Field(None, description="what a run like this one found that memory holds")
    beside_bytes: int | None = Field(
        None, ge=0, description="of the device's memory, free and promised to no other run; none: nobody knows"
    )
    alone_bytes: int | None = Field(
        None, ge=0, description="of the device's memory, when no other run holds any; none: nobody knows"
    )
    resume_from: Path | None = Field(None, description="a folder of checkpoints; the newest whole one is gone on from")

    @model_validator(mode="after")
    def _shardable(self) -> Self:
        check_sharing(self.method, self.resources)
        return self
