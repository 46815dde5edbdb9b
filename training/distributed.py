"""Several processes that train one adapter: who is who, what each does of a step, and how their numbers become one.

Every process sees the same examples in the same order and plans the same micro-batches; it computes its share of them.
Gradients are averaged over the processes, so each scales its losses by their number: the sum is that of one process.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event
from typing import Any

import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule, fully_shard

from core.child import Child
from core.errors import FailureCode, WorkFailed
from training.batching import Budget, MicroBatch, plan
from training.resources import Resources
from vlm.families import family_of

_WAIT = timedelta(hours=24)  # one process may fill the feature cache while others wait; torchrun ends them if it dies


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The processes of a run, and which of them this is.

    Attributes:
        rank: The number of this process; the first one, 0, speaks, writes and publishes.
        size: How many there are.
        is_sharded: Each process holds a part of every layer of the text model, and asks the others for the rest.
    """

    rank: int = 0
    size: int = 1
    is_sharded: bool = False

    @property
    def is_first(self) -> bool:
        """Tell whether this process speaks, writes and publishes."""
        return self.rank == 0

    def plan(self, examples: Sequence[int], lengths: Sequence[int], budget: Budget) -> list[tuple[MicroBatch, bool]]:
        """Return this process's micro-batches of some examples, each with whether it counts.

        Every process gets as many, because those that share layers must ask for them equally often. Where they do not
        come out even, a process goes through the first one again, and that counts nothing.

        Args:
            examples: The same on every process, each an index into `lengths`.
            lengths: Tokens of every example of the split.
            budget: What a forward pass may hold; with several processes it is lowered so that each has something to do.
        """
        micro_batches = plan(examples, lengths, self._share_of(budget, examples, lengths))
        mine = [(micro_batch, True) for micro_batch in micro_batches[self.rank :: self.size]]
        rounds = math.ceil(len(micro_batches) / self.size)
        return mine + [(micro_batches[0], False)] * (rounds - len(mine))

    def total(self, *numbers: float) -> tuple[float, ...]:
        """Return the sums over all processes; all of them must ask."""
        if self.size == 1:
            return numbers
        sums = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(sums)
        return tuple(sums.tolist())

    def agreed(self, child: Child) -> Child:
        """Return a child that hears a stop as soon as any process has, in the same place on all of them."""
        return child if self.size == 1 else replace(child, stop=_AgreedStop(self, child.stop))

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Let the first process do something alone, and the others after it, who find it done."""
        if self.size > 1 and not self.is_first:
            distributed.barrier()
        yield
        if self.size > 1 and self.is_first:
            distributed.barrier()

    @contextmanager
    def local_gradients(self, model: Any) -> Iterator[None]:
        """Keep the gradients of a micro-batch to this process; those of the last one carry all to the others."""
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                model.set_requires_gradient_sync(True)
        elif self.size > 1:
            with model.no_sync():  # DistributedDataParallel
                yield
        else:
            yield

    def seed_dropout(self, seed: int) -> None:
        """Let each process drop other units: the same ones would halve the noise that dropout is for."""
        if not self.is_first:
            torch.manual_seed(seed + self.rank)

    def trained_weights(self, model: Any) -> dict[str, torch.Tensor]:
        """Return everything that was trained, whole; all processes must ask."""
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        return {name: weight.full_tensor() if self.is_sharded else weight.detach() for name, weight in trained.items()}

    def _share_of(self, budget: Budget, examples: Sequence[int], lengths: Sequence[int]) -> Budget:
        if self.size == 1:
            return budget
        num_examples = math.ceil(len(examples) / self.size)
        num_tokens = math.ceil(sum(lengths[example] for example in examples) / self.size)
        return replace(
            budget,
            num_examples=min(budget.num_examples, num_examples),
            pack_tokens=None if budget.pack_tokens is None else min(budget.pack_tokens, num_tokens),
        )


ALONE = Group()


class _AgreedStop(Event):
    """Set as soon as any process is asked to stop; whoever asks waits for the others to ask."""

    def __init__(self, group: Group, mine: Event) -> None:
        super().__init__()
        self._group = group
        self._mine = mine

    def is_set(self) -> bool:
        (asked,) = self._group.total(float(self._mine.is_set()))
        return asked > 0


@contextmanager
def joined(resources: Resources) -> Iterator[Group]:
    """Meet the other processes of the run, and part from them at the end; alone, or where they have met already, do not.

    Raises:
        WorkFailed: `internal`, when the worker has fewer GPUs than the job asks for.
    """
    _require_gpus(resources)
    if resources.resolved_processes == 1:
        yield ALONE
        return
    is_ours = not distributed.is_initialized()
    if is_ours:  # gloo beside nccl, for the numbers that live on the CPU; accelerate takes what is there
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_WAIT)
    try:
        yield Group(rank=distributed.get_rank(), size=distributed.get_world_size(), is_sharded=resources.is_sharded)
    finally:
        if is_ours:
            distributed.destroy_process_group()


def trains_beside_layers(model: Any) -> bool:
    """Tell whether more is trained than the layers of the text model: a micro-batch without images leaves that out."""
    return any(weight.requires_grad for weight in _split(model)[1])


def shard(model: Any) -> None:
    """Leave each process a part of every layer of the text model (FSDP2); call it when all is cast and before training.

    Only these layers are shared. Everything else is whole on each process, because it is not asked for equally often: the
    vision tower sees a micro-batch's images, if it has any, and the head only tokens that are learned. accelerate's own
    FSDP would share all of it, and does not run on a CPU.

    Raises:
        WorkFailed: `internal`, when something else is trained; its gradients would not be added up.
    """
    if trains_beside_layers(model):
        raise WorkFailed(
            FailureCode.INTERNAL,
            "FSDP shares the layers of the text model, and this run trains more than these.",
            remedy='Use resources.parallelism "ddp".',
        )
    layers, beside = _split(model)
    for layer in layers:
        fully_shard(layer)
    fully_shard(model, ignored_params=beside)


def _split(model: Any) -> tuple[list[torch.nn.Module], set[torch.nn.Parameter]]:
    """Return the layers of the text model, and all weights beside them."""
    is_text_layer = family_of(model.config).is_text_layer
    layers = [module for name, module in model.named_modules() if is_text_layer(name)]
    inside = {id(weight) for layer in layers for weight in layer.parameters()}
    return layers, {weight for weight in model.parameters() if id(weight) not in inside}


def _require_gpus(resources: Resources) -> None:
    wanted = min(resources.num_gpus, resources.gpus_per_process)
    if torch.cuda.device_count() < wanted:
        raise WorkFailed(
            FailureCode.INTERNAL,
            f"The job asks for {resources.num_gpus} GPUs, and this worker does not have so many.",
            remedy="Lower resources.gpus, or run a worker that sees as many; with 0 the job runs on the CPU.",
        )
