"""Pascal VOC folders: `Annotations/*.xml` with `JPEGImages/`, or XML files beside their images.

VOC counts pixels from 1 and its corners are inclusive: xmin..xmax becomes the half-open xmin - 1..xmax. Files that
count from 0 are off by one pixel at the left and top edge, which the box rules round into the image. Objects marked
`difficult` count as crowd: not trained on, ignored in evaluation. `<part>` boxes are not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from raydet.data.boxes.source import Source, SourceBuilder
from raydet.data.folder import SUFFIXES
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import is_plain

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(folder: Path, subset: str | None, log: ProblemLog) -> Source:
    """Read a VOC folder, or the images that `ImageSets/Main/<subset>.txt` lists; an image's id is its file stem.

    Classes are all names in the folder's XML files, in alphabetical order, whichever subset is read. Raises DataError
    where there is no VOC data set.
    """
    root = folder.resolve()
    annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
    pictures = root / "JPEGImages" if (root / "JPEGImages").is_dir() else annotations
    xml_of = {file.stem: file for file in sorted(annotations.glob("*.xml"))}
    if not xml_of:
        raise DataError(f"{folder}: no XML files there or in Annotations; this is not a VOC folder")
    picture_of = {file.stem: file for file in sorted(pictures.iterdir()) if file.suffix.lower() in SUFFIXES}
    stems = list(xml_of) if subset is None else _listed(root, subset)
    reader = _Reader(root, log)
    for stem in stems:
        if stem not in xml_of:
            fix = "add it, or take the image off the list"
            log.error("annotation-file-missing", annotations / f"{stem}.xml", "", "no such annotation file", fix)
        elif stem not in picture_of:
            log.error("image-missing", xml_of[stem], "", f"no image {stem}.* in {pictures}", "copy the image there")
        else:
            reader.read(stem, xml_of[stem], picture_of[stem])
    if subset is None:
        _report_unannotated(pictures, picture_of.keys() - xml_of.keys(), log)
    else:
        reader.note_classes(file for stem, file in xml_of.items() if stem not in set(stems))
    return reader.source(folder)


def _listed(root: Path, subset: str) -> list[str]:
    lists = root / "ImageSets" / "Main"
    file = lists / f"{subset}.txt"
    if "/" in subset or "\\" in subset or not file.is_file():
        there = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))[:20]) or "none"
        raise DataError(f"{lists}: no list {subset!r} (there: {there}); correct `subset`")
    rows = [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return list(dict.fromkeys(row[0] for row in rows))


def _report_unannotated(pictures: Path, stems: Iterable[str], log: ProblemLog) -> None:
    names = sorted(stems)
    if names:
        message = f"{len(names):,} images have no XML file and were passed over ({', '.join(names[:3])}, ...)"
        log.warn("image-unannotated", pictures, "", message, "images without objects need an XML file without objects")


class _Reader:
    def __init__(self, root: Path, log: ProblemLog) -> None:
        self._root, self._log = root, log
        self._builder = SourceBuilder()
        self._class_of: dict[str, int] = {}  # in the order of first sight

    def read(self, stem: str, file: Path, picture: Path) -> None:
        """Add one image with its boxes; a broken XML file is reported and its image left out."""
        try:
            tree = _parse(file)
        except DataError as error:
            self._log.error("xml", file, "", str(error))
            return
        height, width = self._declared_size(file, tree)
        name = picture.relative_to(self._root).as_posix()
        self._builder.add_image(stem, name, str(file), height, width)
        for number, entry in enumerate(tree.findall("object"), start=1):
            self._object(file, number, entry)

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
        source = self._builder.build("voc", folder, self._root, tuple(names), "object")
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
        if not name or not is_plain(name):
            self._log.error("object-name", file, where, "no readable class name", "add <name> or remove the object")
        elif difficult not in ("0", "1"):
            self._log.error("object-difficult", file, where, f"difficult must be 0 or 1, got {difficult[:40]!r}")
        elif any(corner is None for corner in corners):
            given = ", ".join(f"{corner}={text[:20]!r}" for corner, text in zip(_CORNERS, texts, strict=True))
            message = f"bndbox must hold four numbers with a decimal point, got {given}"
            self._log.error("box-malformed", file, where, message, "correct or remove the object")
        else:
            left, top, right, bottom = (corner for corner in corners if corner is not None)
            class_id = self._class_of.setdefault(name, len(self._class_of))
            self._builder.add_box((left - 1, top - 1, right, bottom), class_id, number, crowd=difficult == "1")


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


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
