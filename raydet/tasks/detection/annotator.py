"""The teacher of a detector: image ids in, pseudo-boxes in original pixels out."""

from __future__ import annotations

from collections.abc import Sequence

from raydet.config.detection import DetectionConfig
from raydet.data.boxes.family import BOXES
from raydet.data.boxes.loader import TeacherViews
from raydet.geometry import clip_boxes, is_usable
from raydet.methods import build_detection_method
from raydet.models.detector import Detector
from raydet.models.images import collate
from raydet.records import Candidates, PseudoBoxes, TeacherRef, ViewedImage
from raydet.tasks.annotator import ModelAnnotator


class DetectorAnnotator(ModelAnnotator[Detector, ViewedImage, PseudoBoxes]):
    """Labels weak views, and carries the boxes back into the original image."""

    def __init__(
        self, config: DetectionConfig, data_folder: str, device: str, views: TeacherViews | None = None
    ) -> None:
        """`views`: those of the loader, where the student is trained in this very process."""
        data = BOXES.open(data_folder)
        assert data.unlabeled is not None
        self._index = data.unlabeled
        self._views = views or TeacherViews(data, config)
        self._method = build_detection_method(config, "labelling with boxes")
        super().__init__(config, self._method.build_model(len(data.class_names)), device)

    def see(self, image_id: str, version: int) -> ViewedImage:
        """Return the weak view."""
        return self._views.take(image_id, version)

    def annotate(self, ids: Sequence[str], views: Sequence[ViewedImage], ref: TeacherRef) -> list[PseudoBoxes]:
        """Return what the method's teacher finds."""
        said = self._method.annotate(self.model, collate([view.pixels for view in views], self.device))
        return [self._record(view, each, ref) for view, each in zip(views, said, strict=True)]

    def _record(self, view: ViewedImage, said: Candidates, ref: TeacherRef) -> PseudoBoxes:
        height, width = self._index.size_at(self._index.position(view.image_id))
        boxes = clip_boxes(view.view.to_original(said.boxes.float().cpu()), height, width)
        record = PseudoBoxes(
            view.image_id,
            ref,
            boxes,
            said.classes.cpu(),
            said.scores.float().cpu(),
            said.quality.float().cpu(),
            said.complete_above,
        )
        return record.where(is_usable(boxes, 0.0))
