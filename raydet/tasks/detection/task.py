"""Detection, as the engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydet.config.detection import DetectionConfig
from raydet.config.detection_methods import IlNetConfig, UnbiasedTeacherConfig
from raydet.data.boxes.family import BOXES, PreparedBoxes
from raydet.data.boxes.index import DatasetIndex
from raydet.data.boxes.loader import StepLoader, StepViews, TeacherViews, views_for_training
from raydet.evaluate import EvalResult
from raydet.labels.schedule import LabelSchedule
from raydet.methods import DetectionMethod, Memory
from raydet.methods.detection import IOU_BRANCH
from raydet.models.detector import Detector
from raydet.records import PseudoBoxes, StudentBatch
from raydet.tasks.base import Alarm, Exported, Task
from raydet.tasks.detection.annotator import DetectorAnnotator
from raydet.tasks.detection.batch import LabelStats, assemble
from raydet.tasks.detection.predict import evaluate_sharded
from raydet.tasks.window import Window
from raydet.train.group import Group


class Detection(Task[DetectionConfig]):
    """Boxes: found, gated, carried from view to view, measured by COCO's AP."""

    images = BOXES

    def describe(self, data: PreparedBoxes) -> str:
        """Count images and boxes."""
        boxes, classes = data.labeled.num_boxes, len(data.class_names)
        return f"{len(data.labeled)} labelled images with {boxes} boxes of {classes} classes"

    def build_views(self, data: PreparedBoxes, world: int) -> TeacherViews:
        """Return the weak views that the inline teacher and the loader share."""
        return views_for_training(data, self.config, world)

    def build_loader(
        self, data: PreparedBoxes, method: DetectionMethod, schedule: LabelSchedule, views: TeacherViews, group: Group
    ) -> StepLoader:
        """Return this rank's loader."""
        rank, world = group.rank, group.world
        return StepLoader(data, self.config, views, rank=rank, world=world, version_for=schedule.version_for)

    def build_annotator(self, data_folder: str, device: str, views: TeacherViews | None = None) -> DetectorAnnotator:
        """Return a teacher."""
        return DetectorAnnotator(self.config, data_folder, device, views)

    def assemble(
        self,
        step: int,
        views: StepViews,
        labels: Sequence[PseudoBoxes],
        method: DetectionMethod,
        memory: Memory | None,
        *,
        version: int | None,
        max_age: int,
        num_classes: int,
    ) -> tuple[StudentBatch, LabelStats]:
        """Select the pseudo-boxes and carry them into the strong views."""
        return assemble(step, views, labels, method, max_age=max_age, num_classes=num_classes)

    def evaluate(
        self, method: DetectionMethod, model: Detector, index: DatasetIndex, group: Group, *, max_images: int | None
    ) -> EvalResult | None:
        """Return COCO's figures."""
        return evaluate_sharded(method, model, index, group, max_images=max_images)

    def exported(self, model: Detector, class_names: Sequence[str]) -> Exported:
        """Leave the IoU branch out: what is left is torchvision's `FasterRCNN`, whose class 0 is the background."""
        weights = model.state_dict()
        plain = {name: value for name, value in weights.items() if not name.startswith(IOU_BRANCH)}
        left_out = len(weights) - len(plain)
        remark = f" ({left_out} tensors of the IoU branch left out)" if left_out else ""
        views = self.config.data.views.model_dump_json()
        return Exported(plain, ["__background__", *class_names], views, remark)

    def figures(self, window: Window, class_names: Sequence[str]) -> dict[str, Any]:
        """Return what became of the pseudo-boxes, per image."""
        sums = window.sums
        images, kept = sums["images"], sums["kept"]
        values = {
            "labels/age_max": window.highest["age_max"],
            "labels/age_mean": sums["age"] / images,
            "labels/incomplete": sums["incomplete"] / images,
            "pseudo/boxes_per_image": kept / images,
            "pseudo/candidates_per_image": sums["candidates"] / images,
            "pseudo/degenerate": sums["degenerate"] / images,
            "pseudo/per_class": [window.per_class[i] / images for i in range(len(class_names))],
        }
        if kept:
            values |= {"pseudo/mean_score": sums["score"] / kept, "pseudo/mean_quality": sums["quality"] / kept}
        if by_quality := sums.get("dropped/quality"):
            values["gate/quality/mean_dropped"] = sums["dropped_quality"] / by_quality
        if "background" in sums:
            values["gate/quality/background"] = sums["background"] / images
        prefix = "dropped/"
        return values | {
            f"gate/{name.removeprefix(prefix)}/dropped": number / images
            for name, number in sums.items()
            if name.startswith(prefix)
        }

    def label_bytes(self, num_classes: int) -> int:
        """Return what benchmarks/store.md measured: IL-net stores candidates before NMS, the others what is left."""
        return 8_000 if isinstance(self.config.method, IlNetConfig) else 2_000

    def alarm(self, window: Window) -> Alarm | None:
        """Say, with the likely cause, that no pseudo-box survives."""
        method = self.config.method
        if not isinstance(method, UnbiasedTeacherConfig | IlNetConfig) or not window.sums["images"]:
            return None
        if window.sums["kept"]:
            return None
        best = window.highest["best_score"]
        if not window.sums["candidates"]:
            cause = "the teacher finds nothing at all: the burn-in was too short, or the classes do not match"
        elif best <= method.score_threshold:
            cause = (
                f"the teacher's best score is {best:.2f}, method.score_threshold is {method.score_threshold}: "
                f"lower the threshold or lengthen method.burn_in_steps"
            )
        else:
            cause = (
                "candidates score high enough, but the quality gate drops them all: "
                "lower method.iou_filter_threshold (theta) or lengthen the burn-in"
            )
        return Alarm("no_pseudo_boxes", f"no pseudo-box survives: {cause}", method.alarm_after_steps)
