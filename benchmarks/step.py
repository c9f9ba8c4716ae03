"""What one training step costs, and what of it is raydet's.

    python benchmarks/step.py                  # all variants, one step of each per round
    python benchmarks/step.py --loop-only      # mutual, plain and plain again: what raydet's loop adds
    python benchmarks/step.py --profile        # where the time of one mutual step goes
    python benchmarks/step.py --profile --rounds 5 --burn-in 2 --out runs/resnet50 --set model.backbone=resnet50_fpn \\
        model.weights=none model.fpn_channels=256 model.box_head_dim=1024 model.roi_batch=512 \\
        model.anchor_sizes='[[32],[64],[128],[256],[512]]' optim.labeled_batch=2 optim.unlabeled_batch=2

Variants, interleaved step by step in an order drawn for each round, in several fresh processes. CPU seconds of the
whole process are compared; loader_threads is 0 so that nothing runs beside the measured step:

  burn-in      raydet's loop on labelled images only
  mutual       raydet's loop, labels inline, lookahead 0, publish_every 1: the papers' algorithm
  plain        the same arithmetic as one straight line: no label source, store, records, journal, schedule
  plain again  a second one, for the error of the method: its ratio to the first should be 1
  raydet-sup   one supervised step of raydet's detector on a fixed batch: forward, backward, clip, AdamW
  torchvision  the same of torchvision's FasterRCNN: same shape, same weights, same batch, same losses
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from common import Clock, SteppedTrainer, arguments, base_config, burned_in, in_turn, machine, spread
from sections import profile
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from raydet.data.decode import decode
from raydet.data.order import BatchOrder
from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES, PreparedBoxes
from raydet.families.detection.gates import after_nms, by_quality, by_score
from raydet.families.detection.iou_branch import iou_pass
from raydet.families.detection.loader import StepLoader, TeacherViews
from raydet.families.detection.passes import train_pass
from raydet.families.detection.views import strong_view, weak_view
from raydet.group import Group
from raydet.learning_rate import lr_at
from raydet.randomness import stream
from raydet.records import Target
from raydet.registry import build_method
from raydet.train.checkpoint import open_checkpoint
from raydet.train.optim import build_optimizer, set_lrs
from raydet.train.rundir import RunFolder
from raydet.train.state import TrainState
from raydet.train.step import StepModule, backward
from raydet.vision.backbones import build_backbone
from raydet.vision.detector import Detector
from raydet.vision.geometry import clip_boxes, is_usable
from raydet.vision.images import collate

CPU = torch.device("cpu")


class Plain:
    """IL-net's mutual learning written down as one loop body; one student forward per step, as raydet does it."""

    def __init__(self, config: DetectionConfig, data: PreparedBoxes, fork: Path) -> None:
        self.config, self.data = config, data
        method = build_method(config)
        self.student = method.build_model(len(data.class_names)).train()
        optimizer = build_optimizer(self.student, method.param_groups(), config.optim)
        state = TrainState(self.student, optimizer, torch.amp.GradScaler("cpu"))
        state.fork(open_checkpoint(fork), drops=method.fork_drops)
        self.optimizer, self.step = state.optimizer, state.step
        self.teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        batches = {"labeled": config.optim.labeled_batch, "unlabeled": config.optim.unlabeled_batch}
        self.orders = {
            name: BatchOrder(len(getattr(data, name)), batch, config.seed, name) for name, batch in batches.items()
        }
        self.loss = math.nan

    def __call__(self) -> None:
        config, data, step, seed = self.config, self.data, self.step, self.config.seed
        views, method, model = config.data.views, config.method, config.model
        weak, strong, truth, names = [], [], [], []
        for slot, i in enumerate(self.orders["labeled"].positions(step)):
            name, target = data.labeled.id_at(int(i)), data.labeled.target_at(int(i))
            rng = stream(seed, "labeled-weak", name, step, slot)
            pixels, view = weak_view(decode(data.labeled.file_at(int(i))), views, rng)
            boxes = clip_boxes(view.to_view(target.boxes), view.height, view.width)
            usable = is_usable(boxes, views.min_box_px)
            weak.append(pixels)
            strong.append(strong_view(pixels, views, stream(seed, "labeled-strong", name, step, slot)))
            truth.append(Target.truth(boxes[usable], target.classes[usable]))
            names.append(name)
        unlabeled, pseudo, unlabeled_names = [], [], []
        for slot, i in enumerate(self.orders["unlabeled"].positions(step)):
            name = data.unlabeled.id_at(int(i))
            pixels, _ = weak_view(decode(data.unlabeled.file_at(int(i))), views, stream(seed, "weak", name, step))
            (said,) = self.teacher.candidates(
                collate([pixels], CPU),
                proposals="train",
                score_floor=config.labels.score_floor,
                top_k=config.labels.top_k,
            )
            said = after_nms(by_quality(said, method.iou_filter_threshold), model.test_nms, model.test_detections)
            said = by_score(said, method.score_threshold)
            said = said.where(is_usable(said.boxes, views.min_box_px))
            pseudo.append(Target(said.boxes, said.classes, said.scores, said.quality))
            unlabeled.append(strong_view(pixels, views, stream(seed, "strong", name, step, slot)))
            unlabeled_names.append(name)
        roles = ["labeled-strong"] * len(names) + ["labeled-weak"] * len(names) + ["unlabeled"] * len(unlabeled)
        rngs = [
            stream(seed, "sampling", role, name, step)
            for role, name in zip(roles, names + names + unlabeled_names, strict=True)
        ]
        found = train_pass(self.student, collate(strong + weak + unlabeled, CPU), truth + truth + pseudo, rngs)
        judged, sums = iou_pass(self.student, found.roi, found.boxes), found.sums
        loss = torch.zeros(())
        weights = (
            (1.0, 1.0, method.sup_iou_weight),
            (
                method.unsup_cls_weight,
                method.unsup_reg_weight,
                method.unsup_iou_weight,
            ),
        )
        for part, (cls, reg, iou) in zip((slice(2 * len(names)), slice(2 * len(names), None)), weights, strict=True):
            anchors, rois = found.rpn.anchors[part].sum(), found.roi.num_rois[part].sum()
            loss = loss + cls * (sums["rpn_cls"][part].sum() / anchors + sums["roi_cls"][part].sum() / rois)
            loss = loss + reg * (sums["rpn_reg"][part].sum() / anchors + sums["roi_reg"][part].sum() / rois)
            loss = loss + iou * judged.loss[part].sum() / judged.count[part].sum()
        loss.backward()
        optimise(self.student, self.optimizer, config, step)
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                old.lerp_(new, 1 - method.ema_keep_rate)
        self.loss = float(loss.detach())
        self.step += 1


def optimise(model: nn.Module, optimizer: torch.optim.Optimizer, config: DetectionConfig, step: int) -> None:
    set_lrs(optimizer, {"all": lr_at(step, config.optim)})
    nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def supervised_pair(config: DetectionConfig, data: PreparedBoxes, fork: Path) -> dict[str, Callable[[], float]]:
    """One supervised step of raydet's detector and of torchvision's, from the burn-in's weights on a fixed batch."""
    method = build_method(config)
    share = {"rank": 0, "world": 1, "version_for": lambda _: None, "recipe": method.recipe}
    views = StepLoader(data, config, TeacherViews(data, config, method.recipe), **share).take(0).labeled
    batch = StudentBatch(0, views, tuple(view.target for view in views), num_labeled=len(views))
    ours = method.build_model(len(data.class_names)).train()
    weights = open_checkpoint(fork).tensors("student")
    ours.load_state_dict({name: weights[name] for name in ours.state_dict()})
    module = StepModule(ours, method, device=CPU, dtype=None)
    names = tuple(method.loss_weights)
    loss_weights, group = torch.tensor(list(method.loss_weights.values())), Group()
    our_optimizer = build_optimizer(ours, method.param_groups(), config.optim)

    def raydet_step() -> float:
        losses = backward(module, batch, loss_weights, group, names=names)
        losses.check_finite(None, batch, group)
        optimise(ours, our_optimizer, config, 1000)
        return float(losses.raw.sum())

    theirs = torchvision_twin(config, ours, tuple(views[0].pixels.shape[1:])).train()
    their_optimizer = build_optimizer(theirs, method.param_groups(), config.optim)
    labels = [{"boxes": view.target.boxes, "labels": view.target.classes + 1} for view in views]

    def torchvision_step() -> float:
        losses = theirs([view.pixels.float() / 255 for view in views], labels)
        loss = sum(losses.values())
        loss.backward()
        optimise(theirs, their_optimizer, config, 1000)
        return float(loss.detach())

    return {"raydet-sup": raydet_step, "torchvision": torchvision_step}


def torchvision_twin(config: DetectionConfig, ours: Detector, size: tuple[int, int]) -> FasterRCNN:
    """torchvision's detector with our shape and weights; images of `size` are not resized."""
    model = config.model
    twin = FasterRCNN(
        build_backbone(model),
        min_size=size[0],
        max_size=size[1],
        rpn_anchor_generator=AnchorGenerator(model.anchor_sizes, (model.anchor_ratios,) * len(model.anchor_sizes)),
        rpn_head=RPNHead(model.fpn_channels, ours.rpn.anchor_generator.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=model.rpn_pre_nms_train,
        rpn_post_nms_top_n_train=model.rpn_post_nms_train,
        rpn_batch_size_per_image=model.rpn_batch,
        rpn_positive_fraction=model.rpn_positive_fraction,
        box_batch_size_per_image=model.roi_batch,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], model.roi_pool_size, model.roi_sampling_ratio),
        box_head=TwoMLPHead(model.fpn_channels * model.roi_pool_size**2, model.box_head_dim),
        box_predictor=FastRCNNPredictor(model.box_head_dim, ours.num_classes + 1),
        _skip_resize=True,
    )
    twin.load_state_dict(ours.state_dict(), strict=True)
    return twin


def measure(options: argparse.Namespace, fork: Path) -> dict[str, Clock]:
    """Run all variants in this process."""
    config = base_config(options, "mutual", method__burn_in_steps=open_checkpoint(fork).step)
    mutual = SteppedTrainer(config, fork=fork)
    data = BOXES.open(RunFolder(config.run.dir).data)
    variants = {"mutual": mutual, "plain": Plain(config, data, fork), "plain again": Plain(config, data, fork)}
    if options.loop_only:
        return in_turn(variants, options.rounds, options.warm_up, seed=options.child)
    # What torchvision's detector can do too: its losses, its RoIAlign, no IoU branch.
    like = {"model__roi_align_aligned": False, "model__roi_cls_loss": "cross_entropy", "model__box_loss": "smooth_l1"}
    supervised = base_config(options, "sup", **like, method={"name": "supervised", "burn_in_steps": 0})
    burning = base_config(options, "burn-in", method__burn_in_steps=10**8)
    variants = {"burn-in": SteppedTrainer(burning, fork=fork), **variants, **supervised_pair(supervised, data, fork)}
    return in_turn(variants, options.rounds, options.warm_up, seed=options.child)


def measure_in_fresh_processes(options: argparse.Namespace) -> list[dict[str, Clock]]:
    """One process after another: how memory happens to be laid out stays the same for as long as a process lives."""
    found = []
    for number in range(options.repeats):
        command = [sys.executable, *sys.argv, "--child", str(number)]
        # One malloc arena: raydet's loop has a thread of its own here, and must not get a heap of its own by that.
        env = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        output = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
        clocks = json.loads(output.splitlines()[-1])
        found.append({name: Clock(**clock) for name, clock in clocks.items()})
        print(f"{number + 1} of {options.repeats} processes", file=sys.stderr, flush=True)
    return found


def show(found: list[dict[str, Clock]]) -> None:
    print("\n| variant | CPU ms per step: median (quartiles) | wall ms |\n|---|---|---|")
    for name in found[0]:
        cpu, wall = ([t for clocks in found for t in getattr(clocks[name], kind)] for kind in ("cpu", "wall"))
        print(f"| {name} | {spread(cpu, 1e3)} | {spread(wall, 1e3)} |")
    print("\n| ratio of CPU time | mean of the processes | its standard error | each process |\n|---|---|---|---|")
    pairs = (("mutual", "plain"), ("plain again", "plain"), ("raydet-sup", "torchvision"))
    for a, b in [pair for pair in pairs if pair[0] in found[0]]:
        each = [sum(clocks[a].cpu) / sum(clocks[b].cpu) for clocks in found]
        error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else math.nan
        listed = ", ".join(f"{value:.3f}" for value in each)
        print(f"| {a} / {b} | {statistics.mean(each):.3f} | {error:.3f} | {listed} |")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=6, help="fresh processes")
    parser.add_argument("--rounds", type=int, default=10, help="per process")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--loop-only", action="store_true", help="only mutual, plain and plain again")
    parser.add_argument("--profile", action="store_true", help="60 rounds are a good number here")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fork = burned_in(options)
    if options.child is not None:
        print(json.dumps({name: vars(clock) for name, clock in measure(options, fork).items()}))
        return
    config = base_config(options, "profile", method__burn_in_steps=open_checkpoint(fork).step)
    print(machine(), f"seed {config.seed}, {options.threads} torch thread(s)", sep=", ", flush=True)
    if options.profile:
        print(profile(SteppedTrainer(config, fork=fork), options.rounds, options.warm_up))
    else:
        show(measure_in_fresh_processes(options))


if __name__ == "__main__":
    main()
