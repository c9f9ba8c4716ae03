"""The teacher of a detector: image ids in, pseudo-boxes in original pixels out."""

from __future__ import annotations

from collections.abc import Sequence

from raydet.families.detection.batch import ViewedImage
from raydet.families.detection.data import PreparedBoxes
from raydet.families.detection.loader import TeacherViews
from raydet.families.detection.method import DetectionMethod
from raydet.labels.annotator import ModelAnnotator
from raydet.randomness import stream
from raydet.records import Candidates, PseudoBoxes, TeacherRef
from raydet.vision.detector import Detector
from raydet.vision.device import on_host
from raydet.vision.geometry import clip_boxes, is_usable
from raydet.vision.pretrained import architecture_only


class DetectorAnnotator(ModelAnnotator[Detector, ViewedImage, PseudoBoxes]):
    """Labels weak views, and carries the boxes back into the original image."""

    def __init__(self, method: DetectionMethod, data: PreparedBoxes, device: str, views: TeacherViews) -> None:
        """`views`: those of the loader, where the student is trained in this very process."""
        assert data.unlabeled is not None
        self._index, self._views, self._method = data.unlabeled, views, method
        with architecture_only():  # a teacher takes the student's weights, on nodes where no file of others may lie
            model = method.build_model(len(data.class_names))
        super().__init__(method.run, model, device)
        for part in method.compiled(self.model):
            part.compile()

    def see(self, image_id: str, version: int) -> ViewedImage:
        """Return the weak view."""
        return self._views.take(image_id, version)

    def annotate(self, ids: Sequence[str], views: Sequence[ViewedImage], ref: TeacherRef) -> list[PseudoBoxes]:
        """Return what the method's teacher finds."""
        sizes = [self._index.size_at(self._index.position(image_id)) for image_id in ids]
        return labelled(self._method, self.model, views, ref, sizes)


def labelled(
    method: DetectionMethod,
    teacher: Detector,
    views: Sequence[ViewedImage],
    ref: TeacherRef,
    sizes: Sequence[tuple[int, int]],
) -> list[PseudoBoxes]:
    """Return what a teacher says of weak views, boxes in original pixels; `sizes`: (height, width) of the originals."""
    rngs = [stream(method.run.seed, "annotate", view.image_id, ref.version) for view in views]
    said = method.annotate(teacher, teacher.framed([view.pixels for view in views]), rngs)
    return [_record(*each, ref) for each in zip(views, on_host(said), sizes, strict=True)]


def _record(view: ViewedImage, said: Candidates, size: tuple[int, int], ref: TeacherRef) -> PseudoBoxes:
    boxes = clip_boxes(view.view.to_original(said.boxes), *size)
    record = PseudoBoxes(view.image_id, ref, boxes, said.classes, said.scores, said.quality, said.complete_above)
    return record.where(is_usable(boxes, 0.0))
