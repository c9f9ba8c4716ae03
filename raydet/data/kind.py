"""What lies at a path, boxes or classes or both: for commands that are given a data set and no method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raydet.config.box_data import DatasetConfig
from raydet.config.class_data import ImageSetConfig
from raydet.config.load import resolve_section
from raydet.data.boxes.formats.detect import AnnotationsNotReadError
from raydet.data.boxes.formats.detect import detect_format as boxes_format
from raydet.data.classes.formats.cifar import find_cifar
from raydet.data.classes.formats.detect import detect_format as classes_format
from raydet.data.classes.formats.folder import has_class_folders
from raydet.data.classes.formats.idx import has_idx
from raydet.data.classes.formats.svhn import has_svhn
from raydet.data.located.formats.detect import layout_of
from raydet.data.paths import LeadsOutsideError
from raydet.errors import DataError

LOOKED_FOR = (
    "looked for boxes: COCO .json, YOLO data.yaml or images/ + labels/, VOC Annotations/ or *.xml; for classes: CIFAR, "
    "SVHN .mat, IDX, .parquet, a folder of images per class; for both: CUB-200-2011, ImageNet-1k, Tiny-ImageNet; and "
    "for plain images"
)


def kind_of(path: str, subset: str | None = None, images: str | None = None) -> str:
    """Return the family whose data lies there. Annotated boxes come first, then classes; plain images count as
    detection data, and so does what has an image root, `images`, of its own.

    Raises DataError where there is neither.
    """
    if images is not None:  # that of a COCO JSON
        return "detection"
    if layout_of(Path(path).expanduser()) is not None:
        return "localization"
    boxes = resolve_section(DatasetConfig, {"path": path}, where=path)
    classes = resolve_section(ImageSetConfig, {"path": path, "subset": subset}, where=path)
    try:
        boxed, no_boxes = _tried(lambda: boxes_format(boxes))
    except AnnotationsNotReadError:
        return "detection"  # whose reader says so
    classed, no_classes = _tried(lambda: classes_format(classes))
    if boxed not in ("", "folder"):
        return "detection"
    if classed not in ("", "folder"):
        return "classification"
    if boxed or classed:
        return "classification" if has_class_folders(Path(classes.path).expanduser()) else "detection"
    # The same from both: there is nothing, or it cannot be looked into.
    raise DataError(no_boxes if no_boxes == no_classes else f"{path}: no data set found there; {LOOKED_FOR}")


def published_parts(folder: Path) -> list[str]:
    """Return the parts of CIFAR, SVHN or IDX files in a folder, of train and test; none where there are none."""
    if find_cifar(folder) is None and not has_svhn(folder) and not has_idx(folder):
        return []
    places = [folder, *(entry for entry in folder.iterdir() if entry.is_dir())]  # an archive has a folder of its own
    names = [entry.name for place in places for entry in place.iterdir()]
    has_test = any("test" in name or name.startswith("t10k") for name in names)
    return ["train", "test"] if has_test else ["train"]


def _tried(detect: Callable[[], str]) -> tuple[str, str]:
    """Return the format, or an empty one and why."""
    try:
        return detect(), ""
    except (AnnotationsNotReadError, LeadsOutsideError):
        raise
    except DataError as error:
        return "", str(error)
