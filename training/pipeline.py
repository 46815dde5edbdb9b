"""A fine-tuning run as numbered steps: load, prepare, encode the images, train, evaluate, publish.

The loss is in `loss.py`, the label mask in `vlm/labels.py`, the loop in `trainer.py`, what goes through the model together
in `batching.py`, where images come from in `vision.py` and `features/`, what `auto` means in `settings.py`.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import set_seed

from core.child import Child
from core.errors import FailureCode, WorkFailed
from core.events import Phase, Resolved
from core.process import compact_memory
from training import adapter, checkpoint, checks, device, distributed, export, provenance, settings, trainer
from training.card import Card
from training.checkpoint import Checkpoint, Identity
from training.collator import Collator
from training.distributed import Group
from training.encoding import Encoder
from training.evaluate import Evaluator
from training.features.choose import CacheRequest, choose
from training.foresight import foresee
from training.image_sizes import saving_sentence
from training.images import ImageFolder
from training.peaks import Phases
from training.progress import Progress
from training.recovery import Passes
from training.saver import Saver
from training.settings import Schedule
from training.sizes import images_of_run, sizes_of
from training.spec import Hyperparameters, TrainingSpec
from training.vision import CachedVision, Vision
from vlm import catalog, loading
from vlm.conversation import Example, read_examples
from vlm.digest import chat_template_digest, processor_digest
from vlm.loading import LoadedBase
from vlm.measure import Measure
from vlm.precision import Precision
from vlm.ruler import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The base model and the examples, in memory.

    Attributes:
        name: What the base is called outside of this machine: its Hub id if it has one.
        licence: Of its weights; `other` when we do not know.
        group: The processes of the run.
    """

    name: str
    is_on_hub: bool
    licence: str
    base: LoadedBase
    group: Group
    precision: Precision
    train: list[Example]
    validation: list[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that was settled before the first step.

    Attributes:
        images: Tokens of every image that the run needs, by sha256, in the order in which it looks at them.
    """

    model: Any
    encoder: Encoder
    train: tuple[Measure, ...]
    validation: tuple[Measure, ...]
    images: dict[str, int]
    totals: checks.Totals
    schedule: Schedule
    request: CacheRequest
    settings: dict[str, Any]
    provenance: dict[str, Any]
    identity: Identity
    resumed: Checkpoint | None


def fine_tune(spec: TrainingSpec, child: Child) -> dict[str, Any]:
    """Make an adapter in the child's staging folder and return the data of the result event.

    Raises:
        WorkFailed: The data, the base model or the numbers do not allow it.
        StopRequested: The supervisor asked to stop.
    """
    with distributed.joined(spec.resources) as group:
        return _fine_tune(spec, child, group)


def _fine_tune(spec: TrainingSpec, child: Child, group: Group) -> dict[str, Any]:
    began = time.perf_counter()
    set_seed(spec.seed)
    if spec.hyperparameters.compact_memory is True:
        compact_memory()  # before anything large is loaded; `foresee` may choose it later
    phases = Phases(child)
    resumed = _find_checkpoint(spec, child, group)
    phases.enter(Phase.LOADING)
    loaded = _load(spec, child, group, resumed)  # 1
    phases.enter(Phase.PREPARING)
    prepared = _prepare(spec, child, loaded, resumed)  # 2
    with group.first_goes_ahead():
        vision = _encode_images(child, loaded, prepared)  # 3
    child = group.agreed(child)
    phases.enter(Phase.TRAINING)
    progress = _train(spec, child, loaded, prepared, vision, phases)  # 4
    progress.validate(prepared.model)  # 5
    phases.enter(Phase.PUBLISHING)
    metrics = _publish(spec, child, loaded, prepared, progress)  # 6
    phases.leave()
    return {
        "metrics": metrics,
        "peak_memory_bytes": phases.most_bytes,
        "empty_memory_bytes": phases.empty_bytes,
        "peak_memory_by_phase": phases.peaks,
        "duration_s": time.perf_counter() - began,
        "base_revision": loaded.base.revision,
        "supervised_tokens_ratio": prepared.totals.supervised_ratio,
    }


def _find_checkpoint(spec: TrainingSpec, child: Child, group: Group) -> Checkpoint | None:
    """Return what the run goes on from; first of all, because it says what `auto` meant when the run began."""
    if spec.resume_from is None or group.is_sharded:
        return None
    return checkpoint.find(spec.resume_from, events=child.events)


def _load(spec: TrainingSpec, child: Child, group: Group, resumed: Checkpoint | None) -> Loaded:
    """Step 1: read the examples and load the base, in the precision that the device allows."""
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
    base = loading.load(
        resolved,
        quantization=spec.method.resolved_quantization,
        double_quantization=spec.method.resolved_double_quantization,
        dtype=loading.DTYPES[precision],
        spread=spec.resources.parallelism == "model",
        shardable=group.is_sharded,
    )
    base.family.set_image_options(base.processor, spec.image)
    child.check_stop()
    entry = catalog.find(resolved.id)
    name = (entry and entry.hub_id) or resolved.id
    return Loaded(
        name=name,
        is_on_hub=catalog.is_on_hub(name),
        licence=entry.licence if entry else "other",
        base=base,
        group=group,
        precision=precision,
        train=train,
        validation=validation,
    )


def _prepare(spec: TrainingSpec, child: Child, loaded: Loaded, resumed: Checkpoint | None) -> Prepared:
    """Step 2: count every token, refuse what would have to be cut, settle the schedule, wrap the base, and say so."""
    base = loaded.base
    encoder = Encoder(base.processor, base.family, ImageFolder(spec.dataset_dir))
    limits = Limits.of(base)
    train, validation = (
        checks.check(split, encoder, limits, check_stop=child.check_stop) for split in (loaded.train, loaded.validation)
    )
    totals = checks.Totals.of(loaded.train, train, encoder)
    request = CacheRequest(
        trains_vision=spec.method.train_vision,
        trains_connector=spec.method.train_connector,
        cache_dir=spec.features_dir,
        budget_bytes=spec.features_bytes,
    )
    schedule = settings.resolve(
        spec.hyperparameters,
        num_examples=len(loaded.train),
        precision=loaded.precision,
        on_gpu=device.has_gpu(),
        can_pack=base.family.can_pack,
        no_features=request.refusal,
    )
    asked = spec.hyperparameters
    if resumed is not None:
        saved = resumed.record.identity.hyperparameters
        schedule = settings.continued(schedule, asked, saved)
        asked = asked.model_copy(update={name: saved[name] for name in Hyperparameters.model_fields if name in saved})
    for warning in schedule.warnings:
        child.events.log(warning, level="warning")
    images = images_of_run(loaded.train, loaded.validation, schedule, seed=spec.seed, encoder=encoder)
    sizes = sizes_of((loaded.train, train), (loaded.validation, validation), images=images, encoder=encoder)
    schedule = foresee(spec, base, asked, schedule, sizes, child=child)
    model = adapter.wrap(base, spec.method, name=loaded.name)
    image = base.family.image_settings(base.processor)
    settled = {
        "hyperparameters": schedule.document(),
        "method": adapter.document(spec.method, model),
        "image": image,
        "data": totals.document(),
    }
    origin = provenance.collect(
        spec,
        base_model={"id": spec.base_model, "name": loaded.name, "revision": base.revision},
        processor_digest=processor_digest(base.processor),
        chat_template_digest=chat_template_digest(base.processor),
        device=device.describe(),
    )
    child.events.emit(Resolved(settings=settled, provenance=origin))
    child.events.log(totals.sentence(context_tokens=limits.context_tokens))
    saving = saving_sentence(loaded.train, encoder, tokens=totals.tokens, image=image, asked=spec.image)
    if saving is not None:
        child.events.log(saving)
    child.events.log(schedule.sentence())
    identity = Identity.of(settled, origin)
    if resumed is not None:
        checkpoint.check(resumed, identity, versions=origin["versions"], events=child.events)
    return Prepared(
        model=model,
        encoder=encoder,
        train=train,
        validation=validation,
        images=images,
        totals=totals,
        schedule=schedule,
        request=request,
        settings=settled,
        provenance=origin,
        identity=identity,
        resumed=resumed,
    )


def _encode_images(child: Child, loaded: Loaded, prepared: Prepared) -> Vision:
    """Step 3: choose where images come from; with the feature cache every image is looked at here, once."""
    schedule = prepared.schedule
    if not schedule.feature_cache:
        reason = prepared.request.refusal or "hyperparameters.feature_cache is false"
        child.events.log(f"The feature cache is off: {reason}.")
    vision = choose(
        prepared.request,
        loaded.base,
        prepared.encoder,
        wants_cache=schedule.feature_cache,
        precision=schedule.precision,
        tokens=prepared.images,
        child=child,
    )
    if (
        schedule.feature_cache and prepared.images and not isinstance(vision, CachedVision)
    ):  # it was to be, and had no room
        settled = prepared.settings["hyperparameters"] | {"feature_cache": False}
        document = prepared.settings | {"hyperparameters": settled}
        child.events.emit(Resolved(settings=document, provenance=prepared.provenance))
    return vision


def _train(
    spec: TrainingSpec, child: Child, loaded: Loaded, prepared: Prepared, vision: Vision, phases: Phases
) -> Progress:
    """Step 4: run the loop; it emits metrics, saves checkpoints, and validates after each epoch but the last."""
    schedule = prepared.schedule
    collate = partial(
        Collator,
        encoder=prepared.encoder,
        vision=vision,
        pad_token_id=loaded.base.processor.tokenizer.pad_token_id,
        device=loaded.base.model.device,
    )
    passes = Passes(
        schedule.budget,
        child.events,
        checkpoints=schedule.gradient_checkpointing is not False,
        limit=spec.pass_limit,
    )
    evaluator = None
    if loaded.validation:
        evaluator = Evaluator(
            collator=collate(loaded.validation),
            lengths=[measure.tokens for measure in prepared.validation],
            passes=passes,
            precision=schedule.precision,
            group=loaded.group,
        )
    progress = Progress(child, schedule, evaluator, phases)
    saver = Saver(
        child,
        schedule,
        progress,
        identity=prepared.identity,
        versions=prepared.provenance["versions"],
        resumed=prepared.resumed,
        is_sharded=loaded.group.is_sharded,
    )
    loop = trainer.build(
        prepared.model,
        processor=loaded.base.processor,
        steps=trainer.Steps(
            collator=collate(loaded.train),
            measures=prepared.train,
            passes=passes,
            check_stop=child.check_stop,
            group=loaded.group,
        ),
        schedule=schedule,
        seed=spec.seed,
        callbacks=[progress, saver],
        output_dir=child.staging,
    )
    saver.train(loop)
    return progress


def _publish(
    spec: TrainingSpec, child: Child, loaded: Loaded, prepared: Prepared, progress: Progress
) -> dict[str, float | int | None]:
    """Step 6: write the adapter, read it back, and return the final metrics."""
    metrics: dict[str, float | int | None] = {
        "loss": progress.loss,
        **(progress.evaluation.document() if progress.evaluation else {}),
        "trained_steps": progress.step,
        "trained_examples": prepared.schedule.num_trained(progress.step),
    }
    weights = loaded.group.trained_weights(prepared.model)
    if not loaded.group.is_first:
        return metrics
    card = Card(
        name=spec.adapter_name,
        base_model=loaded.name,
        base_is_on_hub=loaded.is_on_hub,
        revision=loaded.base.revision,
        licence=loaded.licence,
        metrics=metrics,
        settings=prepared.settings,
        provenance=prepared.provenance,
    )
    folder = child.staging / export.ADAPTER_FOLDER
    origin = prepared.provenance | {"settings": prepared.settings, "metrics": metrics}
    export.write(prepared.model, folder, weights=weights, processor=loaded.base.processor, card=card, provenance=origin)
    verified = export.verify(folder, prepared.model, family=loaded.base.family, method=spec.method)
    if verified.is_noop:
        child.events.log("The adapter changes nothing: every update is zero. Train longer or faster.", level="warning")
    return metrics
