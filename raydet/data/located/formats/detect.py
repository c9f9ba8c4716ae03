"""From a `LocatedSetConfig` to a `LocatedTable`: decide on the format, then call its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from raydet.config.box_data import DatasetConfig, ShapesConfig
from raydet.config.located_data import LocatedSetConfig
from raydet.data.boxes.formats.detect import detect_format as boxes_format
from raydet.data.boxes.formats.detect import read_source
from raydet.data.boxes.synthetic import materialise
from raydet.data.classes.formats.detect import detect_format as classes_format
from raydet.data.classes.formats.folder import read_image_folder
from raydet.data.located.formats.coco import OnSeveral, of_source, read_located_coco
from raydet.data.located.formats.cub import find_cub, read_cub
from raydet.data.located.formats.imagenet import find_imagenet, read_imagenet
from raydet.data.located.formats.parquet import as_images, read_located_parquet
from raydet.data.located.formats.tiny_imagenet import find_tiny_imagenet, read_tiny_imagenet
from raydet.data.located.table import LocatedTable, located
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

Format = Literal["cub", "imagenet", "tiny_imagenet", "coco", "folder", "parquet", "shapes"]
LAYOUTS = {"cub": find_cub, "imagenet": find_imagenet, "tiny_imagenet": find_tiny_imagenet}
READERS = {"cub": read_cub, "imagenet": read_imagenet, "tiny_imagenet": read_tiny_imagenet}


def read_located(
    one: LocatedSetConfig, log: ProblemLog, *, on_several: OnSeveral = "error", generated: Path
) -> tuple[LocatedTable, Format]:
    """Read a set of any format; `path: shapes` is made below `generated`.

    Broken entries are reported to `log` and left out. Raises DataError where the set as a whole cannot be read.
    """
    path, format = Path(one.path).expanduser(), detect_located(one)
    if format in READERS:
        return READERS[format](path, one.subset, read_boxes=one.read_boxes, log=log), format
    if format == "shapes":
        file = materialise(one.shapes or ShapesConfig(max_objects=1), generated)
        return read_located_coco(file, None, on_several, read_boxes=one.read_boxes, log=log), format
    if format == "coco":
        given = {"path": one.path, "images": one.images, "subset": one.subset, "format": "coco"}
        source = read_source(DatasetConfig.model_validate(given), log)
        return of_source(source, on_several, read_boxes=one.read_boxes, log=log), format
    if format == "parquet":
        return read_located_parquet(one, log), format
    return located(read_image_folder(path, one.subset, log)), format


def detect_located(one: LocatedSetConfig) -> Format:
    """Return `one.format`, or what `auto` decides from the path. Raises DataError that says what was looked for."""
    if one.format != "auto":
        return one.format
    if one.path == "shapes":
        return "shapes"
    path = Path(one.path).expanduser()
    if (layout := layout_of(path)) is not None:
        return layout
    if path.suffix.lower() == ".json" or (path.is_dir() and _is_coco(one)):
        return "coco"
    found = classes_format(as_images(one, "auto"))
    if found not in ("parquet", "folder"):
        raise DataError(
            f"{path}: {found} has classes and no boxes, and is not read here; give CUB_200_2011, ILSVRC, "
            f"tiny-imagenet-200, a COCO .json, a folder of images per class, or .parquet"
        )
    return "parquet" if found == "parquet" else "folder"


def layout_of(folder: Path) -> Format | None:
    """Return which published layout a folder has."""
    names: dict[str, Format] = {"cub": "cub", "imagenet": "imagenet", "tiny_imagenet": "tiny_imagenet"}
    if not folder.is_dir():
        return None
    return next((names[name] for name, find in LAYOUTS.items() if find(folder) is not None), None)


def _is_coco(one: LocatedSetConfig) -> bool:
    try:
        return boxes_format(DatasetConfig.model_validate({"path": one.path})) == "coco"
    except DataError:
        return False
