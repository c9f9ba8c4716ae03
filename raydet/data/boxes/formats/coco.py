"""COCO instance files. Streamed into columns: only boxes are used, segmentations are skipped unread."""

from __future__ import annotations

from pathlib import Path

from raydet.data.boxes.formats.coco_columns import CocoColumns
from raydet.data.boxes.formats.json_stream import stream_object
from raydet.data.boxes.source import Source
from raydet.data.paths import resolve_inside
from raydet.data.problems import ProblemLog
from raydet.errors import DataError


def read_coco(file: Path, images: Path | None, log: ProblemLog) -> Source:
    """Read a COCO JSON; classes are numbered by ascending category id.

    `images` is the image root; by default the JSON's folder, or its parent where the first image lies there. Broken
    entries are reported to `log` and left out. Raises DataError where the file as a whole cannot be used.
    """
    columns = CocoColumns(file, log)
    handlers = {"images": columns.image, "annotations": columns.annotation, "categories": columns.category}
    keys = stream_object(file, handlers)
    if "images" not in keys:
        found = ", ".join(sorted(keys)) or "nothing"
        raise DataError(f"{file}: no key 'images' (found: {found}); this is not a COCO instance file")
    for key in ("annotations", "categories"):
        if key not in keys:
            log.warn("key-missing", file, "", f"no key {key!r}", "fine for unlabelled images only")
    return columns.source(_image_root(file, images, columns.files))


def _image_root(file: Path, images: Path | None, files: list[str]) -> Path:
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{file}: the image root {images} is not a folder; correct `images`")
        return images.resolve()
    candidates = [file.resolve().parent, file.resolve().parent.parent]
    if not files:
        return candidates[0]
    for root in candidates:
        if _holds(root, files[0]):
            return root
    others = (folder for root in candidates for folder in sorted(root.iterdir()) if folder.is_dir())
    found = next((folder for folder in others if _holds(folder, files[0])), None)
    hint = f"it is in {found}: set `images: {found}`" if found else "set `images` to the folder of the images"
    raise DataError(
        f"{file}: the first image, {files[0]!r}, is neither in {candidates[0]} nor in its parent; {hint}, "
        "or copy the missing images there"
    )


def _holds(root: Path, name: str) -> bool:
    try:
        return resolve_inside(root, name).is_file()
    except DataError:
        return False
