"""COCO instance files. Streamed into columns: segmentations are skipped unread, unless masks are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from raydet.data.boxes.formats.coco_columns import CocoColumns
from raydet.data.boxes.formats.json_stream import stream_object
from raydet.data.boxes.source import Source
from raydet.data.look_alike import hint
from raydet.data.paths import LeadsOutsideError, checked_name, rebased, resolve_inside
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

_TRIED = 50  # images that are looked for before it is said that none is there


def read_coco(file: Path, images: Path | None, log: ProblemLog, *, masks: bool = False) -> Source:
    """Read a COCO JSON; classes are numbered by ascending category id.

    `images` is the image root; by default the JSON's folder, or its parent where the first image lies there. Names may
    start there all the same where `images` holds what they lead to, by symlinks. Broken entries are reported to `log`
    and left out; `masks`: read them too. Raises DataError where the file as a whole cannot be used.
    """
    columns = CocoColumns(file, log, masks=masks)
    handlers = {"images": columns.images, "annotations": columns.annotations, "categories": columns.categories}
    keys = stream_object(file, handlers)
    if "images" not in keys:
        found = ", ".join(sorted(keys)) or "nothing"
        raise DataError(f"{file}: no key 'images' (found: {found}); this is not a COCO instance file")
    for key in ("annotations", "categories"):
        if key not in keys:
            log.warn("key-missing", file, "", f"no key {key!r}", "fine for unlabelled images only")
    place = _image_place(file, images, columns.files)
    source = columns.source(place.limit)
    if place.start == place.limit:
        return source
    return replace(source, files=[rebased(place.start, place.limit, name) for name in source.files])


@dataclass(frozen=True, slots=True)
class _Place:
    """Where file names start, and the folder that nothing may lead out of."""

    start: Path
    limit: Path

    def holds(self, name: str) -> bool:
        try:
            path = (self.start / checked_name(name)).resolve()
            return path.is_relative_to(self.limit) and path.is_file()
        except (DataError, OSError, RuntimeError):
            return False


def _image_place(file: Path, images: Path | None, files: list[str]) -> _Place:
    """Return where the images lie, judged by the first names that can be names; the common rules refuse the others."""
    folder = file.absolute().parent
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{file}: the image root {images} is not a folder; correct `images`")
        limit = images.resolve()
        places = [_Place(limit, limit), _Place(folder, limit), _Place(folder.parent, limit)]
    else:
        limit = file.resolve().parent  # of the file itself, where the JSON is a symlink
        places = [_Place(root, root) for root in (limit, limit.parent)]
    names = [name for name in files[:_TRIED] if not _complaint(name)]
    for name in names:
        for place in places:
            if place.holds(name):
                return place
    if images is not None or not names:
        return places[0]
    raise DataError(
        f"{file}: the first image, {names[0]!r}, {_why_missing([place.start for place in places], names[0])}"
    )


def _complaint(name: str) -> str:
    try:
        return "" if checked_name(name) else "empty"
    except DataError as error:
        return str(error)


def _why_missing(roots: list[Path], name: str) -> str:
    """Say why an image was not found: a symlink that leads out, another spelling, another folder, or nothing at all."""
    for root in roots:
        try:
            resolve_inside(root, name)
        except LeadsOutsideError as error:
            return f"is there, but {error.with_way_out}"
        except DataError:
            continue
        if near := hint(root, name):
            return f"is not in {root}{near}; correct the name in the JSON, or rename the file"
    others = (folder for root in roots for folder in sorted(root.iterdir()) if folder.is_dir())
    found = next((folder for folder in others if _Place(folder.resolve(), folder.resolve()).holds(name)), None)
    way_out = f"it is in {found}: set `images: {found}`" if found else "set `images` to the folder of the images"
    return f"is neither in {roots[0]} nor in its parent; {way_out}, or copy the missing images there"
