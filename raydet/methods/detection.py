"""What a detection method is, beside what every method is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raydet.config.detection import DetectionConfig
from raydet.gates import after_nms
from raydet.methods.base import Method
from raydet.models.detector import DetectionLosses, Detector
from raydet.models.images import ImageBatch, collate
from raydet.randomness import stream
from raydet.records import Candidates, LossTerm, PseudoBoxes, StepTerms, StudentBatch

# Settings of every teacher-student method that matter only once the teacher exists.
MUTUAL_STAGE = frozenset(
    {"ema_keep_rate", "score_threshold", "unsup_cls_weight", "teacher_proposals", "alarm_after_steps"}
)
UNLIMITED = 1_000_000  # candidates per image at evaluation: a softmax above the floor never yields as many


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What a method keeps of one stored label, and how many candidates each gate dropped."""

    kept: PseudoBoxes
    dropped: Mapping[str, int] = field(default_factory=dict)  # gate name -> rows removed by it
    is_complete: bool = True  # whether the stored rows reach down to the lowest score that could be kept
    dropped_quality: float = 0.0  # sum of `quality` over the rows that the gate "quality" removed
    background: int | None = None  # rows that passed it because their RoI's best class is background; None: no gate


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Configuration keys of the thresholds that a method's `select` applies, so that others can try other values.

    The score threshold comes last: raising it drops the lowest scores from what is kept, and changes nothing else.
    """

    score: str  # of the class confidence
    quality: str | None = None  # of `PseudoBoxes.quality`, before NMS: each value is a selection of its own


IOU_BRANCH = "iou_branch."
"""What the weights begin with that only some detection methods have."""


class DetectionMethod(Method[DetectionConfig, StudentBatch]):
    """A method that trains a detector."""

    fork_drops = IOU_BRANCH

    @abstractmethod
    def build_model(self, num_classes: int) -> Detector:
        """Return a freshly initialised detector; student and teacher are both made by this."""

    @abstractmethod
    def losses(
        self, student: Detector, batch: StudentBatch, images: ImageBatch, rngs: Sequence[torch.Generator]
    ) -> dict[str, LossTerm]:
        """Return every term of `loss_weights` for this rank's views; runs inside DDP's forward.

        `images` are `batch.views` as one tensor batch; `rngs[i]` draws the samples of view i.
        """

    def step_terms(self, student: Detector, batch: StudentBatch, device: torch.device) -> StepTerms:
        """Return the losses of a batch."""
        images = collate([view.pixels for view in batch.views], device)
        return StepTerms(self.losses(student, batch, images, self._rngs(batch)), {})

    def _rngs(self, batch: StudentBatch) -> list[torch.Generator]:
        """One stream per view for anchor and RoI sampling: independent of rank and of the views around it."""
        strong = batch.num_labeled // 2
        roles = ["labeled-strong"] * strong + ["labeled-weak"] * (batch.num_labeled - strong)
        roles += ["unlabeled"] * batch.num_unlabeled
        return [
            stream(self.run.seed, "sampling", role, view.image_id, batch.step)
            for role, view in zip(roles, batch.views, strict=True)
        ]

    def annotate(self, teacher: Detector, images: ImageBatch) -> list[Candidates]:
        """Return what the teacher says about each image, in view pixels; runs in the teacher pool."""
        raise AssertionError(f"{type(self).__name__} uses no pseudo-labels")

    def select(self, labels: PseudoBoxes) -> Selection:
        """Apply the method's gates to a stored label; pure."""
        raise AssertionError(f"{type(self).__name__} uses no pseudo-labels")

    @property
    def thresholds(self) -> Thresholds | None:
        """Say which thresholds `select` applies; None where the method uses no pseudo-labels."""
        return None

    def gate(self, candidates: Candidates) -> Candidates:
        """Drop predictions before NMS at evaluation; nothing by default."""
        return candidates

    def detect(self, model: Detector, images: ImageBatch) -> list[Candidates]:
        """Return the detections of each image in view pixels: candidates -> gate -> class-wise NMS -> best 100."""
        config = self.run.model
        found = model.candidates(images, proposals="test", score_floor=config.test_score_floor, top_k=UNLIMITED)
        return [after_nms(self.gate(each), config.test_nms, config.test_detections) for each in found]


def loss_terms(losses: DetectionLosses, part: slice, source: str, *, with_iou: bool) -> dict[str, LossTerm]:
    """Sum the per-image losses of a part of the batch into named terms `source/rpn_cls`, ...

    The counts are the papers' normalisers: sampled anchors for the RPN, all sampled RoIs for the RoI head. With a
    branch `source/iou_positive` is the fraction of foreground RoIs whose target is 1: for the log, of weight 0.
    """
    anchors, rois = losses.anchors[part].sum(), losses.rois[part].sum()

    def term(per_image: Tensor, count: Tensor) -> LossTerm:
        return LossTerm(per_image[part].sum(), count)

    terms = {
        f"{source}/rpn_cls": term(losses.rpn_cls, anchors),
        f"{source}/rpn_reg": term(losses.rpn_reg, anchors),
        f"{source}/roi_cls": term(losses.roi_cls, rois),
        f"{source}/roi_reg": term(losses.roi_reg, rois),
    }
    if with_iou:
        terms[f"{source}/iou"] = term(losses.iou, losses.iou_count[part].sum())
        terms[f"{source}/iou_positive"] = term(losses.iou_positives.float(), losses.fg_rois[part].sum())  # logged only
    return terms
