"""From a `DatasetConfig` to a `Source`: decide on the format, then call its reader."""

from __future__ import annotations

import glob
import json
import tempfile
from pathlib import Path
from typing import Literal

from raydet.config.box_data import DatasetConfig, ShapesConfig
from raydet.data.boxes.class_names import mapped
from raydet.data.boxes.formats.coco import read_coco
from raydet.data.boxes.formats.folder import read_folder
from raydet.data.boxes.formats.voc import read_voc
from raydet.data.boxes.formats.yolo import read_yolo
from raydet.data.boxes.source import Source
from raydet.data.boxes.synthetic import materialise
from raydet.data.folder import SUFFIXES, walk
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

Format = Literal["coco", "voc", "yolo", "folder", "shapes"]


def read_source(config: DatasetConfig, log: ProblemLog, generated: Path | None = None) -> Source:
    """Read a data set of any format; `path: shapes` is generated below `generated` (default: a temporary one).

    Broken entries are reported to `log` and left out. Raises DataError where the data set as a whole cannot be read.
    """
    return mapped(_read(config, log, generated), config.class_map, log)


def _read(config: DatasetConfig, log: ProblemLog, generated: Path | None) -> Source:
    path = Path(config.path).expanduser()
    images = Path(config.images).expanduser() if config.images is not None else None
    format = detect_format(config)
    if format == "shapes":
        folder = generated or Path(tempfile.mkdtemp(prefix="raydet-shapes-"))
        return read_coco(materialise(config.shapes or ShapesConfig(), folder), None, log)
    if format == "coco":
        return read_coco(_coco_file(path), images, log)
    if format == "voc":
        return read_voc(path, config.subset, log)
    if format == "yolo":
        return read_yolo(path, config.subset, images, log)
    return read_folder(str(path), log)


def detect_format(config: DatasetConfig) -> Format:
    """Return `config.format`, or what `auto` decides from the path. Raises DataError that says what was looked for."""
    if config.format != "auto":
        return config.format
    if config.path == "shapes":
        return "shapes"
    path = Path(config.path).expanduser()
    if path.is_dir():
        return _format_of_folder(path)
    if path.exists():
        by_suffix: dict[str, Format] = {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}
        if path.suffix.lower() in by_suffix:
            return by_suffix[path.suffix.lower()]
        raise DataError(f"{path}: format unknown; give a COCO .json, a YOLO data.yaml, a folder or a glob of images")
    if glob.has_magic(config.path):
        return "folder"
    hint = "; the generated `patterns` have classes, `shapes` have boxes" if config.path == "patterns" else ""
    raise DataError(f"{path}: no such file or folder{hint}")


def _format_of_folder(folder: Path) -> Format:
    if any(folder.glob("*.yaml")) or any(folder.glob("*.yml")) or _has_yolo_layout(folder):
        return "yolo"
    if (folder / "Annotations").is_dir() or any(folder.glob("*.xml")):
        return "voc"
    if _json_files(folder):
        return "coco"
    log = ProblemLog()
    if any(path.suffix.lower() in SUFFIXES for path in walk(folder, log)):
        return "folder"
    raise DataError(
        f"{folder}: no data set found there; looked for a data.yaml or images/ + labels/ (YOLO), Annotations/ or *.xml "
        f"(VOC), *.json or annotations/*.json (COCO), and images ({', '.join(SUFFIXES)})"
    )


def _has_yolo_layout(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "labels").is_dir()


def _json_files(folder: Path) -> list[Path]:
    """Return the COCO files of a folder: JSON objects, directly in it or in `annotations`."""
    files = sorted([*folder.glob("*.json"), *(folder / "annotations").glob("*.json")])
    return [file for file in files if _mentions_images(file)]


def _mentions_images(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(1 << 16)
        stream.seek(max(0, file.stat().st_size - (1 << 16)))
        tail = stream.read()
    keys = (json.dumps(key).encode() for key in ("annotations", "categories", "file_name"))
    return any(key in head or key in tail for key in keys)


def _coco_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = _json_files(path)
    if len(files) == 1:
        return files[0]
    if not files:
        raise DataError(f"{path}: no COCO .json there or in its annotations folder")
    names = ", ".join(str(file.relative_to(path)) for file in files[:10])
    raise DataError(f"{path}: several COCO files ({names}); name one of them")
