"""The second step of a run: every token is counted, and what `auto` means is settled, so that memory holds the run."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from core.child import Child
from training import checks, device, settings
from training.checkpoint import Checkpoint
from training.encoding import Encoder
from training.features.choose import CacheRequest
from training.fit import Recipe
from training.foresight import Prospect, foresee
from training.images import ImageFolder
from training.passes import Sizes
from training.reading import Read
from training.sizes import images_of_run, sizes_of
from training.spec import Hyperparameters, TrainingSpec
from vlm.image_options import ImageOptions
from vlm.measure import Measure
from vlm.ruler import Limits
from vlm.shapes import geometry_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The examples of a run, with pictures cut in one way.

    Attributes:
        images: Tokens of every image that the run needs, by sha256, in the order in which it looks at them.
    """

    encoder: Encoder
    train: tuple[Measure, ...]
    validation: tuple[Measure, ...]
    images: dict[str, int]
    sizes: Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """All that is known of a run before its weights are read."""

    read: Read
    recipe: Recipe
    measured: Measured
    limits: Limits
    request: CacheRequest


def settle(spec: TrainingSpec, child: Child, read: Read, resumed: Checkpoint | None) -> Settled:
    """Count every token, refuse what would have to be cut, settle the recipe, and say what it holds.

    A run that goes on takes what its checkpoint says; only what changes no number is chosen anew.

    Raises:
        WorkFailed: A row cannot be trained on; or the run cannot fit `resources.memory_gb`.
    """
    limits = Limits.of(read.base)
    request = CacheRequest(
        trains_vision=spec.method.train_vision,
        trains_connector=spec.method.train_connector,
        cache_dir=spec.features_dir,
        budget_bytes=spec.features_bytes,
    )
    asked = spec
    schedule = settings.resolve(
        spec.hyperparameters,
        num_examples=len(read.train),
        precision=read.precision,
        on_gpu=device.has_gpu(),
        can_pack=read.base.family.can_pack,
        no_features=request.refusal,
    )
    if resumed is not None:
        schedule = settings.continued(schedule, spec.hyperparameters, resumed.record.identity.hyperparameters)
        asked = _as_it_began(spec, resumed)
    for warning in schedule.warnings:
        child.events.log(warning, level="warning")

    @cache  # of each way to cut pictures
    def measured(image: ImageOptions) -> Measured:
        encoder = Encoder(read.base.processor, read.base.family, ImageFolder(spec.dataset_dir))
        if image != spec.image:
            encoder = encoder.with_options(image)
        train, validation = (
            checks.check(split, encoder, limits, check_stop=child.check_stop) for split in (read.train, read.validation)
        )
        images = images_of_run(read.train, read.validation, schedule, seed=spec.seed, encoder=encoder)
        return Measured(
            encoder=encoder,
            train=train,
            validation=validation,
            images=images,
            sizes=sizes_of((read.train, train), (read.validation, validation), images=images, encoder=encoder),
        )

    recipe = foresee(
        Prospect(
            asked=asked,
            recipe=Recipe(schedule=schedule, method=asked.method.settled, image=asked.image),
            sizes_of=lambda image: measured(image).sizes,
            edges_px=read.base.family.image_rule(read.base.processor).shorter_edges_px,
            geometry=geometry_of(read.base.config.to_dict(), name=spec.base_model, published=read.base.published),
        ),
        child=child,
    )
    return Settled(read=read, recipe=recipe, measured=measured(recipe.image), limits=limits, request=request)


def _as_it_began(spec: TrainingSpec, resumed: Checkpoint) -> TrainingSpec:
    """Return what a job asks for with what was left to us as its run chose it when it began."""
    began = resumed.record.identity
    saved = began.hyperparameters
    known = {name: saved[name] for name in Hyperparameters.model_fields if name in saved}
    update: dict[str, Any] = {"hyperparameters": spec.hyperparameters.model_copy(update=known)}
    if spec.method.type == "auto":
        update["method"] = spec.method.model_copy(update={"type": began.method["type"]})
    if spec.allow_quality_tradeoff and spec.image.longest_edge is None:
        update["image"] = spec.image.model_copy(update={"longest_edge": began.image["longest_edge"]})
    return spec.model_copy(update=update)
