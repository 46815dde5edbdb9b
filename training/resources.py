"""What a job may ask of the machine: GPUs, processes, and how they share the work. Torch-free, as `training.spec` is."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vlm.precision import Quantization

Parallelism = Literal["ddp", "fsdp", "model"]

ClassName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]

MAX_PROCESSES = 16

_SPLITS_A_LAYER = {"tensor": "tensor", "tp": "tensor", "pipeline": "pipeline", "pp": "pipeline"}
_REFUSED = (
    "{kind} parallelism cannot train an adapter here: it takes the layers of the base apart, and neither LoRA's layers "
    'nor 4-bit and 8-bit ones survive that in PEFT and bitsandbytes; use "ddp", or "fsdp" or "model" for a base that '
    "one GPU does not hold."
)


class Resources(BaseModel):
    """How many GPUs or processes a run has.

    One process trains on one GPU, or on the CPU. Several share every step: its micro-batches are dealt to them, so the
    batch size stays what it is, and so do the numbers of a run, but for what each process draws for dropout and noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    gpus: Annotated[int, Field(ge=0, le=MAX_PROCESSES)] | Literal["auto"] = Field(
        "auto", description="auto: one if the worker has one, else the CPU; 0: the CPU"
    )
    num_processes: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] | Literal["auto"] = Field(
        "auto",
        description="of a run on the CPU (gpus 0), where one for each socket is faster than one with the threads of all; "
        "on GPUs each has a process of its own",
    )
    parallelism: Parallelism | Literal["auto"] = Field(
        "auto",
        description="ddp: each process holds the whole model; fsdp: each holds a part of every layer; model: one process "
        "with some of the layers on each GPU; auto: ddp",
    )

    memory_gb: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        None,
        description="what the run may hold, in 10^9 bytes (on a GPU of its memory, on a CPU of the whole process): what is "
        '"auto" is chosen so that it fits, and what cannot fit is refused; null: what the worker has',
    )
    resource_class: ClassName | None = Field(
        None, alias="class", description="of the worker, as its LENSMITH_WORKER_CLASSES names it; null: any"
    )

    @field_validator("parallelism", mode="before")
    @classmethod
    def _refuse_splitting_layers(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lower() in _SPLITS_A_LAYER:
            raise ValueError(_REFUSED.format(kind=_SPLITS_A_LAYER[value.lower()]))
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.num_processes != "auto" and self.gpus != 0:
            raise ValueError(
                "num_processes is for runs on the CPU: give it with gpus 0, or give gpus alone; each GPU has a process."
            )
        if self.parallelism == "model" and self.num_gpus < 2:
            raise ValueError(
                'parallelism "model" lays the layers of one model on several GPUs; give gpus of 2 or more.'
            )
        if self.parallelism in ("ddp", "fsdp") and self.resolved_processes < 2:
            raise ValueError(
                f'parallelism "{self.parallelism}" needs several processes; give gpus of 2 or more, or leave it out.'
            )
        return self

    @property
    def num_gpus(self) -> int:
        """Return how many GPUs the run cannot do without."""
        return 0 if self.gpus == "auto" else self.gpus

    @property
    def resolved_processes(self) -> int:
        """Return how many processes train together."""
        if self.parallelism == "model":
            return 1
        return max(1, self.num_gpus) if self.num_processes == "auto" else self.num_processes

    @property
    def is_sharded(self) -> bool:
        """Tell whether each process holds a part of every layer only."""
        return self.parallelism == "fsdp"

    @property
    def gpus_per_process(self) -> int:
        """Return how many GPUs one process may see; the first where the worker has any, unless the CPU was asked for."""
        if self.parallelism == "model":
            return self.num_gpus
        return 0 if self.gpus == 0 else 1

    def check_method(self, quantization: Quantization, *, trains_beside_text: bool) -> None:
        """Refuse what the ways of sharing cannot do with the weights of the base.

        Raises:
            ValueError: 8-bit weights are to be sharded: they carry their scales beside them, where `fully_shard` does not
                see them; or more is trained than the text layers, which are what is shared.
        """
        if self.is_sharded and trains_beside_text:
            raise ValueError(
                'resources.parallelism "fsdp" shares the text layers only; with method.train_connector or '
                'method.train_vision use "ddp".'
            )
        if self.is_sharded and quantization == "int8":
            raise ValueError(
                'resources.parallelism "fsdp" cannot shard 8-bit weights; use method.quantization "nf4", or "ddp".'
            )
