"""One labelling from its beginning, or from where it was left, to coco.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from raydet.errors import ConfigError
from raydet.image_jobs.file_model import FileModel
from raydet.image_jobs.listing import open_images
from raydet.image_jobs.run import Begun, JobOptions, beginning, check_options
from raydet.image_jobs.words import Words
from raydet.label_files.coco import Exported, export_coco
from raydet.label_files.labeller import Labelling
from raydet.registry import family_of
from raydet.text import plural
from raydet.train.rundir import flat
from raydet.train.saved import SavedModel, load_saved
from raydet.vision.digests import digest

PIECE_IMAGES = 16  # labelled by one call, at least
WORDS = Words("labelling", "labels", "label", "labelled", "label.json", ("coco.json",))


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelOptions(JobOptions):
    """What `raydet label` was asked to do."""

    checkpoint: Path  # run or checkpoint folder
    role: str | None = None  # teacher or student
    score_threshold: float | None = None  # None: the method's
    batch: int = 1
    precision: str = "fp32"
    shard_images: int = 512


def label(options: LabelOptions) -> Exported:
    """Label what is not labelled yet, then write coco.json and skipped.csv.

    Raises UserErrors for what was asked for wrongly, RunError where nothing could be labelled or actors keep dying.
    """
    _check(options)
    saved = load_saved(options.checkpoint, role=options.role)
    model = family_of(saved.config).on_files(saved)
    above = score_thresholds(saved, model, options.score_threshold)
    images = open_images(options.images, options.root)
    images = replace(images, store=replace(images.store, gray16_range=model.gray16_range))
    settings = settings_of(saved, model, options.precision)
    with beginning(images, settings, options, WORDS, model=called(saved)) as job:
        print(
            f"{saved.role} of {saved.checkpoint.path}: {plural(job.listing.count, 'image')} of "
            f"{images.given} -> {job.folder}"
        )
        device = "cuda" if options.gpus_per_actor else "cpu"
        if device == "cpu" and torch.cuda.is_available():
            print("note: there is a GPU here that will not be used; --gpus-per-actor 1 uses it")
        piece = math.ceil(PIECE_IMAGES / options.batch) * options.batch
        job.work_off(Labelling(model, device, options.precision, options.batch), piece)
        return _export(job, saved, above, masks=model.has_masks)


def called(saved: SavedModel) -> str:
    """Return what messages call a model: its step and where it lies."""
    return f"{saved.role} of step {saved.checkpoint.step} ({saved.checkpoint.path})"


def settings_of(saved: SavedModel, model: FileModel[Any], precision: str) -> dict[str, Any]:
    """Return everything that the labels depend on, except the images; by dotted key."""
    settings = {
        "model": {"role": saved.role, "weights": digest(saved.model.state_dict()), "class_names": saved.class_names},
        "config": model.settings(),
        "precision": precision,
    }
    return flat(json.loads(json.dumps(settings)))


def score_thresholds(saved: SavedModel, model: FileModel[Any], given: float | None) -> Sequence[float]:
    """Return what a label's class confidence must exceed, by class: what is given, else what the method trains with."""
    own = model.thresholds if given is None else [given] * len(saved.class_names)
    if own is None:
        name = saved.config.method.name
        raise ConfigError(
            f"--score-threshold is missing: the model was trained with method.name={name}, which has no threshold "
            f"for pseudo-boxes; give one, e.g. --score-threshold 0.7"
        )
    return own


def _check(options: LabelOptions) -> None:
    if options.batch < 1:
        raise ConfigError("--batch must be 1 or more")
    if options.score_threshold is not None and not 0 <= options.score_threshold < 1:
        raise ConfigError(f"--score-threshold {options.score_threshold:g}: expected a number in [0, 1)")
    if options.actors == 0 and options.gpus_per_actor and not torch.cuda.is_available():
        raise ConfigError("--gpus-per-actor with --actors 0: no GPU here")
    check_options(options)


def _export(job: Begun, saved: SavedModel, above: Sequence[float], *, masks: bool) -> Exported:
    skipped, folder = job.export_skipped(), job.folder
    found = export_coco(job.shards(), folder / "coco.json", saved.class_names, above=above, masks=masks)
    limits = " to ".join(f"{each:g}" for each in sorted({min(above), max(above)}))
    print(
        f"{plural(found.images, 'image')} labelled, {plural(found.boxes, 'box')} with a score above {limits} "
        f"({plural(found.empty, 'image')} without one), {plural(found.skipped, 'image')} "
        f"skipped{f' (see {folder}/skipped.csv)' if skipped else ''}\n"
        f"{folder / 'coco.json'}"
    )
    return found
