"""`raydet check-data` for images with labels: everything that is wrong, by the rules that training applies."""

from __future__ import annotations

from raydet.config.images import ImageDataConfig, ImageSetConfig
from raydet.data.check import CheckReport, report_of
from raydet.data.images.formats.detect import detect_format, read_images
from raydet.data.images.rules import usable
from raydet.data.images.sets import (
    given_sets,
    needs_labels,
    report_missing_classes,
    report_relations,
    with_common_classes,
    with_split,
)
from raydet.data.images.splits import choose_rows
from raydet.data.images.summary import ImageSetSummary, summarise
from raydet.data.images.table import NO_LABEL, ImageTable
from raydet.data.leaks import report_repeated_images
from raydet.data.problems import ProblemLog
from raydet.errors import DataError


def check_image_set(config: ImageSetConfig, *, decode_images: bool = True) -> CheckReport:
    """Check one set, whatever it is for: where one image has a label, all need one.

    `decode_images` also finds images that cannot be decoded, and looks at sizes and colours. The report's `sets` are
    `ImageSetSummary`s; `raydet.data.check.format_report` prints it.
    """
    log = ProblemLog()
    found = _read("data", config, log, decode_images)
    if found is None:
        return report_of([], log)
    report_missing_classes("given", found[0], config.path, log)
    return report_of([found[1]], log)


def check_images(config: ImageDataConfig, *, decode_images: bool = True) -> CheckReport:
    """Check all sets of a configuration, and what holds between them: classes, the split, pictures in two sets."""
    log = ProblemLog()
    tables: dict[str, ImageTable] = {}
    summaries: list[ImageSetSummary] = []
    for name, one in given_sets(config).items():
        if found := _read(name, one, log, decode_images):
            tables[name] = found[0]
            summaries.append(found[1])
    if "labeled" in tables:
        tables = _check_relations(tables, config, log)
    return report_of(summaries, log, tables)


def _read(
    name: str, config: ImageSetConfig, log: ProblemLog, decode_images: bool
) -> tuple[ImageTable, ImageSetSummary] | None:
    """Read one set, or report why it cannot be read."""
    try:
        format = detect_format(config)
        table = read_images(config, log)
    except DataError as error:
        log.error("data-set", name, "", str(error))
        return None
    labelled = needs_labels(name) if name != "data" else bool((table.labels != NO_LABEL).any())
    table = usable(table, config.path, log, needs_labels=labelled, decode_images=decode_images)
    report_repeated_images(table, log)
    return table, summarise(name, config.path, format, table, look=decode_images)


def _check_relations(tables: dict[str, ImageTable], config: ImageDataConfig, log: ProblemLog) -> dict[str, ImageTable]:
    """Report what is wrong between the sets; returns them as training sees them."""
    tables = with_common_classes(tables, config, log)
    try:
        tables = with_split(tables, choose_rows(config, tables["labeled"]))
    except DataError as error:
        log.error("split", "data", "", str(error))
    report_relations(tables, config, log)
    return tables
