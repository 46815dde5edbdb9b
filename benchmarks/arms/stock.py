"""The stock arms: the cookbook's recipe as it is, and TRL's `SFTTrainer` with the adapter that Lensmith makes.

Source of the recipe: Hugging Face cookbook, `fine_tuning_smol_vlm_sft_trl`. What differs: the base and the data are ours, and
attention is SDPA (FlashAttention 2 needs a GPU).
"""

import time
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from benchmarks.arms import scoring
from benchmarks.arms.clock import EpochClock, counting, peak_bytes
from benchmarks.arms.figures import Figures, Plan
from benchmarks.arms.workload import BATCH_SIZE, EPOCHS, SEED
from training import adapter
from training.spec import Method
from vlm import loading
from vlm.conversation import IMAGES_FOLDER, read_examples
from vlm.families import family_of
from vlm.image_options import ImageOptions
from vlm.labels import IGNORED

LEARNING_RATE = 1e-4  # the cookbook's
MICRO_BATCH_SIZE = 4  # the cookbook's
_FEATURES = Features(
    {"images": List(Image()), "messages": List(Features({"role": Value("string"), "content": Value("string")}))}
)


def cookbook(plan: Plan) -> Figures:
    """Run the cookbook's recipe: NF4 everywhere but the head, DoRA on every module that bears a target's name."""
    set_seed(SEED)
    dtype = loading.DTYPES[plan.precision]
    quantized = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    device = {"": "cuda" if torch.cuda.is_available() else "cpu"}
    model = AutoModelForImageTextToText.from_pretrained(
        plan.base, dtype=dtype, quantization_config=quantized, device_map=device
    )
    loading.keep_gradients_exact(model)  # else its gradients are wrong after an evaluation; costs nothing
    processor: Any = AutoProcessor.from_pretrained(plan.base)  # type: ignore[no-untyped-call]
    family_of(model.config).set_image_options(processor, ImageOptions(longest_edge=plan.longest_edge_px))
    began = time.perf_counter()
    wrapped = get_peft_model(
        model,
        LoraConfig(
            r=8,
            lora_alpha=8,
            lora_dropout=0.1,
            target_modules=["down_proj", "o_proj", "k_proj", "q_proj", "gate_proj", "up_proj", "v_proj"],
            use_dora=True,
            init_lora_weights="gaussian",
        ),
    )
    arguments = _arguments(
        plan, gradient_accumulation_steps=4, warmup_steps=50, weight_decay=0.01, optim="adamw_torch_fused"
    )
    return _train(plan, _trainer(plan, wrapped, processor, arguments), began)


def plain(plan: Plan) -> Figures:
    """Run the stock arm without gradient checkpointing, which on a CPU a careful user would turn off.

    With it goes the hook that drags the frozen vision tower into the graph.
    """
    return stock(plan, checkpoints=False)


def stock(plan: Plan, *, checkpoints: bool = True) -> Figures:
    """Run TRL's loop with Lensmith's base, adapter, labels and schedule, and everything else as TRL has it.

    Two things are not TRL's: the line break after an answer is not learned, and the adapter stays float32 (TRL makes it
    bfloat16 over a quantized base). Without them the loss curves would differ by what is learned, not by how.
    """
    set_seed(SEED)
    resolved = loading.resolve(str(plan.base), models_dir=plan.scratch)
    base = loading.load(resolved, quantization="nf4", dtype=loading.DTYPES[plan.precision])
    base.family.set_image_options(base.processor, ImageOptions(longest_edge=plan.longest_edge_px))
    began = time.perf_counter()
    method = Method()
    scope = adapter.scope_of(method, base.family)
    wrapped = get_peft_model(
        base.model,
        LoraConfig(
            r=method.r,
            lora_alpha=int(method.resolved_alpha),
            lora_dropout=method.dropout,
            target_modules=sorted(scope.targets),
            exclude_modules=scope.exclude_modules,
        ),
    )
    accumulation = BATCH_SIZE // MICRO_BATCH_SIZE
    arguments = _arguments(
        plan,
        gradient_accumulation_steps=accumulation,
        optim="adamw_torch",
        assistant_only_loss=True,
        activation_checkpointing=checkpoints,
    )
    trainer = _trainer(plan, wrapped, base.processor, arguments)
    trainer.data_collator = AnswersOnly(
        trainer.data_collator, base.family.end_token_id(trainer.processing_class.tokenizer)
    )
    adapter.keep_float32(wrapped)
    return _train(plan, trainer, began)


class AnswersOnly:
    """TRL's collator without the label of the line break after each answer."""

    def __init__(self, collator: DataCollatorForVisionLanguageModeling, end_token_id: int) -> None:
        self._collator = collator
        self._end_token_id = end_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch as TRL makes it."""
        batch: dict[str, torch.Tensor] = self._collator(rows)
        after_end = batch["input_ids"].roll(1, dims=1) == self._end_token_id
        batch["labels"][after_end] = IGNORED
        return batch


def _arguments(plan: Plan, **own: Any) -> SFTConfig:
    return SFTConfig(
        output_dir=str(plan.scratch),
        num_train_epochs=1 if plan.counts_flops else EPOCHS,
        per_device_train_batch_size=MICRO_BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        bf16=plan.precision == "bf16",
        fp16=plan.precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        max_length=None,
        seed=SEED,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **own,
    )


def _trainer(plan: Plan, model: Any, processor: Any, arguments: SFTConfig) -> Any:
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=_rows(plan), processing_class=processor)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _rows(plan: Plan) -> Dataset:
    """Return the examples in the form that TRL documents for pictures; they are decoded when a batch is made."""
    pictures = plan.train / IMAGES_FOLDER
    return Dataset.from_list(
        [
            {
                "images": [str(pictures / name) for name in example.images],
                "messages": [{"role": message.role, "content": message.text} for message in example.messages],
            }
            for example in read_examples(plan.train)
        ],
        features=_FEATURES,
    )


def _train(plan: Plan, trainer: Any, began: float) -> Figures:
    clock, flops = EpochClock(), list[int]()
    trainer.add_callback(clock)
    with counting(flops, is_on=plan.counts_flops):
        trainer.train()
    peak = peak_bytes()
    model, processor = trainer.model, trainer.processing_class
    family = family_of(model.get_base_model().config)
    return Figures(
        preparing_s=clock.marks_s[0] - began,
        epochs_s=clock.epochs_s,
        losses=clock.losses,
        validation_loss=scoring.validation_loss(model, processor, family, plan),
        peak_bytes=peak,
        flops=flops[0] * EPOCHS if flops else None,
    )
