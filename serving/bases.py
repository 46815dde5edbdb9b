"""Bases in memory and the adapters attached to them. PEFT's active adapter is global: only the owner thread comes here."""

import gc
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel

from core.errors import Invalid
from core.logs import get_logger
from serving.adapters import AdapterStore
from serving.lora_files import Target, check_lora
from serving.wire import AdapterRef
from vlm import loading
from vlm.loading import LoadedBase
from vlm.precision import Precision, Quantization

PROCESSOR_FILE = "processor_config.json"

log = get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Base:
    """One loaded base.

    Attributes:
        name: As requests name it.
        loaded: Model, processor and family. PEFT puts its layers into this same model.
        linears: (in, out) features of the linear modules, by the names they had before PEFT wrapped them.
        peft: The switchboard of adapters; None until the first one is attached.
        processors: The processor of every attached adapter by its sha256, the longest unused first.
    """

    name: str
    loaded: LoadedBase
    linears: dict[str, tuple[int, int]]
    peft: Any = None
    processors: OrderedDict[str, Any] = field(default_factory=OrderedDict)

    def processor(self, adapter: AdapterRef | None) -> Any:
        """Return the processor that an adapter was trained with, or the base's own."""
        return self.loaded.processor if adapter is None else self.processors[adapter.sha256]

    @contextmanager
    def using(self, adapter: AdapterRef | None) -> Iterator[Any]:
        """Yield the model with exactly this attached adapter at work, or none."""
        model: Any = self.loaded.model
        if self.peft is None:
            assert adapter is None
            yield model
        elif adapter is None:
            with self.peft.disable_adapter():
                yield model
        else:
            self.peft.set_adapter(adapter.sha256, inference_mode=True)
            yield model


class Bases:
    """The bases in memory, the longest unused first to go; likewise the adapters of each."""

    def __init__(
        self,
        *,
        models_dir: Path,
        adapters: AdapterStore,
        quantization: Quantization,
        dtype: Precision | Literal["auto"],
        max_bases: int,
        max_adapters: int,
    ) -> None:
        self._models_dir = models_dir
        self._store = adapters
        self._quantization = quantization
        self._dtype = loading.preferred_dtype() if dtype == "auto" else loading.DTYPES[dtype]
        self._max_bases = max_bases
        self._max_adapters = max_adapters
        self._bases: OrderedDict[str, Base] = OrderedDict()

    def names(self) -> tuple[str, ...]:
        """Return the names of the loaded bases."""
        return tuple(self._bases)

    def adapters(self) -> tuple[str, ...]:
        """Return the sha256 of every attached adapter."""
        return tuple(sha256 for base in self._bases.values() for sha256 in base.processors)

    def has(self, name: str, adapter: AdapterRef | None) -> bool:
        """Tell whether a request can run without loading anything."""
        base = self._bases.get(name)
        return base is not None and (adapter is None or adapter.sha256 in base.processors)

    def get(self, name: str, adapter: AdapterRef | None) -> Base:
        """Return a base with the adapter attached, loading what is not there.

        Raises:
            WorkFailed: The base cannot be had.
            NotFound: Storage does not hold the adapter.
            Conflict: The adapter's files are damaged.
            Invalid: The adapter does not fit the base.
        """
        if name not in self._bases:
            self._load(name)
        self._bases.move_to_end(name)
        base = self._bases[name]
        if adapter is not None:
            self._attach(base, adapter)
        return base

    def _load(self, name: str) -> None:
        resolved = loading.resolve(name, models_dir=self._models_dir)
        loading.family_in(resolved)  # what is no model at all may not push out one that answers
        while len(self._bases) >= self._max_bases:
            self._drop(next(iter(self._bases)))
        loaded = loading.load(resolved, quantization=self._quantization, dtype=self._dtype)
        self._bases[name] = Base(name=name, loaded=loaded, linears=_linears(loaded.model))
        log.info("base loaded", base=name, revision=loaded.revision, quantization=loaded.quantization)

    def _drop(self, name: str) -> None:
        del self._bases[name]
        gc.collect()  # PEFT's layers and their model refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.info("base dropped", base=name)

    def _attach(self, base: Base, adapter: AdapterRef) -> None:
        if adapter.sha256 in base.processors:
            base.processors.move_to_end(adapter.sha256)
            return
        folder = self._store.local_folder(adapter)
        loaded = base.loaded
        target = Target(
            base=base.name, linears=base.linears, names=loaded.family.lora, quantization=loaded.quantization
        )
        check_lora(folder, target)
        processor = _processor(base, folder)
        try:
            self._plug_in(base, adapter, folder)
        except BaseException:  # a half-attached adapter must never answer: load the base afresh next time
            self._drop(base.name)
            raise
        base.processors[adapter.sha256] = processor
        while len(base.processors) > self._max_adapters:
            victim, _ = base.processors.popitem(last=False)
            base.peft.delete_adapter(victim)
        log.info("adapter attached", base=base.name, adapter=adapter.sha256)

    def _plug_in(self, base: Base, adapter: AdapterRef, folder: Path) -> None:
        """Attach the adapter and make it the active one, so that a victim of eviction never is."""
        model = base.loaded.model
        device = str(model.device)
        with warnings.catch_warnings():  # peft 0.21 asks the model by a name that transformers 5.23 deprecates
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            if base.peft is None:
                base.peft = PeftModel.from_pretrained(model, folder, adapter_name=adapter.sha256, torch_device=device)
            else:
                base.peft.load_adapter(folder, adapter_name=adapter.sha256, torch_device=device)
        base.peft.set_adapter(adapter.sha256, inference_mode=True)


def _linears(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Return the features of every linear module; quantized ones are linear modules, too."""
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def _processor(base: Base, folder: Path) -> Any:
    """Return the processor that lies beside the adapter, so that serving cuts images as training did.

    Raises:
        Invalid: It is no processor of this base: other tokens would reach the model as noise, or as a crash.
    """
    own: Any = base.loaded.processor
    rule = base.loaded.family.image_rule
    if not (folder / PROCESSOR_FILE).is_file():
        return own
    try:
        found = type(own).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _foreign(f"its processor does not load ({type(error).__name__})") from error
    if found.tokenizer.get_vocab() != own.tokenizer.get_vocab() or rule(found).unit != rule(own).unit:
        raise _foreign("its processor makes other tokens than the base's")
    return found


def _foreign(reason: str) -> Invalid:
    return Invalid(f"The adapter cannot be served: {reason}.", code="adapter_incompatible")
