"""What a worker knows of its memory: the limit that runs like this one have learned on a device like this one."""

import hashlib
import json

from sqlmodel import Session

from models import memory_limit
from models.job import Job
from models.memory_limit import MemoryLimit
from training.batching import Budget
from training.pass_limit import PassLimit
from worker.capacity import device_name

_OF_MEMORY = (
    "precision",
    "optimizer",
    "gradient_checkpointing",
    "activation_offload",
    "feature_cache",
    "compact_memory",
)


class Limits:
    """The limit of one job's configuration on this worker's device."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._device = device_name()

    def find(self, session: Session) -> PassLimit | None:
        """Return what was learned, if anything was."""
        found = memory_limit.find(session, self.key)
        return None if found is None else PassLimit.model_validate(found)

    def learn(self, session: Session, limit: PassLimit) -> None:
        """Keep a limit for the next run like this one."""
        row = MemoryLimit(
            key=self.key, device=self._device, base_model=self._job.base_model, limit=limit.model_dump(mode="json")
        )
        memory_limit.learn(session, row)

    def next(self, session: Session) -> PassLimit | None:
        """Return half of what a run that was killed had; None: nothing is left to halve, or nobody knows what it had."""
        settings = self._job.settings
        if settings is None:
            return None
        used, longest = settings["hyperparameters"], settings["data"]["longest_tokens"]
        budget = Budget(num_examples=used["micro_batch_size"], num_tokens=used["micro_batch_tokens"])
        checkpoints = used["gradient_checkpointing"] is not False
        known = self.find(session)
        if known is not None:
            budget, checkpoints = known.applied(budget), checkpoints or known.gradient_checkpointing
        return PassLimit.halved(budget, longest_tokens=longest, gradient_checkpointing=checkpoints)

    @property
    def key(self) -> str:
        """Return what runs that take the same memory have in common: how a pass is made, and on what."""
        request = self._job.request
        asked = request["hyperparameters"]
        of_memory = {name: asked[name] for name in _OF_MEMORY if name in asked}
        document = {
            "device": self._device,
            "base_model": self._job.base_model,
            "method": request["method"],
            "image": request["image"],
            "resources": request.get("resources", {}),
            "hyperparameters": of_memory,
        }
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
