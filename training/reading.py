"""The first step of a run: its examples, and its base model without the weights. What they hold is planned before more is read."""

from dataclasses import dataclass

from core.child import Child
from core.errors import FailureCode, WorkFailed
from training import device
from training.checkpoint import Checkpoint
from training.distributed import Group
from training.spec import TrainingSpec
from vlm import catalog, loading
from vlm.conversation import Example, read_examples
from vlm.loading import LoadedProcessor, ResolvedBase
from vlm.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a run learns from, and with what.

    Attributes:
        name: What the base is called outside of this machine: its Hub id if it has one.
        licence: Of its weights; `other` when we do not know.
        resolved: Its files.
        base: What it is without its weights, with the image options of the job.
        group: The processes of the run.
        precision: What is computed in.
    """

    name: str
    is_on_hub: bool
    licence: str
    resolved: ResolvedBase
    base: LoadedProcessor
    group: Group
    precision: Precision
    train: list[Example]
    validation: list[Example]


def read(spec: TrainingSpec, child: Child, group: Group, resumed: Checkpoint | None) -> Read:
    """Read the examples and find the base, in the precision that the device allows.

    Raises:
        WorkFailed: There is nothing to train on, or the base cannot be had or cannot cut images as the job asks.
    """
    train, validation = (read_examples(spec.dataset_dir, split=split) for split in ("train", "validation"))
    if not train:
        raise WorkFailed(
            FailureCode.BAD_DATA,
            "The data set has no row to train on.",
            remedy='Give it rows of the split "train".',
        )
    asked = spec.hyperparameters.precision
    if resumed is not None and asked == "auto":
        asked = resumed.record.identity.hyperparameters["precision"]
    precision = device.choose_precision(asked, child.events)
    with group.first_goes_ahead():  # fetches or builds it; of several, transformers lets only the first write a model
        resolved = loading.resolve(spec.base_model, models_dir=spec.models_dir)
    base = loading.load_processor(resolved)
    base.family.set_image_options(base.processor, spec.image)
    child.check_stop()
    entry = catalog.find(resolved.id)
    name = (entry and entry.hub_id) or resolved.id
    return Read(
        name=name,
        is_on_hub=catalog.is_on_hub(name),
        licence=entry.licence if entry else "other",
        resolved=resolved,
        base=base,
        group=group,
        precision=precision,
        train=train,
        validation=validation,
    )
