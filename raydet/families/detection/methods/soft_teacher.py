"""Soft Teacher (Xu et al., ICCV 2021, "End-to-End Semi-Supervised Object Detection with Soft Teacher").

Without a burn-in: the teacher, an average of the student from step 0 on, labels its own view of an unlabelled image;
the student learns from another view, in a geometry of its own. Each loss has a gate of its own:

    L     = L_sup + alpha * L_unsup                                                                   (their Eq. 1-3)
    RPN, both losses: pseudo-boxes with score > .9
    RoI class: pseudo-boxes with score > theta;  L = sum_j w_j * l_j / sum_j w_j,  w_j = 1 for foreground,
               for background the teacher's background probability of that same RoI                   (their Eq. 4-5)
    RoI box:   pseudo-boxes whose spread < .02, in an RoI pass of their own                           (their Eq. 7-9)
    spread  = mean over the four coordinates of std / side, of ten jittered boxes after the teacher's regression
    teacher <- m * teacher + (1 - m) * student,  m = min(.999, 1 - 1 / (t + 1)), parameters only (SOFT-D10)

| paper | code |
|---|---|
| alpha = 4 | method.unsup_weight |
| theta = 0.9 | method.cls_pseudo_threshold |
| 0.9 of the RPN, 0.5 of all | method.rpn_pseudo_threshold, method.pseudo_score_floor |
| N_jitter = 10, 6 % | method.jitter_times, method.jitter_scale |
| 0.02 | method.box_spread_threshold |
| m = .999 | method.ema_keep_rate |

What a stored label calls quality is 1 - spread; 0 below `method.pseudo_score_floor`, where nobody looks.
Deviations SOFT-D1 to SOFT-D11: `docs/methods/soft_teacher.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from raydet.contract import Alarm, LossTerm, Outputs, Teacher
from raydet.families.detection.batch import LABELED, UNLABELED, StudentBatch, ViewedImage, framed
from raydet.families.detection.gates import after_nms, by_quality, by_score
from raydet.families.detection.method import UNLIMITED, DetectionMethod, Selection, Thresholds, no_survivors
from raydet.families.detection.passes import RoiPass, check_boxes, roi_pass, rpn_pass, sent
from raydet.families.detection.soft_config import SoftSettings
from raydet.families.detection.soft_views import OwnGeometry
from raydet.families.detection.view_recipes import ViewRecipe
from raydet.labels.schedule import LabelSchedule
from raydet.randomness import stream
from raydet.records import Candidates, PseudoBoxes, Target
from raydet.vision import losses
from raydet.vision.detector import Detector
from raydet.vision.device import all_to_device
from raydet.vision.geometry import clip_boxes
from raydet.vision.images import ImageBatch
from raydet.vision.roi import box_coder, by_class
from raydet.window import Window

NAMES = ("rpn_cls", "rpn_reg", "roi_cls", "roi_reg")


@dataclass(frozen=True, slots=True, eq=False)
class SoftPass:
    """One forward of the student over all views: everything but the loss of the RoI classes."""

    roi: RoiPass  # of the RoI classes, all views
    weights: Tensor  # [R] float32: 1, or the teacher's background probability; no gradient
    terms: dict[str, LossTerm]  # all other terms


class SoftTeacher(DetectionMethod):
    """Every loss chooses its own pseudo-boxes, and the teacher says how much an RoI counts as background."""

    settings = SoftSettings
    config: SoftSettings
    unseen_by_burn_in = frozenset(SoftSettings.model_fields) - {
        "name",
        "burn_in_steps",
        "cls_focal_exponent",
        "views",
    }

    @property
    def loss_weights(self) -> dict[str, float]:
        """Supervised terms 1, unsupervised alpha; and how many pseudo-boxes an image has for each gate, for the log."""
        weights = {f"sup/{name}": 1.0 for name in NAMES} | {f"unsup/{name}": self.config.unsup_weight for name in NAMES}
        return weights | {f"unsup/boxes_{gate}": 0.0 for gate in ("rpn", "cls", "reg")}

    @property
    def recipe(self) -> ViewRecipe:
        """Teacher and student look at an image in geometries of their own."""
        return OwnGeometry(self.run.data.views, self.config.views)

    def schedule(self) -> LabelSchedule:
        """The newest teacher, from step 0 on or from the end of a burn-in."""
        return self.moving_teacher()

    def teacher(self) -> Teacher:
        """Average the student; the t-th update (before step t) keeps min(.999, 1 - 1 / (t + 1))."""
        first, most = self.config.burn_in_steps, self.config.ema_keep_rate
        # The engine updates after step s: before step t = s + 1.
        return Teacher(first, lambda s: min(most, 1 - 1 / (s - first + 2)))

    def annotate(self, teacher: Any, images: ImageBatch, rngs: Sequence[torch.Generator]) -> list[Candidates]:
        """Return the teacher's detections, and as `quality` 1 - spread of those above the floor."""
        found: dict[int, Candidates] = {}
        for positions, group in images.by_frame():
            features = teacher.features(group)
            said = teacher.candidates_in(
                features,
                group,
                proposals=self.config.teacher_proposals,
                score_floor=self.run.labels.score_floor,
                top_k=UNLIMITED,
            )
            kept = [after_nms(each, self.run.model.test_nms, self.run.model.test_detections) for each in said]
            judged = self._judged(teacher, features, group, kept, [rngs[i] for i in positions])
            found |= dict(zip(positions, judged, strict=True))
        return [found[i] for i in range(len(images))]

    def _judged(
        self,
        teacher: Detector,
        features: dict[str, Tensor],
        images: ImageBatch,
        kept: Sequence[Candidates],
        rngs: Sequence[torch.Generator],
    ) -> list[Candidates]:
        """Return detections with their quality: jitter those above the floor, let the teacher move them, compare."""
        config, times = self.config, self.config.jitter_times
        above_floor = torch.stack([(each.scores > config.pseudo_score_floor).sum() for each in kept]).tolist()
        rows = [torch.arange(number, device=each.scores.device) for each, number in zip(kept, above_floor, strict=True)]
        sure = [each.where(first) for each, first in zip(kept, rows, strict=True)]  # scores descend
        noise = [torch.randn(times * len(each), 4, generator=rng) for each, rng in zip(sure, rngs, strict=True)]
        around = [
            jittered(each.boxes, drawn.reshape(times, len(each), 4), config.jitter_scale).reshape(-1, 4)
            for each, drawn in zip(sure, all_to_device(noise, sure[0].boxes.device), strict=True)
        ]
        deltas = torch.split(by_class(teacher.score_rois(features, around).box_deltas), [len(each) for each in around])
        found = []
        for whole, part, boxes, moves, size in zip(kept, sure, around, deltas, images.sizes, strict=True):
            own = moves[
                torch.arange(len(moves), device=moves.device), (part.classes + 1).repeat(times)
            ]  # of the detected class
            moved = clip_boxes_to_image(box_coder.decode(own, boxes), size)
            quality = torch.zeros_like(whole.scores)
            quality[: len(part)] = (1 - spread(moved.reshape(times, len(part), 4))).clamp(min=0)
            found.append(replace(whole, quality=quality))
        return found

    def select(self, labels: PseudoBoxes) -> Selection:
        """Keep the boxes that train the RoI classes; see `carried`."""
        theta = self.config.cls_pseudo_threshold
        kept = by_score(labels, theta)
        return Selection(kept, {"score": len(labels) - len(kept)}, labels.complete_above <= theta)

    def carried(self, labels: PseudoBoxes, selection: Selection) -> PseudoBoxes:
        """Return all that any of the gates may let through."""
        return by_score(labels, self.config.pseudo_score_floor)

    @property
    def thresholds(self) -> Thresholds:
        """The class confidence of the RoI classes."""
        return Thresholds("method.cls_pseudo_threshold", floor="method.pseudo_score_floor")

    def losses(self, student: Any, batch: StudentBatch, teacher: Any, state: Any) -> Outputs:
        """Return all terms."""
        found = self.forward(student, batch, teacher, self.config.cls_pseudo_threshold)
        rows = losses.focal_cross_entropy(found.roi.logits, found.roi.labels, self.config.cls_focal_exponent)
        return Outputs(found.terms | cls_terms(batch, found.roi, rows * found.weights, found.weights))

    def forward(self, student: Detector, batch: StudentBatch, teacher: Any, theta: float | Tensor) -> SoftPass:
        """Run all passes but the loss of the RoI classes; `theta`: one threshold, or one per class `[K]`."""
        check_boxes(batch.targets)
        device, part = next(student.parameters()).device, batch.rows(UNLABELED)
        images = framed(batch.views, student)
        rngs = [_rng(self.run.seed, "sampling", view, batch.step) for view in batch.views]
        config, pseudo = self.config, batch.targets[part]
        of_rpn = [by_score(each, config.rpn_pseudo_threshold) for each in pseudo]
        of_cls = [above(each, theta) for each in pseudo]
        of_reg = [by_quality(each, 1 - config.box_spread_threshold) for each in pseudo]
        features = student.features(images)
        anchors = student.score_anchors(features)
        truth = batch.targets[: batch.num_labeled]
        boxes = all_to_device([each.boxes for each in (*truth, *of_rpn)], device)
        rpn = rpn_pass(student, anchors, boxes, rngs, images.frames)
        proposals = student.propose(anchors, images, "train")
        roi = _rois(student, features, proposals, (*truth, *of_cls), rngs)
        terms = {
            f"{name}/{kind}": LossTerm(rows[batch.rows(group)].sum(), count[batch.rows(group)].sum(), group)
            for name, group in (("sup", LABELED), ("unsup", UNLABELED))
            for kind, rows, count in (
                ("rpn_cls", rpn.cls, rpn.anchors),
                ("rpn_reg", rpn.reg, rpn.anchors),
                ("roi_reg", roi.reg(), roi.num_rois),
            )
        }
        weights = torch.ones_like(roi.cls_rows)
        if pseudo:
            own = [_rng(self.run.seed, "sampling-boxes", view, batch.step) for view in batch.views[part]]
            box = _rois(student, {name: each[part] for name, each in features.items()}, proposals[part], of_reg, own)
            terms["unsup/roi_reg"] = LossTerm(box.reg().sum(), box.num_rois.sum(), UNLABELED)
            first = sum(roi.counts[: batch.num_labeled])
            background = background_probability(teacher, batch, roi)
            weights[first:] = torch.where(roi.labels[first:] > 0, weights[first:], background)
        else:
            terms["unsup/roi_reg"] = LossTerm(rpn.reg[part].sum(), rpn.anchors[part].sum(), UNLABELED)  # none, of none
        for gate, kept in (("rpn", of_rpn), ("cls", of_cls), ("reg", of_reg)):
            number = weights.new_full((), float(sum(map(len, kept))))
            terms[f"unsup/boxes_{gate}"] = LossTerm(number, torch.tensor(len(pseudo)), UNLABELED)
        return SoftPass(roi, weights, terms)

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say why no pseudo-box trains the RoI classes."""
        config = self.config
        cause = "candidates score high enough, but every one is dropped"
        key = "method.cls_pseudo_threshold"
        return no_survivors(window, config.cls_pseudo_threshold, config.alarm_after_steps, otherwise=cause, key=key)


def cls_terms(batch: StudentBatch, roi: RoiPass, rows: Tensor, weights: Tensor) -> dict[str, LossTerm]:
    """Return `sup/roi_cls` and `unsup/roi_cls`: sums of loss rows `[R]`, divided by the sums of weights `[R]` (Eq. 4).

    What multiplies `rows` beside `weights` is not divided out again.
    """
    sums, counts = losses.sum_per_image(rows, roi.counts), losses.sum_per_image(weights, roi.counts)
    return {
        f"{name}/roi_cls": LossTerm(sums[batch.rows(group)].sum(), counts[batch.rows(group)].sum(), group)
        for name, group in (("sup", LABELED), ("unsup", UNLABELED))
    }


def above(target: Target, theta: float | Tensor) -> Target:
    """Keep the boxes whose score exceeds a threshold, strictly, or that of their class, `theta` `[K]`."""
    return (
        by_score(target, theta)
        if isinstance(theta, float)
        else target.where(target.scores > theta.to(target.scores)[target.classes])
    )


def jittered(boxes: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Move boxes `[N, 4]` by standard normal `noise` `[T, N, 4]` times `scale` times their sides: `[T, N, 4]`."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).repeat(1, 2)
    return boxes + noise * scale * sides


def spread(boxes: Tensor) -> Tensor:
    """Return how far T versions of N boxes `[T, N, 4]` lie apart, relative to the sides of their mean: `[N]` (Eq. 8-9).

    The standard deviation is the unbiased one, the mean is over the four coordinates.
    """
    mean = boxes.mean(dim=0)
    sides = (mean[:, 2:] - mean[:, :2]).clamp(min=1).repeat(1, 2)
    times = boxes.shape[0]
    deviation = ((boxes - mean).square().sum(dim=0) / (times - 1)).sqrt()  # `std` warns where there is no box
    return (deviation / sides).mean(dim=1)


@torch.no_grad()
def background_probability(teacher: Detector, batch: StudentBatch, roi: RoiPass) -> Tensor:
    """Return the teacher's background probability `[U]` of the RoIs of all unlabelled views (Eq. 5).

    Each RoI is carried into the view that the teacher saw, its corners warped.
    """
    features = teacher.features(framed(batch.seen, teacher))
    students, drawn = batch.views[batch.num_labeled :], roi.rois[batch.num_labeled :]
    rois = [into(student, seen, each.boxes) for student, seen, each in zip(students, batch.seen, drawn, strict=True)]
    return teacher.probabilities(teacher.score_rois(features, rois).class_logits)[:, 0]


def into(source: ViewedImage, target: ViewedImage, boxes: Tensor) -> Tensor:
    """Map boxes `[N, 4]` from one view of an image into another, T_target T_source^-1, and clip them there."""
    back = source.view.inverted(1, 1)  # the size of the original plays no part in the map
    return clip_boxes(back.then(target.view).to_view(boxes), target.view.height, target.view.width)


def _rois(
    student: Detector,
    features: dict[str, Tensor],
    proposals: Sequence[Tensor],
    targets: Sequence[Target],
    rngs: Sequence[torch.Generator],
) -> RoiPass:
    device = proposals[0].device
    boxes, labels = sent(targets, device)
    return roi_pass(student, features, proposals, boxes, labels, rngs, [each.verified for each in targets])


def _rng(seed: int, purpose: str, view: ViewedImage, step: int) -> torch.Generator:
    """Return one stream per view: independent of rank and of the views around it."""
    return stream(seed, purpose, view.role, view.image_id, step)
