"""Pascal VOC folders: `Annotations/**/*.xml` with `JPEGImages/`, or XML files beside their images.

VOC counts pixels from 1 and its corners are inclusive: xmin..xmax becomes the half-open xmin - 1..xmax. Files that
count from 0 are off by one pixel at the left and top edge, which the box rules round into the image. Objects marked
`difficult` count as crowd: not trained on, ignored in evaluation. `<part>` boxes are not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Set
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from raydet.data.boxes.formats.voc_pairs import SPLITS, Pairs, Places, below, by_last_part, find_places, only
from raydet.data.boxes.source import Source, SourceBuilder
from raydet.data.boxes.turned import Corners, box_around, report_turned
from raydet.data.folder import files_ending
from raydet.data.pairing import key_of
from raydet.data.problems import ProblemLog
from raydet.data.text_file import text_of
from raydet.errors import DataError
from raydet.text import is_plain

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_IN_CLASS = ("-1", "0", "1")  # in the lists of one class: without it, with difficult objects alone, with it


def read_voc(folder: Path, subset: str | None, log: ProblemLog, images: Path | None = None) -> Source:
    """Read a VOC folder, or the images that `ImageSets/Main/<subset>.txt` lists, or those in the subfolders `subset`.

    An image's id is the name of its XML file below the annotations, without the ending. Classes are all names in the
    folder's XML files, in alphabetical order, whichever subset is read. `images`: a folder that symlinks may lead into.
    Raises DataError where there is no VOC data set, or the list cannot be read.
    """
    places = find_places(folder, images)
    xml_of = {key_of(below(file, places.annotations)): file for file in files_ending(places.annotations, ".xml", log)}
    if not xml_of:
        raise DataError(f"{folder}: no XML files there or in Annotations; this is not a VOC folder")
    pairs = Pairs(places, xml_of, log)
    keys = _chosen(places.root, subset, list(xml_of))
    reader = _Reader(places, log)
    for key in keys:
        if key not in xml_of:
            fix = "add it, or take the image off the list"
            log.error("annotation-file-missing", places.annotations / f"{key}.xml", "", "no such annotation file", fix)
        else:
            reader.read(key, xml_of[key], pairs)
    if len(keys) == len(xml_of):
        pairs.report_left_over()
    else:
        read = set(keys)
        reader.note_classes(file for key, file in xml_of.items() if key not in read)
    reader.report()
    return reader.source(folder)


def _chosen(root: Path, subset: str | None, keys: list[str]) -> list[str]:
    """Return the keys of a subset, which is listed in a file or is a subfolder; all where there is no choice."""
    splits = sorted({key.split("/", 1)[0] for key in keys if "/" in key})
    if subset is None:
        if len(SPLITS.intersection(splits)) > 1:
            raise DataError(f"{root}: holds the subsets {', '.join(splits)}; name one with `subset`")
        return keys
    lists = root / "ImageSets" / "Main"
    file = lists / f"{subset}.txt"
    if subset in splits and not file.is_file():
        return [key for key in keys if key.split("/", 1)[0] == subset]
    if "/" in subset or not file.is_file():
        there = ", ".join([*sorted(path.stem for path in lists.glob("*.txt"))[:20], *splits[:20]]) or "none"
        raise DataError(f"{lists}: no list {subset!r} (there: {there}); correct `subset`")
    lines = [line.strip() for line in text_of(file).splitlines() if line.strip()]
    known, by_name = set(keys), by_last_part(keys)
    names = (_listed_name(line, known | by_name.keys()) for line in lines)
    return list(dict.fromkeys(name if name in known else only(by_name.get(name, [])) or name for name in names))


def _listed_name(line: str, known: Set[str]) -> str:
    """Return the image that a line of a list names; it may have spaces. Lists of a class say 1, 0 or -1 after it."""
    words = line.rsplit(maxsplit=1)
    return words[0] if line not in known and words[-1] in _IN_CLASS else line


class _Reader:
    def __init__(self, places: Places, log: ProblemLog) -> None:
        self._places, self._log = places, log
        self._builder = SourceBuilder()
        self._class_of: dict[str, int] = {}  # in the order of first sight
        self._turned: list[Path] = []

    def read(self, key: str, file: Path, pairs: Pairs) -> None:
        """Add one image with its boxes; what has a broken XML file, or no picture of its own, is left out."""
        try:
            tree = _parse(file)
        except DataError as error:
            self._log.error("xml", file, "", str(error))
            return
        picture = pairs.picture_of(key, file, tree.findtext("filename", "").strip())
        if picture is None:
            return
        height, width = self._declared_size(file, tree)
        self._builder.add_image(key, self._places.name_of(picture), str(file), height, width)
        for number, entry in enumerate(tree.findall("object"), start=1):
            self._object(file, number, entry)

    def report(self) -> None:
        """Report what concerns many objects at once."""
        report_turned(self._log, self._turned[0] if self._turned else self._places.root, len(self._turned))

    def note_classes(self, files: Iterable[Path]) -> None:
        """Learn the class names of further files; what is wrong with them does not matter here."""
        for file in files:
            try:
                names = [entry.findtext("name", "").strip() for entry in _parse(file).findall("object")]
            except DataError:
                continue
            for name in filter(None, names):
                self._class_of.setdefault(name, len(self._class_of))

    def source(self, folder: Path) -> Source:
        """Return everything read, with classes numbered alphabetically."""
        names = sorted(self._class_of)
        source = self._builder.build("voc", folder, self._places.limit, tuple(names), "object")
        final = np.array([names.index(name) for name in self._class_of], dtype=np.int64)
        return replace(source, classes=final[source.classes]) if names else source

    def _declared_size(self, file: Path, tree: Element) -> tuple[int, int]:
        sides = []
        for key in ("height", "width"):
            text = tree.findtext(f"size/{key}", "0").strip()
            if not text.isdecimal() or len(text) > 9:
                message = f"size/{key} must be a whole number of pixels, got {text[:40]!r}"
                self._log.warn("image-size-field", file, "", message, "the image file's own size is used")
                text = "0"
            sides.append(int(text))
        return sides[0], sides[1]

    def _object(self, file: Path, number: int, entry: Element) -> None:
        where = f"object {number}"
        name = entry.findtext("name", "").strip()
        difficult = entry.findtext("difficult", "0").strip() or "0"
        texts = [entry.findtext(f"bndbox/{corner}", "").strip() for corner in _CORNERS]
        corners = [_number(text) for text in texts]
        turned = turned_box(entry)
        if not name or not is_plain(name):
            self._bad(file, where, "object-name", "no readable class name", "add <name> or remove the object")
        elif difficult not in ("0", "1"):
            message = f"difficult must be 0 or 1, got {difficult[:40]!r}"
            self._bad(file, where, "object-difficult", message, "write 0 or 1")
        elif turned is not None:
            self._turned.append(file)
            self._add(name, turned, number, difficult)
        elif any(corner is None for corner in corners):
            given = ", ".join(f"{corner}={text[:20]!r}" for corner, text in zip(_CORNERS, texts, strict=True))
            message = f"bndbox must hold four numbers with a decimal point, got {given}"
            self._bad(file, where, "box-malformed", message, "correct or remove the object")
        else:
            left, top, right, bottom = (corner for corner in corners if corner is not None)
            self._add(name, (left - 1, top - 1, right, bottom), number, difficult)

    def _add(self, name: str, corners: Corners, number: int, difficult: str) -> None:
        class_id = self._class_of.setdefault(name, len(self._class_of))
        self._builder.add_box(corners, class_id, number, crowd=difficult == "1")

    def _bad(self, file: Path, where: str, code: str, message: str, fix: str) -> None:
        """Report an object that cannot be read."""
        self._log.error(code, file, where, message, fix)
        self._builder.spoil()


def _parse(file: Path) -> Element:
    """Parse XML without DTDs and entities. Raises DataError."""
    try:
        tree: Element = defusedxml.ElementTree.fromstring(file.read_bytes(), forbid_dtd=True)
    except DefusedXmlException:
        raise DataError("declares a DTD or entities, which could do harm; remove the <!DOCTYPE ...>") from None
    except ParseError as error:
        raise DataError(f"not valid XML ({error}); correct or replace the file") from None
    except (OSError, ValueError, LookupError) as error:  # ValueError and LookupError: odd encodings
        raise DataError(f"cannot be read: {error}") from None
    return tree


def turned_box(entry: Element) -> Corners | None:
    """Return the box around a turned one, as VOC counts pixels minus its left and top; None for one that is not turned.

    CVAT writes the box before it is turned, and degrees as an attribute; roLabelImg writes centre, size and radians.
    """
    robust = {key: _number(entry.findtext(f"robndbox/{key}", "").strip()) for key in ("cx", "cy", "w", "h", "angle")}
    cx, cy, w, h, angle = robust.values()
    if cx is not None and cy is not None and w is not None and h is not None and angle is not None:
        return box_around(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, math.degrees(angle))
    degrees = next(
        (_number(one.findtext("value", "")) for one in entry.iterfind("attributes/attribute")
         if one.findtext("name", "").strip() == "rotation"), None,
    )  # fmt: skip
    corners = [_number(entry.findtext(f"bndbox/{corner}", "").strip()) for corner in _CORNERS]
    left, top, right, bottom = corners
    if not degrees or left is None or top is None or right is None or bottom is None:
        return None
    return box_around(left - 1, top - 1, right, bottom, degrees)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
