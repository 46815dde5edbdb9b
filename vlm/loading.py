"""From a base model's name to a model ready to train or to generate, quantized where it should be and nowhere else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import httpx2
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from core.errors import FailureCode, WorkFailed
from vlm import catalog, placement, tiny
from vlm.demo import build as demo
from vlm.digest import folder_digest
from vlm.families import family_of
from vlm.family import Family
from vlm.precision import Precision, Quantization

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_WEIGHTS_SHARE = 0.6  # of a GPU's free memory, when the layers of one model lie on several; the rest is for activations
_HUB_SETTINGS = ["*.json", "*.jinja", "*.txt", "*.model"]  # never pickles, never code
_HUB_WEIGHTS = ["*.safetensors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedBase:
    """A base model whose files are on this machine.

    Attributes:
        id: The name that was asked for.
        source: The folder with its files.
        revision: The Hub's commit, or the digest of a local folder.
    """

    id: str
    source: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBase:
    """A base model in memory.

    Attributes:
        model: The model, in evaluation mode, on the accelerator if there is one.
        processor: Its processor, as the model's files say, or with the options of whoever read it.
        family: What is known of its kind.
        revision: As in `ResolvedBase`.
        quantization: How the text model's linear layers are stored.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    family: Family
    revision: str
    quantization: Quantization

    @property
    def context_tokens(self) -> int:
        """Return the longest sequence that the model takes."""
        return _context_tokens(self.model.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedProcessor:
    """A base model without its weights: enough to cut images and to count tokens.

    Attributes:
        processor: As the model's files say.
        family: What is known of its kind.
        revision: As in `ResolvedBase`.
        config: What its `config.json` says.
    """

    processor: ProcessorMixin
    family: Family
    revision: str
    config: PretrainedConfig

    @property
    def context_tokens(self) -> int:
        """Return the longest sequence that the model takes."""
        return _context_tokens(self.config)

    @property
    def published(self) -> Precision:
        """Return how the numbers lie in its files; the configuration of a model in memory says how they were loaded."""
        return next((name for name, dtype in DTYPES.items() if dtype == self.config.dtype), "fp32")


def resolve(name: str, *, models_dir: Path, with_weights: bool = True) -> ResolvedBase:
    """Find, build or fetch the files of a base model.

    Args:
        name: A short name of the catalog, a Hub id, or an absolute folder.
        models_dir: Where the bases that Lensmith builds itself are kept.
        with_weights: Whether to fetch the weights from the Hub, too.

    Raises:
        WorkFailed: `base_model`, with what to do about it; `retryable` only when the network failed.
    """
    entry = catalog.find(name)
    if entry is not None and entry.hub_id is None:
        folder = demo.ensure(models_dir) if entry.id == "lensmith-demo" else tiny.ensure(models_dir)
        return ResolvedBase(id=entry.id, source=str(folder), revision=folder_digest(folder))
    if not catalog.is_known(name):
        raise _failure(f"there is no base model {name!r}", remedy="Choose one of GET /base-models or a Hub id.")
    if Path(name).is_absolute():
        return ResolvedBase(id=name, source=name, revision=folder_digest(Path(name)))
    hub_id = name if entry is None or entry.hub_id is None else entry.hub_id
    folder = _fetch(hub_id, with_weights=with_weights)
    return ResolvedBase(id=name if entry is None else entry.id, source=str(folder), revision=folder.name)


def family_in(resolved: ResolvedBase) -> Family:
    """Return the family of a resolved base; reads its configuration only.

    Raises:
        WorkFailed: `base_model`, when the files are not a model that Lensmith knows.
    """
    return family_of(_read_config(resolved))


def load(
    resolved: ResolvedBase,
    *,
    quantization: Quantization,
    dtype: torch.dtype,
    processor: ProcessorMixin | None = None,
    double_quantization: bool = True,
    spread: bool = False,
    shardable: bool = False,
) -> LoadedBase:
    """Load a resolved base model.

    Args:
        resolved: Its files.
        quantization: For the linear layers of the text model; vision tower, connector and head stay in `dtype`.
        dtype: The type of everything else, and of the computation.
        processor: Its processor, where that was read already (`load_processor`).
        double_quantization: Whether the scales of a 4-bit layer are quantized, too.
        spread: Whether to lay the layers on all GPUs that this process sees, instead of on one.
        shardable: Whether to store 4-bit weights as numbers of `dtype`: only those can be sharded (`training.distributed`).

    Raises:
        WorkFailed: `base_model`, when the files are not a model that Lensmith knows, or not all of it; `out_of_memory`,
            when it is to be spread and does not fit.
    """
    config = _read_config(resolved)
    family = family_of(config)
    device_map: dict[str, Any] = {"": "cuda" if torch.cuda.is_available() else "cpu"}
    if spread:
        budgets = [int(_WEIGHTS_SHARE * torch.cuda.mem_get_info(gpu)[0]) for gpu in range(torch.cuda.device_count())]
        device_map = placement.plan(
            config, family, quantization=quantization, dtype=dtype, budgets_bytes=budgets
        ).device_map
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            resolved.source,
            dtype=dtype,
            quantization_config=_quantization_config(
                quantization, family, dtype, double=double_quantization, shardable=shardable
            ),
            device_map=device_map,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        model, told = loaded
        processor = _read_processor(resolved) if processor is None else processor
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # a RuntimeError that is not about the files
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _incomplete(resolved, str(error)) from error
    if missing := sorted(told["missing_keys"]):
        # transformers fills what is missing with random numbers and goes on
        raise _incomplete(resolved, f"{len(missing)} tensors are missing, such as {missing[0]}")
    keep_gradients_exact(model)
    return LoadedBase(
        model=model.eval(),
        processor=processor,
        family=family,
        revision=resolved.revision,
        quantization=quantization,
    )


def load_processor(resolved: ResolvedBase) -> LoadedProcessor:
    """Load what a resolved base is without its weights.

    Raises:
        WorkFailed: `base_model`, when the files are not a model that Lensmith knows.
    """
    config = _read_config(resolved)
    try:
        processor = _read_processor(resolved)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _incomplete(resolved, str(error)) from error
    return LoadedProcessor(
        processor=processor,
        family=family_of(config),
        revision=resolved.revision,
        config=config,
    )


def is_built(name: str, *, models_dir: Path) -> bool:
    """Tell whether `resolve` has nothing to build for this name."""
    entry = catalog.find(name)
    if entry is None or entry.hub_id is not None:
        return True
    folder = demo.folder(models_dir) if entry.id == "lensmith-demo" else tiny.folder(models_dir)
    return folder.is_dir()


def preferred_dtype() -> torch.dtype:
    """Return the type to compute in, by what the hardware really does.

    `torch.cuda.is_bf16_supported()` also says yes where bfloat16 is emulated (a T4), so the compute capability decides.
    A CPU needs instructions for bfloat16: with AVX512-BF16 a QLoRA step of `lensmith-demo` is about twice as fast as
    in float32 (5.1 against 2.1 examples/s on one thread), without them it is slower.
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def keep_gradients_exact(model: torch.nn.Module) -> None:
    """Forbid bitsandbytes to repack 4-bit weights on CPUs with AVX512-BF16.

    bitsandbytes 0.50.2 repacks a layer in the first evaluation pass; the training steps after it run through a
    kernel without a gradient for its input, and the layers below learn from noise while the loss looks right
    (`bitsandbytes/nn/modules.py`, `Linear4bit.forward`).
    """
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _quantization_config(
    quantization: Quantization, family: Family, dtype: torch.dtype, *, double: bool, shardable: bool
) -> BitsAndBytesConfig | None:
    skipped = list(family.quantization_skip)
    if quantization == "none":
        return None
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if shardable else torch.uint8,
        llm_int8_skip_modules=skipped,
    )


def _read_processor(resolved: ResolvedBase) -> ProcessorMixin:
    processor = AutoProcessor.from_pretrained(resolved.source, trust_remote_code=False, local_files_only=True)  # type: ignore[no-untyped-call]
    assert isinstance(processor, ProcessorMixin)
    if processor.chat_template is None:
        raise _incomplete(resolved, "the processor has no chat template")
    return processor


def _context_tokens(config: PretrainedConfig) -> int:
    return int(config.get_text_config().max_position_embeddings)


def _read_config(resolved: ResolvedBase) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(resolved.source, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _failure(
            f"the configuration of {resolved.id!r} cannot be read: {error}",
            remedy="Choose a model of GET /base-models, or another of their kinds whose folder has a config.json.",
        ) from error
    assert isinstance(config, PretrainedConfig)
    return config


def _fetch(hub_id: str, *, with_weights: bool) -> Path:
    """Return the snapshot of a Hub model; without a network, what the cache holds of it.

    Without weights not even their index is fetched: by that `catalog.is_local` knows a model that is whole.
    """
    wanted: dict[str, Any] = {"allow_patterns": _HUB_SETTINGS, "ignore_patterns": [catalog.WEIGHTS_INDEX]}
    if with_weights:
        wanted = {"allow_patterns": _HUB_SETTINGS + _HUB_WEIGHTS}
    try:
        folder = Path(snapshot_download(hub_id, **wanted))
    except GatedRepoError as error:
        raise _failure(
            f"the weights of {hub_id!r} are gated",
            remedy="Accept the model's terms on the Hub and set HF_TOKEN for the worker.",
        ) from error
    except RepositoryNotFoundError as error:
        raise _failure(
            f"there is no public model {hub_id!r} on the Hub",
            remedy="Check the spelling; for a private model set HF_TOKEN for the worker.",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, httpx2.TransportError) as error:
        raise _not_here(hub_id) from error
    if with_weights and not any(folder.glob("*.safetensors")):  # a preview was here before, and the network is away
        raise _not_here(hub_id)
    return folder


def _not_here(hub_id: str) -> WorkFailed:
    return _failure(
        f"the weights of {hub_id!r} are not on this machine and the Hub cannot be reached",
        remedy="Put the model into the Hugging Face cache, give an absolute folder, or retry with a network; "
        "`lensmith-demo` works offline.",
        retryable=True,
    )


def _incomplete(resolved: ResolvedBase, reason: str) -> WorkFailed:
    return _failure(
        f"the files of {resolved.id!r} do not load: {reason}",
        remedy="Give a complete model folder with config.json, *.safetensors and the processor's files.",
    )


def _failure(detail: str, *, remedy: str, retryable: bool = False) -> WorkFailed:
    return WorkFailed(FailureCode.BASE_MODEL, detail, remedy=remedy, retryable=retryable)
