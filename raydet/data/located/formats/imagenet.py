"""ImageNet-1k as it is published for classification and localisation: Data/CLS-LOC/{train,val} beside
Annotations/CLS-LOC/{train,val} with one XML file per image, as many training images have.

Training images lie in a folder per class; validation images may, or lie side by side: then their class is the one that
their XML file names. Corners are taken for continuous coordinates as they are, as PSOL does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import numpy as np
from defusedxml import DefusedXmlException

from raydet.data.classes.table import NO_LABEL, files_table
from raydet.data.folder import check_class_links, class_folders, image_names
from raydet.data.located.table import LocatedTable, located
from raydet.data.problems import ProblemLog
from raydet.data.threads import in_threads
from raydet.errors import DataError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class _Annotation:
    """What an XML file says; `complaint` where it cannot be used, `odd_size` where its size cannot."""

    names: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    size: tuple[int, int] = (0, 0)  # (height, width), 0 where it does not say
    odd_size: str = ""
    complaint: str = ""


def find_imagenet(folder: Path) -> Path | None:
    """Return the folder that holds Data/CLS-LOC, which may lie one level below."""
    for place in (folder, folder / "ILSVRC"):
        if (place / "Data" / "CLS-LOC").is_dir():
            return place
    return None


def read_imagenet(folder: Path, subset: str | None, *, read_boxes: bool, log: ProblemLog) -> LocatedTable:
    """Read `train` or `val`; ids are the names below that folder, classes are the WordNet ids of train/ in alphabetical
    order. Raises DataError where the folders are not there, or one of a class lies elsewhere.
    """
    place = find_imagenet(folder)
    if place is None:
        raise DataError(f"{folder}: no Data/CLS-LOC there; this is not ImageNet-1k as it is published")
    if subset not in ("train", "val"):
        raise DataError(f"{folder}: subset is {subset!r}: ImageNet-1k has train and val; set `subset` to one of them")
    root = (place / "Data" / "CLS-LOC" / subset).resolve()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; is the data set complete?")
    class_names = _class_folders(place / "Data" / "CLS-LOC" / "train") or _class_folders(root)
    if not class_names:
        raise DataError(f"{place / 'Data' / 'CLS-LOC' / 'train'}: no folder per class there; they name the classes")
    names = image_names(root, log, of_classes=True)
    xml = place / "Annotations" / "CLS-LOC" / subset
    said = _read_all(xml, names) if read_boxes or any("/" not in name for name in names) else {}
    for name, one in said.items():
        if one.complaint:
            log.error("xml", xml / _xml_of(name), "", one.complaint, "correct or remove the file")
        if one.odd_size:
            log.warn("image-size-field", xml / _xml_of(name), "", one.odd_size, "the image file's own size is used")
    number_of = {name: number for number, name in enumerate(class_names)}
    labels = [number_of.get(_class_of(name, said), NO_LABEL) for name in names]
    table = files_table(root, names, np.array(labels, dtype=np.int64), class_names)
    boxes = [list(said[name].boxes) if read_boxes and name in said else [] for name in names]
    sizes = [said[name].size if name in said else (0, 0) for name in names]
    return located(table, boxes, np.array(sizes, dtype=np.int64).reshape(-1, 2))


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    check_class_links(folder)
    return class_folders(folder)


def _class_of(name: str, said: dict[str, _Annotation]) -> str:
    """Return the class of an image: its folder, or what all its boxes are called."""
    if "/" in name:
        return name.split("/", 1)[0]
    names = set(said[name].names) if name in said else set()
    return names.pop() if len(names) == 1 else ""


def _xml_of(name: str) -> str:
    return f"{name.rsplit('.', 1)[0]}.xml"


def _read_all(folder: Path, names: list[str]) -> dict[str, _Annotation]:
    """Read the XML files that there are."""

    def read(name: str) -> _Annotation | None:
        file = folder / _xml_of(name)
        try:
            return _parsed(file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            return _Annotation(complaint=f"cannot be read: {error.strerror or error}")

    found = zip(names, in_threads(read, names), strict=True)
    return {name: each for name, each in found if each is not None}


def _parsed(content: bytes) -> _Annotation:
    try:
        tree = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
        objects = tree.findall("object")
        names = tuple(entry.findtext("name", "").strip() for entry in objects)
        rows = [[float(entry.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS] for entry in objects]
    except DefusedXmlException:
        return _Annotation(complaint="declares a DTD or entities, which could do harm; remove the <!DOCTYPE ...>")
    except (ParseError, ValueError, LookupError) as error:
        return _Annotation(complaint=f"not an annotation with four numbers a box ({str(error)[:80]})")
    return _Annotation(names, tuple(tuple(row) for row in rows), *_declared_size(tree))


def _declared_size(tree: Element) -> tuple[tuple[int, int], str]:
    """Return (height, width), 0 where they are not given or cannot be read, and what is wrong with them."""
    sides = []
    for key in ("height", "width"):
        text = tree.findtext(f"size/{key}", "0").strip()
        if not text.isdecimal() or len(text) > 9:
            return (0, 0), f"size/{key} must be a whole number of pixels, got {text[:40]!r}"
        sides.append(int(text))
    return (sides[0], sides[1]), ""
