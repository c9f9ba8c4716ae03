"""The label files of a YOLO data set."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

from raydet.data.boxes.source import SourceBuilder
from raydet.data.paths import resolve_inside
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

Box = tuple[float, float, float, float]
_ROUNDING = 1e-2  # values so little beyond 0 and 1 come from rounding; the box rules judge the pixels


class LabelReader:
    """Adds images with the boxes of their label files to a builder; reports broken lines and leaves them out."""

    def __init__(self, builder: SourceBuilder, num_classes: int, root: Path, log: ProblemLog) -> None:
        self._builder, self._num_classes, self._root, self._log = builder, num_classes, root, log
        self._missing: list[Path] = []
        self._polygons = 0

    def read(self, image: str) -> None:
        """Add the image of that name, relative to the root."""
        file = label_file(self._root, image)
        self._builder.add_image(image, image, str(file))
        try:
            resolve_inside(self._root, image)
        except DataError:
            return  # the common rules report it; labels beside a file outside the root are not read
        try:
            file = resolve_inside(self._root, file.relative_to(self._root).as_posix())
        except DataError as error:
            self._log.error("label-file", file, "", str(error))
            return
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            self._missing.append(file)
            return
        except (OSError, UnicodeDecodeError, ValueError) as error:
            self._log.error("label-file", file, "", f"cannot be read as UTF-8 text: {error}", "replace the file")
            return
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                self._line(file, number, line)

    def report(self) -> None:
        """Report what concerns many images at once."""
        if self._missing:
            message = f"{len(self._missing):,} images have no label file and count as images without objects"
            self._log.warn("label-file-missing", self._missing[0], "", message, "add label files if they show objects")
        if self._polygons:
            message = f"{self._polygons:,} rows are polygons; the boxes around them are used"
            self._log.warn("label-polygons", self._root, "", message)

    def _line(self, file: Path, number: int, line: str) -> None:
        parsed = parse_line(line, self._num_classes)
        if isinstance(parsed, str):
            fix = "expected: class x_center y_center width height"
            self._log.error("label-line", file, f"line {number}", f"{parsed} ({line.strip()[:60]!r})", fix)
            return
        class_id, box, is_polygon = parsed
        self._polygons += is_polygon
        self._builder.add_box(box, class_id, number)


def label_file(root: Path, image: str) -> Path:
    """Return where the labels of an image are: the last folder `images` becomes `labels`, the ending `.txt`."""
    parts = [*(root / PurePosixPath(image)).with_suffix(".txt").parts]
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            moved = Path(*parts[:place], "labels", *parts[place + 1 :])
            return moved if moved.is_relative_to(root) else Path(*parts)
    return Path(*parts)


def parse_line(line: str, num_classes: int) -> tuple[int, Box, bool] | str:
    """Return `(class, xyxy as fractions, is it a polygon)`, or what is wrong with the line."""
    if "," in line:
        return "commas: write decimal points, and spaces between numbers"
    try:
        class_number, *values = (float(part) for part in line.split())
    except ValueError:
        return "not only numbers"
    if not 0 <= class_number < num_classes or class_number != int(class_number):
        return f"class must be a whole number from 0 to {num_classes - 1}"
    if len(values) == 5:
        return "6 columns: this looks like a detection with a score, not a label"
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not is_polygon:
        return f"{len(values) + 1} columns"
    # NaN and infinity pass: the box rules name them.
    if any(math.isfinite(value) and not -_ROUNDING <= value <= 1 + _ROUNDING for value in values):
        return "values must lie between 0 and 1: are these pixels?"
    if is_polygon:
        xs, ys = values[0::2], values[1::2]
        return int(class_number), (min(xs), min(ys), max(xs), max(ys)), True
    x, y, width, height = values
    return int(class_number), (x - width / 2, y - height / 2, x + width / 2, y + height / 2), False
