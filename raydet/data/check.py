"""`raydet check-data`: everything that is wrong with a data set, at once, by the rules that training applies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

from raydet.config.detection_data import DataConfig, DatasetConfig
from raydet.data.box_rules import OnBadBox
from raydet.data.files import replacing
from raydet.data.formats.detect import read_source
from raydet.data.leaks import report_repeated_images
from raydet.data.problems import Problem, ProblemLog, Severity, capped
from raydet.data.rules import usable
from raydet.data.sets import given_sets, report_relations, with_common_classes, with_split
from raydet.data.source import Table
from raydet.data.splits import choose_rows
from raydet.data.summary import SetSummary, summarise
from raydet.errors import DataError

_MISREAD = frozenset({"boxes-normalised", "boxes-corners"})  # errors that leaving boxes out would hide


class Summary(Protocol):
    """What one set holds, of whatever family; `str` gives all of it, over several lines."""

    @property
    def name(self) -> str:
        """Return what the set is for: labeled, unlabeled, val, test, or "data" where it is checked alone."""

    @property
    def images(self) -> int:
        """Return how many images it has."""

    @property
    def num_classes(self) -> int:
        """Return how many classes it knows."""

    def headline(self) -> str:
        """Return name and size, in a few words."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found. `problems` holds the first 10,000 of each code, `counts` all of them."""

    sets: tuple[Summary, ...]
    problems: tuple[Problem, ...]
    counts: dict[tuple[Severity, str], int]
    num_labeled: int = 0  # images that training sees with their labels, and without, where a configuration was checked
    num_unlabeled: int = 0

    @property
    def num_errors(self) -> int:
        """Return how many errors were found; with none, training can start."""
        return sum(count for (severity, _), count in self.counts.items() if severity == "error")

    @property
    def num_warnings(self) -> int:
        """Return how many warnings were found."""
        return sum(self.counts.values()) - self.num_errors


@dataclass(frozen=True, slots=True)
class FixResult:
    """A cleaned copy of a data set's annotations."""

    file: Path  # COCO JSON; set `path` to it
    images: Path  # where its file names start; set `images` to it
    report: CheckReport  # what is left, and what was left out (errors) or dropped or clipped (warnings)


def check_dataset(config: DatasetConfig, *, decode_images: bool = True) -> CheckReport:
    """Check one data set; `decode_images` also finds images that are damaged behind their header."""
    log = ProblemLog()
    with TemporaryDirectory(prefix="raydet-") as generated:
        found = _read("data", config, "error", log, decode_images, Path(generated))
    return report_of([found[1]] if found else [], log)


def check_config(config: DataConfig, *, decode_images: bool = True) -> CheckReport:
    """Check all sets of a configuration, and what holds between them: classes, the split, pictures in two sets."""
    log = ProblemLog()
    tables: dict[str, Table] = {}
    summaries: list[SetSummary] = []
    with TemporaryDirectory(prefix="raydet-") as generated:
        for name, one in given_sets(config).items():
            if found := _read(name, one, config.on_bad_box, log, decode_images, Path(generated) / name):
                tables[name] = found[0]
                summaries.append(found[1])
        if "labeled" in tables:
            tables = _check_relations(tables, config, log)  # reads the images again
    return report_of(summaries, log, tables)


def fix_dataset(config: DatasetConfig, policy: Literal["drop", "clip"], out: Path) -> FixResult:
    """Write a COCO JSON of what is usable: broken images and annotations are left out, bad boxes dropped or clipped.

    Images are referred to, not copied; images, annotations and categories are numbered from 1. Raises DataError where
    `out` exists, nothing can be read, or all boxes are in another convention.
    """
    if out.exists():
        raise DataError(f"{out}: exists already and is not overwritten; give another name")
    log = ProblemLog()
    with TemporaryDirectory(prefix="raydet-") as generated:
        source = read_source(config, log, Path(generated))
        table = usable(source, policy, log, decode_images=True)
    if not _MISREAD.isdisjoint(code for _, code in log.counts):
        log.raise_errors("this cannot be fixed by leaving boxes out")
    with replacing(out) as stream:
        for piece in _coco_pieces(table):
            stream.write(piece.encode())
    summary = summarise("fixed", str(out), "coco", table)
    return FixResult(out, table.root, report_of([summary], log))


def format_report(report: CheckReport, per_code: int = 10) -> str:
    """Return the report as text: the sets, then errors and warnings, the first `per_code` of each code."""
    counts = Counter(report.counts)
    blocks = [str(summary) for summary in report.sets]
    for severity in ("error", "warning"):
        found = [problem for problem in report.problems if problem.severity == severity]
        if found:
            total = report.num_errors if severity == "error" else report.num_warnings
            title = f"{total:,} {severity}{'s' * (total != 1)}:"
            blocks.append("\n  ".join([title, *capped(found, counts, per_code)]))
    if not report.num_errors:
        blocks.append("no errors: this data can be used")
    return "\n".join(blocks)


def report_of(summaries: Sequence[Summary], log: ProblemLog, tables: Mapping[str, Sized] | None = None) -> CheckReport:
    """Return the report of what was logged; `tables` are the sets as training sees them, after the split."""
    labeled, unlabeled = (len((tables or {}).get(name, ())) for name in ("labeled", "unlabeled"))
    return CheckReport(tuple(summaries), tuple(log.problems), dict(log.counts), labeled, unlabeled)


def _read(
    name: str, config: DatasetConfig, on_bad_box: OnBadBox, log: ProblemLog, decode_images: bool, generated: Path
) -> tuple[Table, SetSummary] | None:
    """Read one set, or report why it cannot be read; `generated` is for the images of `shapes`."""
    try:
        source = read_source(config, log, generated)
    except DataError as error:
        log.error("data-set", name, "", str(error))
        return None
    table = usable(source, on_bad_box, log, decode_images=decode_images)
    report_repeated_images(table, log)
    return table, summarise(name, config.path, source.format, table)


def _check_relations(tables: dict[str, Table], config: DataConfig, log: ProblemLog) -> dict[str, Table]:
    """Report what is wrong between the sets; returns them as training sees them."""
    tables = with_common_classes(tables, config, log)
    try:
        tables = with_split(tables, choose_rows(config, tables["labeled"]))
    except DataError as error:
        log.error("split", "data", "", str(error))
    report_relations(tables, config, log)
    return tables


def _coco_pieces(table: Table) -> Iterator[str]:
    """Yield a COCO JSON in pieces: all of it at once would need many times the memory of the table."""
    yield '{"images":['
    for row, name in enumerate(table.files):
        height, width = table.sizes[row].tolist()
        entry: dict[str, Any] = {"id": row + 1, "file_name": name, "height": height, "width": width}
        yield _piece(entry, row)
    yield '],\n"annotations":['
    for box, row in enumerate(table.box_rows().tolist()):
        x1, y1, x2, y2 = table.boxes[box].tolist()
        entry = {"id": box + 1, "image_id": row + 1, "category_id": int(table.classes[box]) + 1}
        entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(table.areas[box]), "iscrowd": int(table.crowd[box])}
        yield _piece(entry, box)
    yield '],\n"categories":['
    for number, name in enumerate(table.class_names):
        yield _piece({"id": number + 1, "name": name}, number)
    yield "]}\n"


def _piece(entry: dict[str, Any], number: int) -> str:
    return (",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False)
