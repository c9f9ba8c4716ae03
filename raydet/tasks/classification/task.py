"""Classification, as the engine sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raydet.config.classification import ClassificationConfig
from raydet.data.images.family import IMAGES, PreparedImages
from raydet.data.images.index import ImageIndex
from raydet.data.images.loader import ImageStepLoader, StepImages
from raydet.errors import DataError
from raydet.evaluate.classes import ClassifierResult
from raydet.labels.schedule import LabelSchedule
from raydet.methods import ClassificationMethod, build_classification_method
from raydet.models.classifier import Classifier
from raydet.models.label_table import LabelTable
from raydet.records import ClassBatch, PseudoLogits
from raydet.tasks.base import Exported, Task
from raydet.tasks.classification.annotator import ClassAnnotator
from raydet.tasks.classification.batch import LogitStats, assemble
from raydet.tasks.classification.predict import evaluate_sharded
from raydet.tasks.classification.snapshot import write_snapshot
from raydet.tasks.window import Window
from raydet.train.group import Group


class Classification(Task[ClassificationConfig]):
    """One class per image: logits instead of boxes, measured by accuracy."""

    images = IMAGES

    def check(self, data: PreparedImages) -> None:
        """Raise DataError where a batch of unlabelled images would hold one of them twice."""
        config, method = self.config, build_classification_method(self.config)
        if data.unlabeled is None or not config.uses_labels:
            return
        for first in {0, *(end for end in method.stage_ends if end < config.length)}:
            stage = method.stage_at(first)
            batch = stage.batches(len(data.labeled), len(data.unlabeled))[1]
            if batch > len(data.unlabeled):
                raise DataError(
                    f"stage {stage.name!r} wants {batch} unlabelled images per step, there are {len(data.unlabeled)}: "
                    f"lower optim.unlabeled_batch (r2d2: or method.finetune_batch), or give more images"
                )

    def describe(self, data: PreparedImages) -> str:
        """Count images and classes."""
        counts = data.labeled.images_per_class()
        spread = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        return f"{len(data.labeled)} labelled images of {len(data.class_names)} classes ({spread} of each)"

    def build_views(self, data: PreparedImages, world: int) -> None:
        """Nothing: teacher and student see views of their own."""

    def build_loader(
        self, data: PreparedImages, method: ClassificationMethod, schedule: LabelSchedule, views: None, group: Group
    ) -> ImageStepLoader:
        """Return this rank's loader."""
        return ImageStepLoader(data, self.config, method.stage_at, rank=group.rank, world=group.world)

    def build_annotator(self, data_folder: str, device: str, views: None = None) -> ClassAnnotator:
        """Return a teacher."""
        return ClassAnnotator(self.config, data_folder, device)

    def assemble(
        self,
        step: int,
        views: StepImages,
        labels: Sequence[PseudoLogits],
        method: ClassificationMethod,
        memory: Any,
        *,
        version: int | None,
        max_age: int,
        num_classes: int,
    ) -> tuple[ClassBatch, LogitStats]:
        """Give every unlabelled image its pseudo-logits."""
        return assemble(step, views, labels, memory, version=version, max_age=max_age, num_classes=num_classes)

    def evaluate(
        self,
        method: ClassificationMethod,
        model: Classifier,
        index: ImageIndex,
        group: Group,
        *,
        max_images: int | None,
    ) -> ClassifierResult | None:
        """Return accuracy and errors."""
        return evaluate_sharded(model, index, self.config.data.views, group, max_images=max_images)

    def exported(self, model: Classifier, class_names: Sequence[str]) -> Exported:
        """Give a ResNet-18 torchvision's names; the other networks are not torchvision's."""
        return Exported(model.exported(), list(class_names), self.config.data.views.model_dump_json())

    def figures(self, window: Window, class_names: Sequence[str]) -> dict[str, Any]:
        """Return what labels and predictions of unlabelled images are like, means over images."""
        sums = window.sums
        images = sums["images"]
        total = max(1, sum(window.per_class.values()))
        values: dict[str, Any] = {
            "labels/age_max": window.highest["age_max"],
            "labels/age_mean": sums["age"] / max(1.0, sums["aged"]),
            "pseudo/per_class": [window.per_class[k] / total for k in range(len(class_names))],
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

    def label_bytes(self, num_classes: int) -> int:
        """Return the size of a float32 per class, and of what a row has besides: key and digest."""
        return 100 + 4 * num_classes

    def extras(self, method: ClassificationMethod, step: int) -> dict[str, Any]:
        """Name the stage."""
        return {"stage": method.stage_at(step).name}

    def snapshot(
        self,
        step: int,
        method: ClassificationMethod,
        model: Classifier,
        memory: Any,
        data: PreparedImages,
        device: torch.device,
        folder: Path,
    ) -> None:
        """Write what the labels are now, and what the network says about a sample of images."""
        table = memory if isinstance(memory, LabelTable) else None
        write_snapshot(step, model, table, data, self.config.data.views, device, folder)
