"""Detection, bound to one rank of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydet.contract import FamilyRun
from raydet.families.detection.annotator import DetectorAnnotator
from raydet.families.detection.assemble import LabelStats, assemble
from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.data import PreparedBoxes
from raydet.families.detection.loader import StepLoader, StepViews, views_for_training
from raydet.families.detection.method import DetectionMethod
from raydet.group import Group
from raydet.labels.snapshots import write_values
from raydet.records import PseudoBoxes
from raydet.vision.detector import Detector
from raydet.window import Window


class DetectionRun(FamilyRun):
    """Boxes: found, gated, carried from view to view."""

    _data: PreparedBoxes
    _method: DetectionMethod

    def __init__(self, data: PreparedBoxes, method: DetectionMethod, group: Group) -> None:
        super().__init__(data, method, group)
        method.know_classes(data.class_names)
        self._views = views_for_training(
            data, method.run, method.recipe, group.world
        )  # shared by loader and inline teacher

    def build_loader(self) -> StepLoader:
        """Return this rank's loader."""
        method, group = self._method, self._group
        return StepLoader(
            self._data,
            method.run,
            self._views,
            rank=group.rank,
            world=group.world,
            version_for=method.schedule().version_for,
            recipe=method.recipe,
        )

    def build_annotator(self) -> DetectorAnnotator:
        """Return a teacher that shares the loader's views."""
        return DetectorAnnotator(self._method, self._data, str(self._group.device), self._views)

    def assemble(
        self, step: int, views: StepViews, labels: Sequence[PseudoBoxes], state: Any
    ) -> tuple[StudentBatch, LabelStats]:
        """Select the pseudo-boxes and carry them into the strong views."""
        return assemble(step, views, labels, self._method, state, num_classes=len(self.class_names))

    def snapshot(self, step: int, model: Detector, state: Any, folder: Path) -> None:
        """Write the statistics of the classes, where the method has some."""
        if values := self._method.class_statistics(state, step):
            write_values(folder, step, {name: value.cpu().numpy() for name, value in values.items()})

    def figures(self, window: Window) -> dict[str, Any]:
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
            "pseudo/per_class": [window.per_class[i] / images for i in range(len(self.class_names))],
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
