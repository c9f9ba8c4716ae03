"""Putting a classifier's configuration together: every value with its reason."""

from __future__ import annotations

import numpy as np

from raydet.config.class_data import ImageDataConfig
from raydet.config.method import MethodSection
from raydet.data.classes.summary import look_at
from raydet.errors import DataError
from raydet.families.classification.config import (
    ClassificationConfig,
    PseudoLabelConfig,
    R2D2Config,
    SupervisedClassifierConfig,
)
from raydet.families.classification.data import IMAGES
from raydet.families.classification.recipe import rules
from raydet.recipe.document import Setting
from raydet.recipe.machine import Machine
from raydet.recipe.reading import chosen, read_sets
from raydet.recipe.request import Counts, Recipe, Request
from raydet.recipe.rules import (
    applicable,
    chosen_method,
    cluster_settings,
    data_settings,
    keep_rate,
    rhythm,
    without_val,
)
from raydet.text import plural, some

Settings = list[Setting]
R2D2_LR = 0.01


def propose(request: Request) -> Recipe:
    """Return a configuration that trains well on these images and this machine.

    Raises DataError where the sets cannot be used, UserError where what was asked for cannot be had.
    """
    path = str(request.sets["labeled"]["path"])
    tables = read_sets(IMAGES, request)
    names = tables["labeled"].class_names
    if len(names) < 2:
        found = ", ".join(repr(name) for name in names) or "none"
        raise DataError(f"{path}: a classifier needs two classes or more, found {found}; one folder or label per class")
    table, counts = chosen(IMAGES, ImageDataConfig, request, tables)
    present = table.images_per_class()
    look = look_at(table)
    if look is None:
        raise DataError(f"{path}: no image could be decoded; `raydet check-data {path}` says why")
    machine = request.machine
    method = chosen_method(request, ClassificationConfig, counts)
    why = "as asked (--method)"
    if method is None:
        method, why = usual_method(counts)
    steps = rules.steps(counts.labeled)
    settings = [
        Setting("run.dir", request.run_dir),
        *data_settings(request, counts),
        *views(look.sides[1], machine),
        Setting("model.network", "efficientnet_lite0", "comes with ImageNet weights; norms keep their statistics"),
        Setting("model.weights", "imagenet"),
        *method_settings(method, why, counts, steps, machine),
        *optimiser(method, counts, steps, machine),
        *cluster_settings(machine),
        *rhythm(steps, machine, most_on_cpu=2000),
    ]
    notes = (
        f"{plural(len(table), 'labelled image')} of {plural(len(table.class_names), 'class')} ({present.min():,} to "
        f"{present.max():,} of each), {counts.unlabeled:,} unlabelled; sides {look.sides[0]} to {look.sides[2]} "
        "pixels",
        *few(table.class_names, present),
        *without_val(request, counts),
    )
    return Recipe(tuple(settings), notes)


def few(names: tuple[str, ...], present: np.ndarray) -> list[str]:
    """Return a note about classes with hardly any image."""
    rare = [repr(name) for name, count in zip(names, present.tolist(), strict=True) if count < 4]
    note = f"fewer than 4 labelled images: {some(rare, 5)}; expect little of them, and label more first"
    return [note] if rare else []


def usual_method(counts: Counts) -> tuple[type[MethodSection], str]:
    """Return the method where none was asked for, and why."""
    if counts.unlabeled:
        why = (
            f"{plural(counts.unlabeled, 'unlabelled image')}; with pretrained weights the network's own "
            "classes are often right"
        )
        return PseudoLabelConfig, why
    return (
        SupervisedClassifierConfig,
        "nothing is unlabelled: with --unlabeled DIR or --labels N other methods are possible",
    )


def views(side: int, machine: Machine) -> Settings:
    """Return the size of views and the augmentation."""
    size, why = rules.view_size(side, machine)
    crop, why_crop = rules.crop(side, size)
    settings = [Setting("data.views.size", size, why), Setting("data.views.crop", crop, why_crop)]
    if crop == "translate":
        settings.append(Setting("data.views.max_translate", size // 16, "a sixteenth of the side, each way"))
    threads = min(8, max(2, machine.cpus // max(1, machine.gpus)))
    return [
        *settings,
        Setting("data.views.horizontal_flip", 0.5, "0.0 where left and right differ, as in digits and text"),
        Setting("data.views.cutout_size", 0, "a hole hides more than it teaches where images are few"),
        Setting("data.loader_threads", threads, plural(machine.cpus, "core")),
    ]


def method_settings(method: type[MethodSection], why: str, counts: Counts, steps: int, machine: Machine) -> Settings:
    """Return the method's name, and those of its settings that there is a rule for."""
    proposed = r2d2(counts, steps, machine) if issubclass(method, R2D2Config) else usual(counts, steps)
    return [Setting("method.name", method.called(), why), *applicable(method, proposed)]


def usual(counts: Counts, steps: int) -> Settings:
    """Return the settings of methods with a burn-in and one stage after it."""
    burn_in = round(0.4 * steps)
    half = f"of {steps} steps: on {counts.labeled:,} labels alone the network is as good as it gets before"
    rate = keep_rate(steps - burn_in)
    looks = f"looks back over {1 / (1 - rate):.0f} steps, of {steps - burn_in} with an average"
    quarter = max(1, steps // 4)
    ramp = f"of {steps} steps; the published 40,000 are for CIFAR"
    scratch = "the published 100 is for training from scratch; not searched"
    return [
        Setting("method.burn_in_steps", burn_in, half),
        Setting("method.score_threshold", 0.8, "labels that the network is not sure of teach nothing"),
        Setting("method.reprediction_interval_steps", quarter, "labelled anew four times in the run"),
        Setting("method.ema_keep_rate", rate, looks),
        Setting("method.consistency_weight", 20.0, scratch),
        Setting("method.ramp_up_steps", quarter, ramp),
    ]


def r2d2(counts: Counts, steps: int, machine: Machine) -> Settings:
    """Return R2-D2's stages, in the proportions of the run on `signdigits`."""
    stages = rules.r2d2_stages(steps)
    labeled, unlabeled = rules.batches(counts.labeled, counts.unlabeled, machine)
    rates = [round(R2D2_LR * share, 6) for share in (1, 2 / 3, 1 / 3, 1 / 30)]
    return [
        Setting(
            "method.burn_in_steps", stages["burn_in"], "stage 1; proportions as in jobs/configs/r2d2_signdigits.yaml"
        ),
        Setting("method.burn_in_batch", labeled, "as optim.labeled_batch"),
        Setting("method.burn_in_lr", R2D2_LR, "SGD on pretrained weights; not searched"),
        Setting("method.d2_steps", stages["d2"], "stage 2 until the first reprediction"),
        Setting("method.reprediction_interval_steps", stages["interval"]),
        Setting("method.repeat_lrs", rates, "the published ratios: 1, 2/3, 1/3, 1/30"),
        Setting("method.finetune_steps", stages["finetune"], "stage 3"),
        Setting("method.finetune_batch", 2 * min(labeled, unlabeled), "labelled and unlabelled images share it"),
        Setting("method.finetune_lr", R2D2_LR / 10, "a tenth"),
        Setting("method.label_step_override", 0.78125, "the published step of a label: 4000 x 0.1 / 512 images"),
    ]


def optimiser(method: type[MethodSection], counts: Counts, steps: int, machine: Machine) -> Settings:
    """Return batches, rates and lengths."""
    labeled, unlabeled = rules.batches(counts.labeled, counts.unlabeled, machine)
    looks = steps * labeled / counts.labeled
    longer = (
        "stages are fixed once a run has begun"
        if method.fixed_length
        else ("where accuracy still rises at the end, raise it and train on with --resume")
    )
    has_own_law = issubclass(method, R2D2Config)
    if has_own_law:
        settings = [
            Setting("optim.name", "sgd", "R2-D2 has a law of its own for the rate"),
            Setting("optim.lr", R2D2_LR, "that of stage 2"),
            Setting("optim.weight_decay", 2e-4, "as published"),
        ]
    else:
        settings = [
            Setting("optim.name", "adamw", "needs no search on small sets"),
            Setting("optim.nesterov", False, "SGD's"),
            Setting("optim.lr", 1e-3, "where the loss turns NaN, a third of it"),
            Setting("optim.weight_decay", 0.05, "usual with AdamW"),
        ]
    settings.append(Setting("optim.labeled_batch", labeled, f"of {counts.labeled:,}"))
    if method.uses_labels:
        settings.append(Setting("optim.unlabeled_batch", unlabeled, f"of {counts.unlabeled:,}"))
    settings.append(
        Setting(
            "optim.steps",
            steps,
            f"160 for 80 labels, more as their square root: every labelled image is seen {looks:.0f} times; {longer}",
        )
    )
    if not has_own_law:
        settings.append(
            Setting("optim.warmup_steps", min(20, steps // 10), "the last layer starts from random weights")
        )
    settings += [
        Setting("optim.clip_norm", 10.0, "one bad batch cannot undo the run"),
        Setting("optim.precision", "auto", f"{machine.precision} here"),
    ]
    if method.uses_labels:
        why = "labels are predicted in groups: several times as fast as one by one"
        settings.append(Setting("labels.forward_images", min(32, unlabeled), why))
    return settings
