"""From a `DatasetConfig` to a `Source`: decide on the format, then call its reader."""

from __future__ import annotations

import glob
import tempfile
from pathlib import Path
from typing import Literal

from raydet.config.box_data import DatasetConfig, ShapesConfig
from raydet.data.boxes.class_names import mapped
from raydet.data.boxes.formats.coco import read_coco
from raydet.data.boxes.formats.coco_file import coco_file
from raydet.data.boxes.formats.folder import read_folder
from raydet.data.boxes.formats.voc import read_voc
from raydet.data.boxes.formats.yolo import read_yolo
from raydet.data.boxes.source import Source
from raydet.data.boxes.synthetic import materialise
from raydet.data.folder import SUFFIXES
from raydet.data.layouts import Found, look_into, named, not_read
from raydet.data.problems import ProblemLog
from raydet.data.yaml_kind import yaml_kind
from raydet.errors import DataError

Format = Literal["coco", "voc", "yolo", "folder", "shapes"]
_ANNOTATED = frozenset({"labeled", "val", "test"})


class AnnotationsNotReadError(DataError):
    """Images lie there with annotations of a kind that is not read; without these they would count as background."""


def read_source(
    config: DatasetConfig, log: ProblemLog, generated: Path | None = None, *, role: str = "data", masks: bool = False
) -> Source:
    """Read a data set of any format; `path: shapes` is generated below `generated` (default: a temporary one).

    `role`: what the set is for (labeled, unlabeled, val, test), or "data" where it is looked at alone. Broken entries
    are reported to `log` and left out. `masks`: read the objects' masks too. Raises DataError where the data set as a
    whole cannot be read, or its format has no masks.
    """
    source = _read(config, log, generated, role, masks)
    if masks and source.masks is None:
        raise DataError(
            f"{source.file}: masks are wanted of the {role} images, and format {source.format} has none that are read; "
            f"give a COCO file with polygons or RLE (segmentation), or set model.detector=faster_rcnn"
        )
    return mapped(source, config.class_map, log)


def _read(config: DatasetConfig, log: ProblemLog, generated: Path | None, role: str, masks: bool) -> Source:
    path = Path(config.path).expanduser()
    images = Path(config.images).expanduser() if config.images is not None else None
    format = detect_format(config, role)
    if format == "shapes":
        folder = generated or Path(tempfile.mkdtemp(prefix="raydet-shapes-"))
        return read_coco(materialise(config.shapes or ShapesConfig(), folder, masks=masks), None, log, masks=masks)
    if format == "coco":
        return read_coco(coco_file(path, config.subset), images, log, masks=masks)
    if format == "voc":
        return read_voc(path, config.subset, log, images)
    if format == "yolo":
        return read_yolo(path, config.subset, images, log, role)
    if config.subset is not None:
        raise DataError(
            f"{path}: subset {config.subset!r} is for annotated sets, and these are plain images; remove it"
        )
    return read_folder(str(path), log, images)


def detect_format(config: DatasetConfig, role: str = "data") -> Format:
    """Return `config.format`, or what `auto` decides from the path and what the set is for.

    Raises DataError that says what was looked for.
    """
    if config.format != "auto":
        return config.format
    if config.path == "shapes":
        return "shapes"
    path = Path(config.path).expanduser()
    if path.is_dir():
        is_bare = role == "unlabeled" and config.subset is None and config.images is None
        return _format_of_folder(look_into(path), role, is_bare=is_bare)
    if path.exists():
        by_suffix: dict[str, Format] = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".data": "yolo"}
        if path.suffix.lower() in by_suffix:
            if by_suffix[path.suffix.lower()] == "yolo" and yaml_kind(path) == "config":
                raise DataError(f"{path}: a configuration of raydet, not a data set; name the data set itself")
            return by_suffix[path.suffix.lower()]
        raise DataError(f"{path}: format unknown; give a COCO .json, a YOLO data.yaml, a folder or a glob of images")
    if glob.has_magic(config.path):
        return "folder"
    hint = "; the generated `patterns` have classes, `shapes` have boxes" if config.path == "patterns" else ""
    raise DataError(f"{path}: no such file or folder{hint}")


def _format_of_folder(found: Found, role: str, *, is_bare: bool) -> Format:
    """Decide on what all evidence says; `is_bare`: the images are wanted without what is known of them."""
    folder, readable = found.folder, found.readable
    if is_bare and found.images:
        return "folder"  # a partial JSON among the images would else make an unlabelled set of the labelled ones
    formats: dict[str, Format] = {"coco": "coco", "voc": "voc", "yolo": "yolo"}
    kinds = list(dict.fromkeys(formats[layout.format] for layout in readable))
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        choice = " or ".join(f"`format: {kind}`" for kind in kinds)
        raise DataError(f"{folder}: several kinds of annotations lie there: {named(readable)}; say which with {choice}")
    if found.foreign:
        bare = "" if role in _ANNOTATED else "; for the images alone, without boxes, set `format: folder`"
        raise AnnotationsNotReadError(f"{folder}: {not_read(found)}{bare}")
    if found.images and role not in _ANNOTATED:
        return "folder"
    what = "images, but no annotations" if found.images else "no data set found"
    raise DataError(
        f"{folder}: {what} there; looked for a data.yaml or images/ + labels/ (YOLO), Annotations/ or *.xml "
        f"(VOC), *.json or annotations/*.json (COCO), and images ({', '.join(SUFFIXES)})"
    )
