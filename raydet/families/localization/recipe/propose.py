"""Putting a localizer's configuration together: every value with its reason."""

from __future__ import annotations

from raydet.config.box_data import ShapesConfig
from raydet.config.load import resolve_section
from raydet.config.located_data import LocatedDataConfig, LocatedSetConfig
from raydet.config.method import MethodSection
from raydet.data.classes.summary import look_at
from raydet.data.located.table import LocatedTable
from raydet.errors import DataError, UserError
from raydet.families.localization.config import LchpConfig, LocalizationConfig
from raydet.families.localization.data import LOCATED
from raydet.families.localization.recipe import rules
from raydet.recipe.document import Setting
from raydet.recipe.machine import Machine
from raydet.recipe.reading import chosen, read_sets
from raydet.recipe.request import Counts, Recipe, Request
from raydet.recipe.rules import applicable, chosen_method, cluster_settings, data_settings, rhythm, without_val
from raydet.text import plural

Settings = list[Setting]


def propose(request: Request) -> Recipe:
    """Return a configuration that trains well on these images and this machine.

    Raises DataError where the sets cannot be used, UserError where what was asked for cannot be had.
    """
    path, machine = str(request.sets["labeled"]["path"]), request.machine
    if "unlabeled" in request.sets:
        raise UserError("--unlabeled: a localizer learns from images with class labels alone; leave it out")
    tables = read_sets(LOCATED, request)
    names = tables["labeled"].class_names
    if len(names) < 2:
        found = ", ".join(repr(name) for name in names) or "none"
        raise DataError(f"{path}: attention comes from telling two classes or more apart, found {found}")
    table, counts = chosen(LOCATED, LocatedDataConfig, request, tables)
    sides = sides_of(request, table)
    asked = chosen_method(request, LocalizationConfig, counts)
    why = "as asked (--method)" if asked else "two stages: boxes of attention maps, then consistency of the sure ones"
    method, each = asked or LchpConfig, rules.steps(counts.labeled, machine)
    steps = each if method.one_stage else each + each // 2
    settings = [
        Setting("run.dir", request.run_dir),
        *data_settings(request, counts),
        *views(sides[1], machine),
        Setting("model.classifier_backbone", "efficientnet_lite0", "comes with ImageNet weights"),
        Setting("model.localizer_backbone", "efficientnet_lite0", "a network of its own"),
        *method_settings(method, why, counts, each, machine),
        *optimiser(counts, steps, machine),
        *cluster_settings(machine),
        *rhythm(steps, machine, most_on_cpu=1000),
    ]
    present = table.images.images_per_class()
    notes = (
        f"{plural(len(table), 'image')} of {plural(len(names), 'class')} ({present.min():,} to {present.max():,} of "
        f"each); sides {sides[0]} to {sides[2]} pixels; their boxes, if there are any, are not trained on",
        *without_boxes(request, counts, tables["labeled"]),
        *without_val(request, counts),
    )
    return Recipe(tuple(settings), notes)


def sides_of(request: Request, table: LocatedTable) -> tuple[int, int, int]:
    """Return the smallest, median and largest side (pixels). Raises DataError where no image can be decoded."""
    path = str(request.sets["labeled"]["path"])
    if path == "shapes":  # generated again when they are trained on; those that were read are gone
        shapes = resolve_section(LocatedSetConfig, request.sets["labeled"], where=path).shapes or ShapesConfig()
        low, high = sorted((shapes.height, shapes.width))
        return low, (low + high) // 2, high
    look = look_at(table.images)
    if look is None:
        raise DataError(f"{path}: no image could be decoded; `raydet check-data {path}` says why")
    return look.sides


def without_boxes(request: Request, counts: Counts, table: LocatedTable) -> list[str]:
    """Return a note where images are withheld for evaluation and none of them has a box."""
    if counts.val_count is None or len(table.boxes):
        return []
    return ["NO BOX IS MEASURED: no image has one, so that only classes can be. A set with boxes: data.val"]


def views(side: int, machine: Machine) -> Settings:
    """Return the size of views."""
    size, why = rules.view_size(side, machine)
    threads = min(8, max(2, machine.cpus // max(1, machine.gpus)))
    return [
        Setting("data.views.resize", rules.resize(size), "the published ratio, 512 to 448"),
        Setting("data.views.size", size, why),
        Setting("data.views.horizontal_flip", 0.5, "0.0 where left and right differ, as in digits and text"),
        Setting("data.views.test_view", "whole", "objects at the border are measured too; the paper cuts: center"),
        Setting("data.loader_threads", threads, plural(machine.cpus, "core")),
    ]


def method_settings(method: type[MethodSection], why: str, counts: Counts, each: int, machine: Machine) -> Settings:
    """Return the method's name, and those of its settings with a rule; the first stage has `each` steps."""
    epoch = -(-counts.labeled // rules.batch(counts.labeled, machine))
    trained = "classifier and localizer" if "init_reg_weight" in method.model_fields else "the classifier"
    about = "best on one small set with this network, on ImageNet 0.2; boxes too large: raise it"
    shown = "boxes too large: raise it; parts of objects: lower it (see the report); the paper has 0.7 on CUB"
    proposed = [
        Setting("method.burn_in_steps", each, f"first stage: {trained}; half as many steps follow"),
        Setting("method.classifier_decay_steps", epoch, "an epoch: its rate falls by a tenth after each"),
        Setting("method.cam_threshold", 0.6, about),
        Setting("method.localizer_lr", 5e-4, "as the classifier's first"),
        Setting("method.attention_threshold", 0.8, shown),
        Setting("method.crop_confidence_threshold", 0.9, "the paper's; where hardly a box is kept, lower it"),
        Setting("method.refine_lr", 5e-5, "second stage; faster, boxes may grow to the whole image (the log warns)"),
    ]
    return [Setting("method.name", method.called(), why), *applicable(method, proposed)]


def optimiser(counts: Counts, steps: int, machine: Machine) -> Settings:
    """Return batches, rates and lengths."""
    batch = rules.batch(counts.labeled, machine)
    looks = steps * batch / counts.labeled
    return [
        Setting("optim.name", "adamw", "as in the small benchmark (benchmarks/wsol.md); the paper has SGD"),
        Setting("optim.lr", 5e-4, "where the loss turns NaN, a third of it"),
        Setting("optim.labeled_batch", batch, f"of {counts.labeled:,}"),
        Setting(
            "optim.steps",
            steps,
            f"all stages: every image is seen {looks:.0f} times. More images: as their square root",
        ),
        Setting("optim.precision", "auto", f"{machine.precision} here"),
    ]
