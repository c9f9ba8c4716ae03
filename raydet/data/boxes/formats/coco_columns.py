"""The entries of a COCO file, collected into columns."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.federated import FederatedColumns
from raydet.data.boxes.formats.coco_plain import PlainAnnotations, plain_annotations
from raydet.data.boxes.formats.coco_values import (
    as_float,
    file_of_url,
    four_floats,
    id_as_text,
    is_angle,
    is_int64,
    kind_of,
)
from raydet.data.boxes.masks import UNREADABLE, RawMask, read_mask
from raydet.data.boxes.source import Source, box_place
from raydet.data.boxes.turned import Corners, box_around, report_turned
from raydet.data.problems import ProblemLog
from raydet.text import is_plain, plural


class CocoColumns:
    """Collects the entries in file order; `annotations` may come before the images and categories they point to.

    Entries come some at a time, with the number that the first of them has in its list.
    """

    def __init__(self, file: Path, log: ProblemLog, *, masks: bool = False) -> None:
        self._file, self._log = file, log
        self._code_of: dict[str, int] = {}  # image id -> code, shared by images and annotations
        self._names: dict[int, str] = {}  # category id -> name
        self._image_codes = array("q")
        self.files: list[str] = []
        self._sizes = array("q")
        self._box_codes, self._categories, self._tags = array("q"), array("q"), array("q")
        self._boxes, self._areas = array("d"), array("d")
        self._crowd = array("b")
        self._masks: list[RawMask | None] | None = [] if masks else None
        self._children: dict[str, set[int]] = {}  # supercategory -> ids of the categories that name it
        self._bad_codes: set[int] = set()  # images with an annotation that could not be read
        self._turned = self._angles = 0
        self._federated = FederatedColumns(file, log)

    # --- categories -------------------------------------------------------------------------------------------------

    def categories(self, first: int, entries: Sequence[Any]) -> None:
        """Take entries of `categories`."""
        for number, entry in enumerate(entries, first):
            self._category(number, entry)

    def _category(self, number: int, entry: Any) -> None:
        where = f"categories[{number}]"
        if not isinstance(entry, dict):
            self._log.error("category-malformed", self._file, where, f"expected an object, got {kind_of(entry)}")
            return
        key, name = entry.get("id"), entry.get("name")
        if not is_int64(key):
            self._log.error("category-id", self._file, where, f"id must be a whole number, got {key!r:.40}")
        elif not isinstance(name, str) or not name.strip() or not is_plain(name):
            self._log.error("category-name", self._file, where, f"name must be readable text, got {name!r:.40}")
        elif key in self._names:
            message = f"category id {key} is used twice ({self._names[key]!r} and {name!r})"
            self._log.error("category-id-twice", self._file, where, message, "give every category its own id")
        else:
            self._names[key] = name
            if isinstance(parent := entry.get("supercategory"), str):
                self._children.setdefault(parent, set()).add(key)
            self._federated.category(key, entry)

    def _class_names(self) -> tuple[list[int], tuple[str, ...]]:
        """Return the ids and names of the categories that count, in ascending order of their ids."""
        used = set(self._categories)
        ids: list[int] = []
        seen: set[str] = set()
        for key in sorted(self._names):
            name, where = self._names[key], f"category id {key}"
            # Roboflow writes the group of its classes as a category of its own, often under the name of a class.
            if key not in used and self._children.get(name, set()) - {key}:
                message = f"the category {name!r} is the supercategory of others and has no box"
                self._log.warn("category-parent", self._file, where, message, "left out")
                continue
            if name in seen:
                message = f"two categories are called {name!r}"
                self._log.error("category-name-twice", self._file, where, message, "rename or merge them")
            seen.add(name)
            ids.append(key)
        return ids, tuple(self._names[key] for key in ids)

    # --- images -----------------------------------------------------------------------------------------------------

    def images(self, first: int, entries: Sequence[Any]) -> None:
        """Take entries of `images`."""
        for number, entry in enumerate(entries, first):
            self._image(number, entry)

    def _image(self, number: int, entry: Any) -> None:
        where = f"images[{number}]"
        if not isinstance(entry, dict):
            self._log.error("image-malformed", self._file, where, f"expected an object, got {kind_of(entry)}")
            return
        key = id_as_text(entry.get("id"))
        if key is None:
            message = f"id must be a whole number or text, got {entry.get('id')!r:.40}"
            self._log.error("image-id", self._file, where, message)
            return
        where = f"image id {key}"
        name = entry.get("file_name") or file_of_url(entry.get("coco_url"))
        if not isinstance(name, str) or not name:
            self._log.error("image-file-name", self._file, where, f"file_name must be text, got {name!r:.40}")
            return
        self._image_codes.append(self._code_of.setdefault(key, len(self._code_of)))
        self.files.append(name.removeprefix("./"))
        self._sizes.extend((self._side(where, entry, "height"), self._side(where, entry, "width")))
        self._federated.image(where, entry)

    def _side(self, where: str, entry: dict[str, Any], key: str) -> int:
        side = entry.get(key)
        if side is None:
            return 0
        if not isinstance(side, int | float) or isinstance(side, bool) or not 0 < side < 2**31 or side != int(side):
            message = f"{key} must be a whole number of pixels, got {side!r:.40}"
            self._log.warn("image-size-field", self._file, where, message, "the image file's own size is used")
            return 0
        return int(side)

    # --- annotations ------------------------------------------------------------------------------------------------

    def annotations(self, first: int, entries: Sequence[Any]) -> None:
        """Take entries of `annotations`."""
        plain = plain_annotations(entries) if self._masks is None else None
        if plain is not None:
            self._take_plain(plain)
            return
        for number, entry in enumerate(entries, first):
            self._annotation(number, entry)

    def _take_plain(self, found: PlainAnnotations) -> None:
        codes = self._code_of
        self._box_codes.extend(codes.setdefault(str(image_id), len(codes)) for image_id in found.image_ids)
        self._tags.frombytes(found.tags.tobytes())
        self._categories.frombytes(found.categories.tobytes())
        self._boxes.frombytes(found.boxes.tobytes())
        self._crowd.frombytes(found.crowd.tobytes())
        self._areas.frombytes(found.areas.tobytes())

    def _annotation(self, number: int, entry: Any) -> None:
        if not isinstance(entry, dict):
            where = f"annotations[{number}]"
            self._log.error("annotation-malformed", self._file, where, f"expected an object, got {kind_of(entry)}")
            return
        tag = entry.get("id")
        tag = tag if is_int64(tag) and tag >= 0 else ~number
        where = box_place(tag, "annotation id")
        key = id_as_text(entry.get("image_id"))
        category = entry.get("category_id")
        crowd = entry.get("iscrowd") or 0
        box = four_floats(entry.get("bbox"))
        if key is not None and (not is_int64(category) or box is None or crowd not in (0, 1)):
            self._bad_codes.add(self._code_of.setdefault(key, len(self._code_of)))
        if key is None:
            message = f"image_id must be a whole number or text, got {entry.get('image_id')!r:.40}"
            self._log.error("annotation-image-id", self._file, where, message)
        elif not is_int64(category):
            message = f"category_id must be a whole number, got {category!r:.40}"
            self._log.error("annotation-category-id", self._file, where, message)
        elif box is None:
            message = f"bbox must be [x, y, width, height] as four numbers, got {entry.get('bbox')!r:.60}"
            self._log.error("box-malformed", self._file, where, message, "correct or remove the annotation")
        elif crowd not in (0, 1):  # True and False count as 1 and 0
            self._log.error("annotation-iscrowd", self._file, where, f"iscrowd must be 0 or 1, got {crowd!r:.40}")
        else:
            x, y, width, height = box
            self._box_codes.append(self._code_of.setdefault(key, len(self._code_of)))
            self._categories.append(category)
            self._boxes.extend(self._upright((x, y, x + width, y + height), entry))
            self._tags.append(tag)
            if tag < 0:
                message = f"id must be a whole number, 0 or above, got {entry.get('id')!r:.40}"
                self._log.warn("annotation-id", self._file, where, message, "the box is used all the same")
            self._crowd.append(crowd == 1)
            self._areas.append(self._area(where, entry.get("area")))
            if self._masks is not None:
                self._masks.append(self._mask(where, entry.get("segmentation")))

    def _upright(self, corners: Corners, entry: dict[str, Any]) -> Corners:
        """Return the box around a turned one: CVAT writes it as it was before, and degrees among the attributes."""
        attributes = entry.get("attributes")
        degrees = attributes.get("rotation") if isinstance(attributes, dict) else None
        if is_angle(degrees):
            self._turned += 1
            return box_around(*corners, float(degrees))
        # Other tools' fields: whether the box is meant before or after turning, nobody can know.
        if "rotation" in entry or "angle" in entry:
            self._angles += is_angle(entry.get("rotation")) or is_angle(entry.get("angle"))
        return corners

    def _area(self, where: str, value: Any) -> float:
        if value is None:
            return math.nan
        area = as_float(value)
        if area is None or not 0 <= area < math.inf:
            message = f"area must be a number of square pixels, got {value!r:.40}"
            self._log.warn("annotation-area", self._file, where, message, "the area of the box is used")
            return math.nan
        return area

    def _mask(self, where: str, value: Any) -> RawMask | None:
        try:
            return read_mask(value)
        except ValueError as error:
            self._log.error("mask-malformed", self._file, where, str(error), "correct or remove the segmentation")
            return UNREADABLE

    # --- all together -----------------------------------------------------------------------------------------------

    def source(self, root: Path) -> Source:
        """Resolve what annotations point to, and return the columns; `root` is the image root."""
        ids, class_names = self._class_names()
        known_ids = list(self._code_of)
        image_rows = self._row_of_code()
        rows = image_rows[np.array(self._box_codes, dtype=np.int64)]
        categories = np.array(self._categories, dtype=np.int64)
        tags = np.array(self._tags, dtype=np.int64)
        classes = np.searchsorted(ids, categories) if ids else np.zeros_like(categories)
        known = np.isin(categories, ids)
        if len(categories) and not ids:
            message = (
                f"no category is listed, and {plural(len(categories), 'annotation names', 'annotations name')} one"
            )
            fix = f'list each under "categories", e.g. {{"id": {categories[0]}, "name": "cat"}}'
            self._log.error("categories-empty", self._file, "", message, fix)
        self._report_unknown(rows, known if ids else ~known, categories, tags, known_ids)
        self._report_double_ids(tags)
        report_turned(self._log, self._file, self._turned)
        if self._angles:
            message = (
                f"{plural(self._angles, 'annotation has', 'annotations have')} an angle (rotation); boxes are "
                "used as they stand"
            )
            self._log.warn(
                "box-angle", self._file, "", message, "check that these are the boxes around the turned ones"
            )
        keep = (rows >= 0) & known
        first = self._first_entries()
        return Source(
            format="coco",
            file=self._file,
            root=root,
            class_names=class_names,
            ids=[known_ids[self._image_codes[entry]] for entry in first],
            files=[self.files[entry] for entry in first],
            sizes=np.array(self._sizes, dtype=np.int64).reshape(-1, 2)[first],
            rows=rows[keep],
            boxes=np.array(self._boxes, dtype=np.float64).reshape(-1, 4)[keep],
            classes=classes[keep],
            crowd=np.array(self._crowd, dtype=np.bool_)[keep],
            areas=np.array(self._areas, dtype=np.float64)[keep],
            tags=tags[keep],
            tag_word="annotation id",
            masks=self._kept_masks(keep),
            spoilt=self._spoilt(image_rows, rows, known),
            federated=self._federated.result(ids, first),
        )

    def _kept_masks(self, keep: NDArray[np.bool_]) -> NDArray[np.object_] | None:
        if self._masks is None:
            return None
        found: NDArray[np.object_] = np.empty(len(self._masks), dtype=np.object_)
        found[:] = self._masks
        return found[keep]

    def _spoilt(
        self, image_rows: NDArray[np.int64], rows: NDArray[np.int64], known: NDArray[np.bool_]
    ) -> frozenset[int]:
        """Return the images with an annotation that could not be read, or is of an unknown category."""
        unreadable = {int(image_rows[code]) for code in self._bad_codes}
        return frozenset(unreadable | set(rows[~known].tolist())) - {-1}

    def _first_entries(self) -> NDArray[np.int64]:
        """Return the positions of the image entries that are not repetitions of an earlier id."""
        codes = np.array(self._image_codes, dtype=np.int64)
        return np.sort(np.unique(codes, return_index=True)[1])

    def _row_of_code(self) -> NDArray[np.int64]:
        """Return the image row `[num_codes]` of each image id, -1 for ids that only annotations name."""
        codes = np.array(self._image_codes, dtype=np.int64)
        first = self._first_entries()
        known_ids = list(self._code_of)
        for entry in np.setdiff1d(np.arange(len(codes)), first):
            where, message = f"images[{entry}]", f"image id {known_ids[codes[entry]]} is used twice"
            self._log.error("image-id-twice", self._file, where, message, "give every image its own id")
        row_of = np.full(len(self._code_of), -1, dtype=np.int64)
        row_of[codes[first]] = np.arange(len(first))
        return row_of

    def _report_unknown(
        self,
        rows: NDArray[np.int64],
        known: NDArray[np.bool_],
        categories: NDArray[np.int64],
        tags: NDArray[np.int64],
        known_ids: list[str],
    ) -> None:
        fix = "add the entry or remove the annotation"
        for box in np.flatnonzero(rows < 0):
            message = f"image_id {known_ids[self._box_codes[box]]} is not among the images"
            self._log.error("annotation-image-unknown", self._file, box_place(tags[box], "annotation id"), message, fix)
        for box in np.flatnonzero(~known):
            message = f"category_id {categories[box]} is not among the categories"
            self._log.error(
                "annotation-category-unknown", self._file, box_place(tags[box], "annotation id"), message, fix
            )

    def _report_double_ids(self, tags: NDArray[np.int64]) -> None:
        values, counts = np.unique(tags[tags >= 0], return_counts=True)
        for tag, count in zip(values[counts > 1], counts[counts > 1], strict=True):
            message = f"annotation id {tag} is used {count} times"
            fix = "both boxes are kept here, other tools count them double; give every annotation its own id"
            self._log.warn("annotation-id-twice", self._file, f"annotation id {tag}", message, fix)
