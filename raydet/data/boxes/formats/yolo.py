"""YOLO data sets: a `data.yaml`, or a folder with `images/`, `labels/` and `classes.txt`.

A label file has one `class x_center y_center width height` a line, in fractions of the image. Polygon rows (a class
and three or more points) are read as the box around the polygon. An image without a label file has no boxes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from raydet.config.load import read_yaml
from raydet.data.boxes.formats.yolo_labels import LabelReader
from raydet.data.boxes.source import Source, SourceBuilder
from raydet.data.folder import SUFFIXES, image_names
from raydet.data.problems import ProblemLog
from raydet.errors import ConfigError, DataError
from raydet.text import is_plain

_SUBSETS = ("train", "val", "test")
_MAX_YAML = 1 << 20  # bytes


def read_yolo(path: Path, subset: str | None, images: Path | None, log: ProblemLog) -> Source:
    """Read one set of a YOLO data set; an image's id is its path below the data set's root.

    The root is `images` where given, else `path:` of the data.yaml, else its folder; nothing outside it is read.
    Raises DataError where the data set as a whole cannot be read.
    """
    file = _yaml_file(path)
    if file is None:
        names, root, places = _plain_folder(path, subset, images)
    else:
        names, root, places = _from_yaml(file, subset, images)
    builder = SourceBuilder()
    reader = LabelReader(builder, len(names), root, log)
    for image in dict.fromkeys(image for place in places for image in _images_of(place, root, log)):
        reader.read(image)
    reader.report()
    return replace(builder.build("yolo", file or path, root, names, "line"), relative=True)


# --- the data set -----------------------------------------------------------------------------------------------------


def _yaml_file(path: Path) -> Path | None:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    usual = [file for file in files if file.stem in ("data", "dataset")]
    if len(files) > 1 and len(usual) != 1:
        raise DataError(f"{path}: several YAML files ({', '.join(file.name for file in files)}); name one of them")
    return next(iter(usual or files), None)


def _plain_folder(path: Path, subset: str | None, images: Path | None) -> tuple[tuple[str, ...], Path, list[Path]]:
    listing = next((file for file in (path / "classes.txt", path / "labels" / "classes.txt") if file.is_file()), None)
    if listing is None:
        raise DataError(f"{path}: no data.yaml and no classes.txt; add one of them with the names of the classes")
    names = [line.strip() for line in _text(listing).splitlines() if line.strip()]
    root = (images or path).resolve()
    place = (root / "images" / (subset or "")).resolve()
    if not place.is_dir() or not place.is_relative_to(root):
        raise DataError(f"{place}: no such folder inside {root}; correct `subset` or `images`")
    return _checked_names(listing, names), root, [place]


def _from_yaml(file: Path, subset: str | None, images: Path | None) -> tuple[tuple[str, ...], Path, list[Path]]:
    if file.stat().st_size > _MAX_YAML:
        raise DataError(f"{file}: larger than {_MAX_YAML:,} bytes; this is not a data.yaml")
    try:
        content = read_yaml(_text(file), str(file))
    except ConfigError as error:
        raise DataError(str(error)) from None
    except RecursionError:
        raise DataError(f"{file}: nested too deeply; this is not a data.yaml") from None
    if not isinstance(content, dict) or "names" not in content:
        raise DataError(f"{file}: expected a mapping with `names` and train, val or test")
    names = _names(file, content)
    root = _root(file, content.get("path"), images)
    chosen = _subset(file, content, subset)
    entries = content[chosen] if isinstance(content[chosen], list) else [content[chosen]]
    return names, root, [_place(file, root, chosen, entry) for entry in entries]


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
    if images is not None:
        return images.resolve()
    if given is None:
        return folder
    root = (folder / str(given)).resolve()
    if root.is_dir() and root.is_relative_to(folder):
        return root
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


def _place(file: Path, root: Path, key: str, entry: object) -> Path:
    if not isinstance(entry, str):
        raise DataError(f"{file}: {key} must be a folder, a .txt list, or a list of those; got {entry!r:.60}")
    place = (root / entry).resolve()
    if not place.exists() and entry.startswith("../"):  # Roboflow writes ../train/images for its own train/images
        place = (root / entry.removeprefix("../")).resolve()
    if not place.is_relative_to(root):
        raise DataError(f"{file}: {key}: {entry} is outside {root}; set `images` to a folder that holds all images")
    if not place.exists():
        raise DataError(f"{file}: {key}: no such folder or list {place}")
    return place


def _images_of(place: Path, root: Path, log: ProblemLog) -> list[str]:
    """Return the images of a folder or a .txt list, relative to the root."""
    if place.is_dir():
        below = place.relative_to(root)
        names = [(below / name).as_posix() for name in image_names(place, log)]
    elif place.suffix.lower() == ".txt":
        names = [line.strip().removeprefix("./") for line in _text(place).splitlines() if line.strip()]
    else:
        raise DataError(f"{place}: no such folder or .txt list of images")
    if not names:
        raise DataError(f"{place}: no images there (looked for {', '.join(SUFFIXES)})")
    return names


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text: {error}") from None
