"""What a detector's report shows. Imports matplotlib."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from raydet.errors import DataError
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.families.detection.method import detection_method
from raydet.families.detection.report import classes, errors, labels, sections
from raydet.families.detection.report.history import Select
from raydet.families.detection.report.inputs import read_inputs
from raydet.report import common
from raydet.report.page import Made
from raydet.train.rundir import RunFolder

MAKERS = (
    sections.summary,
    sections.learning_curves,
    sections.ap_table,
    errors.section,
    sections.loss_shares,
    labels.localisation,
    sections.gates,
    labels.precision_and_recall,
)
LAST = (common.speed, labels.gallery)


def made(folder: Path, config: DetectionConfig) -> Made:
    """Return what a run's report is made from, and its sections' makers in order."""
    select = classes.at_the_time(RunFolder(folder).diagnostics, own_select(config, RunFolder(folder)))
    inputs = read_inputs(folder, select)
    return inputs, (*MAKERS, *classes.makers(inputs), *LAST)


def own_select(config: DetectionConfig, folder: RunFolder) -> Select:
    """Return what the run's method keeps of a stored label."""
    method = detection_method(config, "a report of pseudo-boxes")
    with suppress(DataError):  # told where the data is read for the report
        method.know_classes(BOXES.open(folder.data).class_names)
    return lambda label: method.select(label).kept
