"""Classification, as the engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raydet.contract import Exported, Family, Finding
from raydet.data.classes.index import ImageIndex
from raydet.errors import DataError
from raydet.families.classification.annotator import ClassAnnotator
from raydet.families.classification.config import ClassificationConfig
from raydet.families.classification.data import IMAGES, PreparedImages
from raydet.families.classification.evaluate import evaluate_sharded
from raydet.families.classification.limits import label_figures, label_findings
from raydet.families.classification.method import ClassificationMethod, classification_method
from raydet.families.classification.run import ClassificationRun
from raydet.text import plural
from raydet.vision.classifier import Classifier

if TYPE_CHECKING:
    from raydet.families.classification.report.inputs import ClassificationInputs
    from raydet.report.compare.runs import Compared


class Classification(Family[ClassificationConfig, ImageIndex, ClassificationMethod, Classifier]):
    """One class per image, measured by accuracy."""

    name = "classification"
    images = IMAGES
    run_class = ClassificationRun
    evaluate = staticmethod(evaluate_sharded)

    def check(self, config: ClassificationConfig, data: PreparedImages) -> None:
        """Raise DataError where a batch of unlabelled images would hold one of them twice."""
        method = classification_method(config)
        if data.unlabeled is None or not config.uses_labels:
            return
        for first in {0, *(end for end in method.stage_ends if end < config.length)}:
            stage = method.stage_at(first)
            batch = stage.batches(len(data.labeled), len(data.unlabeled))[1]
            if batch > len(data.unlabeled):
                raise DataError(
                    f"stage {stage.name!r} wants {plural(batch, 'unlabelled image')} per step, there are "
                    f"{len(data.unlabeled)}: lower optim.unlabeled_batch (r2d2: or method.finetune_batch), or give "
                    "more images"
                )

    def describe(self, data: PreparedImages) -> str:
        """Count images and classes."""
        counts = data.labeled.images_per_class()
        spread = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        return (
            f"{plural(len(data.labeled), 'labelled image')} of {plural(len(data.class_names), 'class')} "
            f"({spread} of each)"
        )

    def build_annotator(self, config: ClassificationConfig, data_folder: str, device: str) -> ClassAnnotator:
        """Return a teacher."""
        return ClassAnnotator(classification_method(config), IMAGES.open(data_folder), device)

    def exported(self, config: ClassificationConfig, model: Classifier, class_names: Sequence[str]) -> Exported:
        """Give a ResNet-18 torchvision's names; the other networks are not torchvision's."""
        return Exported(model.exported(), list(class_names), config.data.views.model_dump_json())

    def comparison(self, runs: Compared, *, max_images: int) -> Sequence[Any]:
        """Show images that only some of the runs get right."""
        from raydet.families.classification.report.compare import makers_for  # it imports matplotlib

        return makers_for(max_images)

    def limits(self, inputs: ClassificationInputs) -> list[Finding]:
        """Say what the pseudo-labels are short of."""
        found = label_figures(inputs)
        return [] if found is None else label_findings(found)


FAMILY = Classification()
