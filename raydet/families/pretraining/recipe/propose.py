"""Putting a pre-training run's configuration together: every value with its reason."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np

from raydet.config.proposal_data import GRID
from raydet.data.boxes.source import Table
from raydet.errors import UserError
from raydet.families.pretraining.config import AdeptConfig, PretrainingConfig
from raydet.families.pretraining.data import PROPOSED
from raydet.families.pretraining.recipe import rules
from raydet.recipe.document import Setting
from raydet.recipe.machine import Machine
from raydet.recipe.reading import read_sets
from raydet.recipe.request import Counts, Recipe, Request
from raydet.recipe.rules import chosen_method, cluster_settings, rhythm, shortest, val_count
from raydet.text import plural

Settings = list[Setting]


def propose(request: Request) -> Recipe:
    """Return a configuration that suits these images and this machine, and the command that makes its proposals.

    Raises DataError where the images cannot be used, UserError where what was asked for cannot be had.
    """
    if "unlabeled" in request.sets or request.labels is not None:
        option = "--unlabeled" if "unlabeled" in request.sets else "--labels"
        raise UserError(f"{option}: pre-training learns from images without labels, which DATASET names; leave it out")
    table, machine = read_sets(PROPOSED, request)["labeled"], request.machine
    has_boxes, withheld = len(table.classes) > 0, None
    if "val" not in request.sets and has_boxes:
        withheld = val_count(len(table)) or None
    counts = Counts(len(table) - (withheld or 0), 0, withheld)
    asked = chosen_method(request, PretrainingConfig, counts)
    why = "as asked (--method)" if asked else "backbone, head and region proposals"
    size, why_size = rules.view_size(int(np.median(table.sizes.min(axis=1))), machine)
    batch = rules.batch(counts.labeled, machine)
    steps = rules.steps(counts.labeled, batch, machine)
    is_generated = str(request.sets["labeled"]["path"]) == "shapes"
    proposals = GRID if is_generated else f"{request.run_dir}-proposals"
    settings = [
        Setting("run.dir", request.run_dir),
        *images(request, counts, proposals),
        *views(size, why_size, machine),
        *network(size, machine),
        Setting("method.name", (asked or AdeptConfig).called(), why),
        *optimiser(counts.labeled, batch, steps, machine),
        *cluster_settings(machine),
        *rhythm(steps, machine, most_on_cpu=200),
    ]
    heights, widths = table.sizes[:, 0], table.sizes[:, 1]
    notes = [
        f"{plural(counts.labeled, 'image')} to learn from, of {widths.min()} x {heights.min()} to {widths.max()} x "
        f"{heights.max()} pixels; boxes, if there are any, are not seen"
    ]
    if "val" not in request.sets and withheld is None:
        notes.append("RECALL IS NOT MEASURED: no image with boxes is there for it. Name some as data.val")
    if is_generated:
        return Recipe(tuple(settings), tuple(notes))
    first = f"raydet proposals {shlex.quote(folder_of(table))} --out {shlex.quote(proposals)}"
    stand_in = {} if Path(proposals).exists() else {"data.proposals": GRID}
    return Recipe(tuple(settings), tuple(notes), first=(first,), stand_in=stand_in)


def folder_of(table: Table) -> str:
    """Return the folder that holds all images, relative to the working directory where it lies below."""
    parents = {str((table.root / file).parent) for file in table.files}
    folder = Path(os.path.commonpath(parents))
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def images(request: Request, counts: Counts, proposals: str) -> Settings:
    """Return where images and proposals come from."""
    sets = request.sets
    found = [
        Setting("data.images", shortest(sets["labeled"]), "relative paths start at the working directory"),
        Setting(
            "data.proposals",
            proposals,
            "the same boxes in every image" if proposals == GRID else "made first, by the command above",
        ),
    ]
    if "val" in sets:
        found.append(Setting("data.val", shortest(sets["val"]), "recall of the region proposals is measured there"))
    elif counts.val_count is not None:
        why = f"images with boxes that are withheld ({counts.val_count}): recall is measured there. Own ones: data.val"
        found.append(Setting("data.val_count", counts.val_count, why))
    return found


def views(size: int, why: str, machine: Machine) -> Settings:
    """Return the size of views."""
    threads = min(8, max(2, machine.cpus // max(1, machine.gpus)))
    return [
        Setting("data.views.size", size, why),
        Setting("data.views.small_size", size // 2, "the third view: half as wide and high, as published"),
        Setting("data.loader_threads", threads, plural(machine.cpus, "core")),
    ]


def network(size: int, machine: Machine) -> Settings:
    """Return the network: a small one from ImageNet's weights where there is no GPU."""
    if not machine.is_cpu:
        return [Setting("model.backbone", "resnet50_fpn", "from random weights, as published")]
    sizes, bounds = rules.anchors(size)
    return [
        Setting("model.backbone", "efficientnet_lite0_fpn", "small enough for a CPU"),
        Setting("model.weights", "imagenet", "the start; random weights were not tried with this length"),
        Setting(
            "model.fpn_norm", "batch", "what keeps boxes from becoming alike; group norm collapses from this start"
        ),
        Setting("model.fpn_channels", 128, "a small pyramid for a small network"),
        Setting("model.box_head", "two_fc", "the head that detectors have where nothing is said"),
        Setting("model.box_head_dim", 512, "half the published one"),
        Setting("model.anchor_sizes", sizes, "in proportion to the views"),
        Setting("model.level_bounds", bounds, "sides of boxes that part the levels"),
        Setting(
            "model.rpn_batch", 16, "anchors drawn from a view: of more, in so small a one, nearly all are background"
        ),
        Setting("model.projector_hidden", 512, "an eighth of the published one"),
        Setting("model.projector_dim", 128, "half the published one"),
    ]


def optimiser(count: int, batch: int, steps: int, machine: Machine) -> Settings:
    """Return batches, rates and lengths."""
    about = f"every image is seen {steps * batch / count:.0f} times"
    rest = [
        Setting("optim.steps", steps, about if machine.is_cpu else f"{about}; the paper: 100 times"),
        Setting("optim.warmup_steps", max(1, steps // 10), "a tenth, as published"),
        Setting("optim.labeled_batch", batch, "images, each in three views"),
        Setting("optim.precision", "auto", f"{machine.precision} here"),
    ]
    if batch >= rules.LARS_FROM:
        return [
            Setting("optim.name", "lars", "the paper's, for large batches"),
            Setting("optim.lr", 0.1, "the paper's"),
            *rest,
        ]
    return [
        Setting("optim.name", "sgd", f"LARS is for batches of {rules.LARS_FROM:,} images and more"),
        Setting(
            "optim.lr",
            0.02 if machine.is_cpu else 0.05,
            "where the log warns of a collapse, a third of it",
        ),
        Setting("optim.clip_norm", 10.0, "the first steps have large gradients"),
        *rest,
    ]
