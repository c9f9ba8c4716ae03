"""The label files of a YOLO data set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from raydet.data.boxes.formats.yolo_pairs import Pairs
from raydet.data.boxes.formats.yolo_rows import could_be_key_points, parse_row
from raydet.data.boxes.source import SourceBuilder
from raydet.data.boxes.turned import TURNED_ROWS, report_turned
from raydet.data.paths import LeadsOutsideError, checked_name, rebased, resolve_inside
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import plural


@dataclass(frozen=True, slots=True)
class Place:
    """Where the names of a data set start, and the folder that nothing may lead out of; both are resolved."""

    start: Path
    limit: Path


class LabelReader:
    """Adds images with the boxes of their label files to a builder; reports broken lines and leaves them out."""

    def __init__(
        self,
        builder: SourceBuilder,
        place: Place,
        num_classes: int,
        keypoint_values: int,
        log: ProblemLog,
        role: str = "data",
    ) -> None:
        """`keypoint_values`: how many numbers of key points a row has behind its box; `role`: what the set is for."""
        self._builder, self._place, self._log, self._role = builder, place, log, role
        self._num_classes, self._keypoint_values = num_classes, keypoint_values
        self.pairs = Pairs(place.start, log)
        self._shapes: Counter[str] = Counter()
        self._lengths: set[int] = set()  # of rows that are read as polygons
        self._has_key_points = True  # they all would also do as boxes with key points

    def read(self, image: str) -> None:
        """Add the image of that name, relative to where names start."""
        start, limit = self._place.start, self._place.limit
        name = rebased(start, limit, image)
        self._builder.add_image(image, name, image)
        try:
            checked_name(image)
            resolve_inside(limit, name)
        except DataError:
            return  # the common rules report it; labels beside a file outside the root are not looked for
        file = self.pairs.label_of(image)
        if file is None:
            self._builder.spoil()
            return
        self._builder.label_files[-1] = str(file)
        text = self._text(image, file)
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                self._line(file, number, line)

    def report(self) -> None:
        """Report what concerns many images at once."""
        self._builder.spoil_all(self.pairs.report(self._role))
        if polygons := self._shapes["polygon"]:
            message = f"{plural(polygons, 'row is a polygon', 'rows are polygons')}; the boxes around them are used"
            fix = ""
            if self._has_key_points and len(self._lengths) == 1:
                fix = "they could also be boxes with key points: then say `kpt_shape` in the data.yaml"
            self._log.warn("label-polygons", self._place.start, "", message, fix)
        report_turned(self._log, self._place.start, self._shapes["oriented"], TURNED_ROWS)

    def _text(self, image: str, file: Path) -> str:
        """Return what a label file says; nothing where there is none, or it cannot be read, which is reported."""
        try:
            return self._own(file).read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            self.pairs.missing[image] = file
            return ""
        except LeadsOutsideError as error:
            self._log.error("label-file", file, "", error.with_way_out)
        except (OSError, RuntimeError, UnicodeDecodeError, ValueError) as error:
            self._log.error("label-file", file, "", f"cannot be read as UTF-8 text: {error}", "replace the file")
        self._builder.spoil()
        return ""

    def _own(self, file: Path) -> Path:
        """Return a label file, symlinks followed; it lies in the data set itself, or where its images may be."""
        found = file.resolve()
        start, limit = self._place.start, self._place.limit
        if not found.is_relative_to(start) and not found.is_relative_to(limit):
            raise LeadsOutsideError(file.name, start, found)
        return found

    def _line(self, file: Path, number: int, line: str) -> None:
        row = parse_row(line, self._num_classes, self._keypoint_values)
        if isinstance(row, str):
            fix = "expected: class x_center y_center width height"
            self._log.error("label-line", file, f"line {number}", f"{row} ({line.strip()[:60]!r})", fix)
            self._builder.spoil()
            return
        self._shapes[row.shape] += 1
        if row.shape == "polygon":
            self._lengths.add(len(line.split()))
            self._has_key_points &= could_be_key_points(line)
        self._builder.add_box(row.box, row.class_id, number)
