"""Which annotations lie in a folder, by their content: those that raydet reads, and those of other tools that it names.

All evidence is collected before anything is decided, so that a stray file does not make a data set what it is not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raydet.data.folder import SUFFIXES, walk
from raydet.data.problems import ProblemLog
from raydet.data.yaml_kind import data_set_yamls
from raydet.text import plural

_PER_FOLDER = 20  # files of one ending that are looked into, in one folder
_MOST = 400  # and in all
_HEAD = 1 << 16  # bytes, at both ends of a file
_LABEL_ENDINGS = frozenset({".json", ".xml", ".txt", ".csv", ".data", ".names", ".tfrecord"})
_TO_COCO = "export or convert them to COCO, VOC or YOLO"


@dataclass(frozen=True, slots=True)
class Layout:
    """Annotations of one kind."""

    format: str  # "coco", "voc", "yolo"; empty where it is not read
    name: str  # what messages call it
    files: tuple[Path, ...]  # some of them
    count: int
    way_out: str = ""

    def __str__(self) -> str:
        more = f" and {self.count - 1:,} more" if self.count > 1 else ""
        return f"{self.name} ({self.files[0].name}{more})"


@dataclass(slots=True)
class Found:
    """What lies in a folder and its subfolders."""

    folder: Path
    images: int = 0
    layouts: list[Layout] = field(default_factory=list)

    @property
    def readable(self) -> list[Layout]:
        """Return the annotations that can be read."""
        return [layout for layout in self.layouts if layout.format]

    @property
    def foreign(self) -> list[Layout]:
        """Return those that cannot."""
        return [layout for layout in self.layouts if not layout.format]


def look_into(folder: Path) -> Found:
    """Return what lies in a folder. Raises DataError where it cannot be listed."""
    found = Found(folder)
    files: dict[str, list[Path]] = {}
    counts: Counter[tuple[Path, str]] = Counter()
    pictures: set[tuple[Path, str]] = set()
    for path in walk(folder, ProblemLog()):
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            found.images += 1
            pictures.add((path.parent, path.stem))
        elif suffix in _LABEL_ENDINGS:
            counts[path.parent, suffix] += 1
            if counts[path.parent, suffix] <= _PER_FOLDER:
                files.setdefault(suffix, []).append(path)
    totals = Counter[str]()
    for (_, suffix), count in counts.items():
        totals[suffix] += count
    kept = {suffix: sorted(paths, key=lambda path: (len(path.parts), path))[:_MOST] for suffix, paths in files.items()}
    found.layouts += _yolo(folder, kept, totals, pictures)
    found.layouts += _by_content(kept, totals)
    return found


def holds_images(folder: Path) -> bool:
    """Return whether there is a picture anywhere in a folder, of classes too; looks no further than the first one."""
    return any(path.suffix.lower() in SUFFIXES for path in walk(folder, ProblemLog(), of_classes=True))


# --- YOLO and its relatives -------------------------------------------------------------------------------------------


def _yolo(
    folder: Path, files: dict[str, list[Path]], totals: Counter[str], pictures: set[tuple[Path, str]]
) -> Iterator[Layout]:
    rows = [file for file in files.get(".txt", ()) if is_label_file(file)]
    if yamls := data_set_yamls(folder):
        yield Layout("yolo", "YOLO", tuple(yamls), len(yamls))
    elif (folder / "images").is_dir() and (folder / "labels").is_dir():
        yield Layout("yolo", "YOLO images/ and labels/", (folder / "labels",), 1)
    elif lists := [file for file in files.get(".data", ()) if file.parent == folder and _mentions(file, "names", "=")]:
        yield Layout("yolo", "darknet", tuple(lists), len(lists))
    elif rows and (folder / "classes.txt").is_file():
        yield Layout("yolo", "YOLO label files with classes.txt", tuple(rows), totals[".txt"] - 1)
    elif any((file.parent, file.stem) in pictures or "labels" in file.parts for file in rows):
        way_out = "add classes.txt, or a data.yaml, with the names of the classes"
        yield Layout("", "YOLO label files without names of classes", tuple(rows), totals[".txt"], way_out)


def is_label_file(file: Path) -> bool:
    """Return whether a text begins with five or more numbers, as YOLO's label files do; lists of names do not."""
    line = next((line for line in _head(file).decode("utf-8-sig", "replace").splitlines() if line.strip()), "")
    return len(line.split()) >= 5 and all(map(is_number, line.split()))


def is_number(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- by what stands in them -------------------------------------------------------------------------------------------


def _by_content(files: dict[str, list[Path]], totals: Counter[str]) -> Iterator[Layout]:
    judges: dict[str, Callable[[Path], str]] = {".xml": _judge_xml, ".json": _judge_json, ".csv": _judge_csv}
    for suffix, judge in judges.items():
        kinds: dict[str, list[Path]] = {}
        for file in files.get(suffix, ()):
            kinds.setdefault(judge(file), []).append(file)
        kinds.pop("", None)
        for kind, those in kinds.items():
            count = totals[suffix] if len(kinds) == 1 and len(those) == len(files[suffix]) else len(those)
            yield _LAYOUTS[kind](tuple(those), count)
    if records := files.get(".tfrecord"):
        yield Layout("", "TFRecord files", tuple(records), totals[".tfrecord"], _TO_COCO)


def _layout(format: str, name: str, way_out: str = "") -> Callable[[tuple[Path, ...], int], Layout]:
    return lambda files, count: Layout(format, name, files, count, way_out)


_LAYOUTS = {
    "coco": _layout("coco", "COCO"),
    "voc": _layout("voc", "VOC"),
    "cvat": _layout("", "CVAT's own XML", "export the task as COCO 1.0"),
    "labelme": _layout("", "labelme JSON files", _TO_COCO + " (labelme comes with a script, labelme2coco)"),
    "labelstudio": _layout("", "a Label Studio export", "export the project as COCO"),
    "via": _layout("", "a VIA project", "export the annotations as COCO"),
    "createml": _layout("", "CreateML JSON", _TO_COCO),
    "csv": _layout("", "tables of boxes", _TO_COCO),
}


def _judge_xml(file: Path) -> str:
    head = _head(file)
    if b"<annotations" in head:
        return "cvat"
    return "voc" if b"<annotation" in head or file.parent.name.casefold() == "annotations" else ""


def _judge_json(file: Path) -> str:
    text = _head(file) + _tail(file)
    start = text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]

    def has(*keys: str) -> int:
        return sum(json.dumps(key).encode() in text for key in keys)

    if has("shapes", "points") == 2 or has("shapes", "imagePath") == 2:
        return "labelme"
    if has("via_region_data", "_via_img_metadata", "shape_attributes"):
        return "via"
    if start == b"[":
        return "createml" if has("image", "annotations", "coordinates") == 3 else (
            "labelstudio" if has("annotations", "data") == 2 or has("rectanglelabels") else ""
        )  # fmt: skip
    # Label Studio writes a notes.json with categories alone; results lists have boxes and no images.
    return "coco" if start == b"{" and has("images", "annotations", "categories", "file_name", "bbox") >= 2 else ""


def _judge_csv(file: Path) -> str:
    header = _head(file).split(b"\n", 1)[0].lower()
    return "csv" if b"xmin" in header or b"bbox" in header else ""


def _mentions(file: Path, *words: str) -> bool:
    return all(word.encode() in _head(file) for word in words)


def _head(file: Path) -> bytes:
    try:
        if not file.is_file():  # opening a pipe would wait forever
            return b""
        with file.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError:
        return b""


def _tail(file: Path) -> bytes:
    try:
        if not file.is_file():
            return b""
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _HEAD))
            return stream.read()
    except OSError:
        return b""


def named(layouts: list[Layout]) -> str:
    """Return several as text."""
    return ", ".join(map(str, layouts))


def not_read(found: Found) -> str:
    """Say which annotations lie there that cannot be read, and what to do; empty where there are none."""
    if not found.foreign:
        return ""
    ways = "; ".join(dict.fromkeys(layout.way_out for layout in found.foreign))
    return f"{plural(found.images, 'image')} and annotations that are not read: {named(found.foreign)}; {ways}"
