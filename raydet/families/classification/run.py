"""Classification, bound to one rank of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydet.contract import FamilyRun
from raydet.families.classification.annotator import ClassAnnotator
from raydet.families.classification.assemble import LogitStats, assemble
from raydet.families.classification.batch import ClassBatch
from raydet.families.classification.data import PreparedImages
from raydet.families.classification.label_table import LabelTable
from raydet.families.classification.loader import ImageStepLoader, StepImages
from raydet.families.classification.method import ClassificationMethod
from raydet.families.classification.snapshot import write_snapshot
from raydet.group import Group
from raydet.records import PseudoLogits
from raydet.vision.classifier import Classifier
from raydet.window import Window


class ClassificationRun(FamilyRun):
    """One class per image: logits instead of boxes."""

    _data: PreparedImages
    _method: ClassificationMethod

    def __init__(self, data: PreparedImages, method: ClassificationMethod, group: Group) -> None:
        super().__init__(data, method, group)
        self._schedule = method.schedule()

    def build_loader(self) -> ImageStepLoader:
        """Return this rank's loader."""
        method, group = self._method, self._group
        return ImageStepLoader(self._data, method.run, method.stage_at, rank=group.rank, world=group.world)

    def build_annotator(self) -> ClassAnnotator:
        """Return a teacher; it sees views of its own."""
        return ClassAnnotator(self._method, self._data, str(self._group.device))

    def assemble(
        self, step: int, views: StepImages, labels: Sequence[PseudoLogits], state: Any
    ) -> tuple[ClassBatch, LogitStats]:
        """Give every unlabelled image its pseudo-logits."""
        version = self._schedule.version_for(step)
        return assemble(step, views, labels, state, version=version, num_classes=len(self.class_names))

    def figures(self, window: Window) -> dict[str, Any]:
        """Return what labels and predictions of unlabelled images are like, means over images."""
        sums = window.sums
        images = sums["images"]
        total = max(1, sum(window.per_class.values()))
        values: dict[str, Any] = {
            "labels/age_max": window.highest["age_max"],
            "labels/age_mean": sums["age"] / max(1.0, sums["aged"]),
            "pseudo/per_class": [window.per_class[k] / total for k in range(len(self.class_names))],
            "pseudo/repredicted": int(sums["repredicted"]),
        }
        for name in ("pseudo", "student"):
            if f"{name}/entropy" in sums:
                mean = sums[f"{name}/logit_sum"] / images
                variance = sums[f"{name}/logit_sum_squared"] / images - mean**2
                values |= {
                    f"{name}/{figure}": sums[f"{name}/{figure}"] / images for figure in ("confidence", "entropy")
                }
                values |= {f"{name}/logit_sum": mean, f"{name}/logit_sum_std": math.sqrt(max(0.0, variance))}
        if sums["had_a_label"]:
            values["pseudo/had_a_label"] = int(sums["had_a_label"])
            values["pseudo/changed"] = sums["changed"] / sums["had_a_label"]
        return values

    def snapshot(self, step: int, model: Classifier, state: Any, folder: Path) -> None:
        """Write what the labels are now, and what the network says about a sample of images."""
        table = state if isinstance(state, LabelTable) else None
        views, device = self._method.run.data.views, self._group.device
        write_snapshot(step, model, table, self._data, views, device, folder)
