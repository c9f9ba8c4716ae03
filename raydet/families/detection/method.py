"""What a detection method is, beside what every method is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raydet.config.run import RunConfig
from raydet.contract import Alarm, LossTerm, Method, Outputs
from raydet.errors import UserError
from raydet.families.detection.batch import StudentBatch, framed
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.gates import after_nms
from raydet.families.detection.passes import TrainPass, train_pass
from raydet.families.detection.transfer import start
from raydet.families.detection.view_recipes import SharedGeometry, ViewRecipe
from raydet.labels.schedule import LabelSchedule
from raydet.randomness import stream
from raydet.records import Candidates, PseudoBoxes
from raydet.registry import build_method
from raydet.vision.detector import Detector
from raydet.vision.images import ImageBatch
from raydet.vision.mask_head import MaskHeads
from raydet.window import Window

# Settings of every teacher-student method that matter only once the teacher exists.
MUTUAL_STAGE = frozenset(
    {
        "ema_keep_rate",
        "score_threshold",
        "class_thresholds",
        "unsup_cls_weight",
        "teacher_proposals",
        "alarm_after_steps",
    }
)
STANDARD_PARTS = ("backbone.", "rpn.", "roi_heads.")  # what plain torchvision has a place for
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
    floor: str = "labels.score_floor"  # the setting that the score threshold must not be below
    by_class: str | None = None  # score thresholds of single classes, by name, in place of `score`; None: not to be had


class DetectionMethod(Method[DetectionConfig, StudentBatch]):
    """A method that trains a detector."""

    @property
    def recipe(self) -> ViewRecipe:
        """Return which views are made of an image; by default a labelled one enters a step as strong and as weak."""
        return SharedGeometry(self.run.data.views)

    def know_classes(self, names: Sequence[str]) -> None:
        """Take the names of the data's classes in the order of their numbers; called before labels are selected.

        Raises ConfigError where a setting names a class that is not there.
        """

    def build_model(self, num_classes: int) -> Detector:
        """Return a freshly initialised detector; student and teacher are both made by this."""
        return Detector(self.run.model, num_classes)

    def compiled(self, model: Detector) -> Sequence[nn.Module]:
        """Return what works in shapes that follow from the views alone; behind it come boxes, in any number."""
        return (model.backbone, model.rpn.head) if self.run.model.compile else ()

    def start(self, model: Detector) -> list[str]:
        """Take parts over from another run (`model.init_from`). Raises CheckpointError where that cannot be."""
        return start(model, self.run.model)

    def annotate(self, teacher: Any, images: ImageBatch, rngs: Sequence[torch.Generator]) -> list[Candidates]:
        """Return what the teacher says about each image, in view pixels; runs in the teacher pool.

        `rngs[i]` is for what is drawn about image i: the same wherever, and beside whatever, it is labelled.
        """
        raise AssertionError(f"{type(self).__name__} uses no pseudo-labels")

    def select(self, labels: PseudoBoxes) -> Selection:
        """Apply the method's gates to a stored label; pure."""
        raise AssertionError(f"{type(self).__name__} uses no pseudo-labels")

    def select_at(self, state: Any, step: int) -> Callable[[PseudoBoxes], Selection]:
        """Return `select` as it is at a step: what is learned beside the weights may move the gates."""
        return self.select

    def carried(self, labels: PseudoBoxes, selection: Selection) -> PseudoBoxes:
        """Return the boxes that the student's targets hold; more than `select` keeps where losses have own gates."""
        return selection.kept

    @property
    def thresholds(self) -> Thresholds | None:
        """Say which thresholds `select` applies; None where the method uses no pseudo-labels."""
        return None

    def class_statistics(self, state: Any, step: int) -> dict[str, Tensor]:
        """Return named lists of numbers about the classes that the report shows over time; nothing by default."""
        return {}

    def gate(self, candidates: Candidates) -> Candidates:
        """Drop predictions before NMS at evaluation; nothing by default."""
        return candidates

    def detect(self, model: Detector, images: ImageBatch) -> list[Candidates]:
        """Return the detections of each image in view pixels: candidates -> gate -> class-wise NMS -> best 100.

        Then come their masks, where the detector has a mask head.
        """
        floor = self.run.model.test_score_floor
        if self.run.model.detector != "mask_rcnn":
            return self._best(model.candidates(images, proposals="test", score_floor=floor, top_k=UNLIMITED))
        heads = model.roi_heads
        assert isinstance(heads, MaskHeads)
        found: dict[int, Candidates] = {}
        for positions, group in images.by_frame():
            with torch.no_grad():
                features = model.features(group)
            said = model.candidates_in(features, group, proposals="test", score_floor=floor, top_k=UNLIMITED)
            found |= dict(zip(positions, heads.with_masks(features, self._best(said)), strict=True))
        return [found[i] for i in range(len(images))]

    def _best(self, found: Sequence[Candidates]) -> list[Candidates]:
        config = self.run.model
        return [after_nms(self.gate(each), config.test_nms, config.test_detections) for each in found]

    def fork_drops(self, name: str) -> bool:
        """Heads that a method adds may be left out: a plain detector can start from the burn-in of one with them."""
        return not name.startswith(STANDARD_PARTS)

    def label_bytes(self, num_classes: int) -> int:
        """Return what benchmarks/store.md measured for detections; candidates before NMS take more."""
        return 2_000

    def moving_teacher(self) -> LabelSchedule:
        """Return the schedule of a teacher that follows the student: the newest one from the burn-in's end on."""
        labels, start = self.run.labels, self.run.method.burn_in_steps
        return LabelSchedule.moving(start, publish_every=labels.publish_every, lookahead=labels.lookahead)


class OnePass(DetectionMethod):
    """A method whose losses all look at the same boxes, in one pass over all views."""

    @abstractmethod
    def terms(self, student: Any, batch: StudentBatch, found: TrainPass) -> dict[str, LossTerm]:
        """Return every term of `loss_weights` from one pass over all views; see `losses`."""

    def losses(self, student: Any, batch: StudentBatch, teacher: Any, state: Any) -> Outputs:
        """Run one forward over all views, each about its own target."""
        images = framed(batch.views, student)
        # One stream per view for anchors and RoIs: independent of rank and of the views around it.
        rngs = [stream(self.run.seed, "sampling", view.role, view.image_id, batch.step) for view in batch.views]
        return Outputs(self.terms(student, batch, train_pass(student, images, batch.targets, rngs)))


def detection_method(config: RunConfig, purpose: str) -> DetectionMethod:
    """Return the method of a run where only a detector will do. Raises UserError that says what it was wanted for."""
    method = build_method(config)
    if not isinstance(method, DetectionMethod):
        raise UserError(
            f"{purpose} is for detectors; method.name={config.method.name} trains a {config.trains}, for which there "
            f"are raydet evaluate, raydet report, and raydet export --out FILE.safetensors"
        )
    return method


def no_survivors(
    window: Window, threshold: float, after_steps: int, *, otherwise: str, key: str = "method.score_threshold"
) -> Alarm | None:
    """Say, with the likely cause, that no pseudo-box survives a score threshold and the gates beside it.

    `otherwise` is the cause where scores are high enough, `key` the setting of the threshold.
    """
    if not window.sums["images"] or window.sums["kept"]:
        return None
    best = window.highest["best_score"]
    if not window.sums["candidates"]:
        cause = "the teacher finds nothing at all: the burn-in was too short, or the classes do not match"
    elif best <= threshold:
        cause = (
            f"the teacher's best score is {best:.2f}, {key} is {threshold}: "
            f"lower the threshold or lengthen method.burn_in_steps"
        )
    else:
        cause = otherwise
    return Alarm("no_pseudo_boxes", f"no pseudo-box survives: {cause}", after_steps)
