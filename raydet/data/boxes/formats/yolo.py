"""YOLO data sets: a `data.yaml`, darknet's `obj.data`, or a folder with `classes.txt` (and `images/`, `labels/`).

A label file has one `class x_center y_center width height` a line, in fractions of the image; key points behind them,
which `kpt_shape` of the data.yaml announces, are not read. Polygon rows (a class and three or more points) are read as
the box around the polygon. Label files lie in `labels/`, or beside the images. An image without one has no boxes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raydet.config.load import read_yaml
from raydet.data.boxes.formats.yolo_labels import LabelReader, Place
from raydet.data.boxes.source import Source, SourceBuilder
from raydet.data.folder import SUFFIXES, image_names, is_passed_over
from raydet.data.paths import ways_in
from raydet.data.problems import ProblemLog
from raydet.data.text_file import text_of
from raydet.data.yaml_kind import data_set_yamls
from raydet.errors import ConfigError, DataError
from raydet.text import is_plain

_SUBSETS = ("train", "val", "test")
_MAX_YAML = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class _Set:
    """One set of a YOLO data set, before its images are looked for."""

    class_names: tuple[str, ...]
    place: Place
    entries: list[Path]  # folders and .txt lists, not resolved
    keypoint_values: int = 0
    lists_hold_full_names: bool = False  # darknet's lists start at the working directory of whoever trained


def read_yolo(path: Path, subset: str | None, images: Path | None, log: ProblemLog, role: str = "data") -> Source:
    """Read one set of a YOLO data set; an image's id is its path below the data set's root.

    The root is `images` where given and the images are there, else `path:` of the data.yaml, else its folder; nothing
    outside `images`, or the root, is read. Raises DataError where the data set as a whole cannot be read.
    """
    file = description_of(path)
    if file is None:
        found = _plain_folder(path, subset, images)
    elif file.suffix.lower() == ".data":
        found = _from_darknet(file, subset, images)
    else:
        found = _from_yaml(file, subset, images)
    builder = SourceBuilder()
    reader = LabelReader(builder, found.place, len(found.class_names), found.keypoint_values, log, role)
    names = [image for entry in found.entries for image in _images_of(entry, found, reader, log)]
    for image in dict.fromkeys(names):
        reader.read(image)
    reader.report()
    return replace(builder.build("yolo", file or path, found.place.limit, found.class_names, "line"), relative=True)


# --- the data set -----------------------------------------------------------------------------------------------------


def description_of(path: Path) -> Path | None:
    """Return the data.yaml, or darknet's obj.data, of a data set; None where a folder has neither."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    files = data_set_yamls(path) or sorted(file for file in path.glob("*.data") if not is_passed_over(file.name))
    if len(files) > 1:
        raise DataError(f"{path}: several descriptions ({', '.join(file.name for file in files)}); name one of them")
    return next(iter(files), None)


def _plain_folder(path: Path, subset: str | None, images: Path | None) -> _Set:
    listing = next((file for file in (path / "classes.txt", path / "labels" / "classes.txt") if file.is_file()), None)
    if listing is None:
        raise DataError(f"{path}: no data.yaml and no classes.txt; add one of them with the names of the classes")
    names = [line.strip() for line in text_of(listing).splitlines() if line.strip()]
    place, _ = _place_of(path.resolve(), ["images" if (path / "images").is_dir() else "."], images)
    pictures = place.start / "images"
    folder = (pictures if pictures.is_dir() else place.start) / (subset or "")
    if not folder.is_dir() or ".." in folder.parts or not folder.is_relative_to(place.start):
        raise DataError(f"{folder}: no such folder inside {place.start}; correct `subset` or `images`")
    return _Set(_checked_names(listing, names), place, [_inside(listing, place, "images", folder)])


def _from_darknet(file: Path, subset: str | None, images: Path | None) -> _Set:
    """Read darknet's obj.data: `key = value` lines that name lists of images and the file of class names.

    Its paths start where darknet was run, often at `data/`: what is not there is looked for beside the file.
    """
    pairs = (line.split("=", 1) for line in text_of(file).splitlines() if "=" in line)
    content = {key.strip(): value.strip() for key, value in pairs}
    root = file.parent.resolve()
    place = Place(root, root if images is None else images.resolve())
    listing = _found(root, content.get("names", "obj.names"))
    if listing is None:
        raise DataError(f"{file}: no file {content.get('names', 'obj.names')} with the names of the classes beside it")
    names = [line.strip() for line in text_of(listing).splitlines() if line.strip()]
    chosen = _subset(file, content, subset)
    entry = _found(root, content[chosen])
    if entry is None:
        raise DataError(f"{file}: {chosen}: no list {content[chosen]} beside it")
    return _Set(_checked_names(listing, names), place, [entry], lists_hold_full_names=True)


def _found(root: Path, name: str) -> Path | None:
    """Return a path of somebody else's machine as it lies below `root`: without its first folders."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    ways = (root.joinpath(*parts[first:]) for first in range(len(parts)))
    return next((way for way in ways if way.exists()), None)


def _from_yaml(file: Path, subset: str | None, images: Path | None) -> _Set:
    if file.stat().st_size > _MAX_YAML:
        raise DataError(f"{file}: larger than {_MAX_YAML:,} bytes; this is not a data.yaml")
    try:
        content = read_yaml(text_of(file), str(file))
    except ConfigError as error:
        raise DataError(str(error)) from None
    except RecursionError:
        raise DataError(f"{file}: nested too deeply; this is not a data.yaml") from None
    if not isinstance(content, dict) or "names" not in content:
        raise DataError(f"{file}: expected a mapping with `names` and train, val or test")
    names = _names(file, content)
    chosen = _subset(file, content, subset)
    entries = content[chosen] if isinstance(content[chosen], list) else [content[chosen]]
    for entry in entries:
        if not isinstance(entry, str):
            raise DataError(f"{file}: {chosen} must be a folder, a .txt list, or a list of those; got {entry!r:.60}")
    place, base = _place_of(_root(file, content.get("path"), images), entries, images)
    places = [_entry(file, place, base, chosen, entry) for entry in entries]
    return _Set(names, place, places, _keypoint_values(file, content.get("kpt_shape")))


def _keypoint_values(file: Path, shape: object) -> int:
    """Return how many numbers the key points of a row are, from `kpt_shape: [points, 2 or 3]`."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(one, int) for one in shape):
        raise DataError(f"{file}: kpt_shape must be [number of points, 2 or 3], got {shape!r:.60}")
    points, values = shape
    if points < 1 or values not in (2, 3):
        raise DataError(f"{file}: kpt_shape must be [number of points, 2 or 3], got {shape!r:.60}")
    return int(points * values)


def _place_of(root: Path, entries: list[str], images: Path | None) -> tuple[Place, Path]:
    """Return where names start, and where entries do: at `images` where the first one is there, else at the root."""
    if images is None:
        return Place(root, root), root
    limit = images.resolve()
    base = root if os.path.lexists(root / entries[0]) and not os.path.lexists(limit / entries[0]) else limit
    is_inside = all(Path(os.path.normpath(base / entry)).is_relative_to(base) for entry in entries)
    return Place(base if is_inside else limit, limit), base


def _names(file: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content["names"]
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(str(number) for number in range(len(names))):
            raise DataError(
                f"{file}: `names` must be numbered 0 to {len(names) - 1} without gaps, got {list(names)[:20]}"
            )
        names = [next(name for key, name in names.items() if str(key) == str(n)) for n in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: `names` must be a list of class names, or number: name")
    count = content.get("nc", len(names))
    if count != len(names):
        raise DataError(f"{file}: nc is {count}, but there are {len(names)} names; correct one of them")
    return _checked_names(file, names)


def _checked_names(file: Path, names: list[Any]) -> tuple[str, ...]:
    texts = [str(name).strip() for name in names]
    if not all(text and is_plain(text) for text in texts) or not texts:
        raise DataError(f"{file}: class names must be readable text, and not empty")
    double = next((name for name in texts if texts.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{file}: two classes are called {double!r}; rename or merge them")
    return tuple(texts)


def _root(file: Path, given: object, images: Path | None) -> Path:
    folder = file.parent.resolve()
    if given is None:
        return folder
    root = (folder / str(given)).resolve()
    if root.is_dir() and root.is_relative_to(folder):
        return root
    if images is not None:
        return folder
    # A data.yaml is downloaded with its data; only the user may open up another part of the disk.
    raise DataError(
        f"{file}: `path: {given}` is not a folder inside {folder}; remove it, or set `images` to the data set's root"
    )


def _subset(file: Path, content: dict[str, Any], subset: str | None) -> str:
    there = [key for key in _SUBSETS if content.get(key)]
    if subset is None and len(there) == 1:
        return there[0]
    if subset in there:
        return subset
    given = f"no `{subset}`" if subset else "several sets"
    raise DataError(f"{file}: {given} (there: {', '.join(there) or 'none'}); set `subset` to one of them")


def _entry(file: Path, place: Place, base: Path, key: str, entry: str) -> Path:
    found = Path(os.path.normpath(base / entry))
    if not found.exists() and entry.startswith("../"):  # Roboflow writes ../train/images for its own train/images
        found = Path(os.path.normpath(base / entry.removeprefix("../")))
    if not found.is_relative_to(place.start):
        raise DataError(
            f"{file}: {key}: {entry} is outside {place.start}; "
            "set `images` to a folder that holds all images and labels"
        )
    return _inside(file, place, key, found)


def _inside(file: Path, place: Place, key: str, found: Path) -> Path:
    if not found.exists():
        raise DataError(f"{file}: {key}: no such folder or list {found}")
    real = found.resolve()
    if not real.is_relative_to(place.limit):
        way_out = ways_in(place.start, real)
        raise DataError(f"{file}: {key}: {found} leads out of {place.limit} by a symlink, to {real}; {way_out}")
    return found


def _images_of(entry: Path, found: _Set, reader: LabelReader, log: ProblemLog) -> list[str]:
    """Return the images of a folder or a .txt list, relative to where names start."""
    start = found.place.start
    if entry.is_dir():
        below = entry.relative_to(start)
        names = [(below / name).as_posix() for name in image_names(entry, log, labels=".txt")]
        reader.pairs.add_folder(entry)
    elif entry.suffix.lower() == ".txt":
        names = [line.strip().removeprefix("./") for line in text_of(entry).splitlines() if line.strip()]
        if found.lists_hold_full_names:
            lying = ((name, _found(start, name)) for name in names)
            names = [name if file is None else file.relative_to(start).as_posix() for name, file in lying]
    else:
        raise DataError(f"{entry}: no such folder or .txt list of images")
    if not names:
        raise DataError(f"{entry}: no images there (looked for {', '.join(SUFFIXES)})")
    return names
