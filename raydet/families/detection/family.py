"""Detection, as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from raydet.contract import Exported, Family, Finding
from raydet.data.boxes.index import DatasetIndex
from raydet.data.boxes.summary import SetSummary
from raydet.data.check import CheckReport
from raydet.data.problems import ProblemLog
from raydet.errors import ConfigError
from raydet.families.detection.annotator import DetectorAnnotator
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES, PreparedBoxes
from raydet.families.detection.evaluate import evaluate_sharded
from raydet.families.detection.label_files import DetectorOnFiles
from raydet.families.detection.loader import TeacherViews
from raydet.families.detection.method import STANDARD_PARTS, DetectionMethod, detection_method
from raydet.families.detection.proposal_recall import proposal_recall
from raydet.families.detection.run import DetectionRun
from raydet.families.detection.saved import SavedDetector
from raydet.text import plural
from raydet.vision.detector import Detector

if TYPE_CHECKING:
    from raydet.families.detection.report.inputs import Inputs
    from raydet.report.compare.runs import Compared


class Detection(Family[DetectionConfig, DatasetIndex, DetectionMethod, Detector]):
    """Boxes, measured by COCO's AP."""

    name = "detection"
    images = BOXES
    run_class = DetectionRun
    evaluate = staticmethod(evaluate_sharded)
    evaluate_proposals = staticmethod(proposal_recall)

    def describe(self, data: PreparedBoxes) -> str:
        """Count images and boxes."""
        boxes, classes = data.labeled.num_boxes, len(data.class_names)
        return (
            f"{plural(len(data.labeled), 'labelled image')} with {plural(boxes, 'box')} of {plural(classes, 'class')}"
        )

    def check_data(self, config: DetectionConfig, *, decode_images: bool) -> CheckReport:
        """List all problems of the data, and settings for classes that it does not have."""
        report = super().check_data(config, decode_images=decode_images)
        sets = {each.name: each.boxes_per_class for each in report.sets if isinstance(each, SetSummary)}
        if report.num_errors or "labeled" not in sets:
            return report  # which classes there are is not known for sure
        log = ProblemLog()
        try:
            detection_method(config, "detection").know_classes(list(sets["labeled"]))
        except ConfigError as error:
            log.error("class-names", config.data.labeled.path, "", str(error))
        return replace(report, problems=(*report.problems, *log.problems), counts={**report.counts, **log.counts})

    def check(self, config: DetectionConfig, data: PreparedBoxes) -> None:
        """Raise ConfigError where a setting names a class that the data does not have."""
        detection_method(config, "detection").know_classes(data.class_names)

    def build_annotator(self, config: DetectionConfig, data_folder: str, device: str) -> DetectorAnnotator:
        """Return a teacher."""
        data = BOXES.open(data_folder)
        method = detection_method(config, "labelling with boxes")
        return DetectorAnnotator(method, data, device, TeacherViews(data, config, method.recipe))

    def exported(self, config: DetectionConfig, model: Detector, class_names: Sequence[str]) -> Exported:
        """Leave out what a method adds: what is left is torchvision's `FasterRCNN` or `MaskRCNN`, whose class 0 is the
        background; or a cascade, which torchvision does not have."""
        weights = model.state_dict()
        plain = {name: value for name, value in weights.items() if name.startswith(STANDARD_PARTS)}
        heads = sorted({name.split(".")[0] for name in weights if name not in plain})
        remark = f" ({plural(len(weights) - len(plain), 'tensor')} of {', '.join(heads)} left out)" if heads else ""
        return Exported(plain, ["__background__", *class_names], config.data.views.model_dump_json(), remark)

    def onnx_exporter(self, saved: SavedDetector) -> Callable[..., str]:
        """Return what writes a detector as ONNX."""
        from raydet.families.detection.onnx import export_onnx

        return partial(export_onnx, saved)

    def on_files(self, saved: SavedDetector) -> DetectorOnFiles:
        """Return what labels images that belong to no run."""
        return DetectorOnFiles(saved)

    def comparison(self, runs: Compared, *, max_images: int) -> Sequence[Any]:
        """Show pictures where the runs differ most."""
        from raydet.families.detection.report.compare import makers_for  # it imports matplotlib

        return makers_for(max_images)

    def limits(self, inputs: Inputs) -> list[Finding]:
        """Say what the pseudo-boxes are short of."""
        from raydet.families.detection.limits.figures import box_figures  # it imports the report
        from raydet.families.detection.limits.rules import box_findings

        found = box_figures(inputs)
        return [] if found is None else box_findings(found)


FAMILY = Detection()
