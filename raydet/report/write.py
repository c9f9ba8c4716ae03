"""Writing the report of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raydet.config.classification import ClassificationConfig
from raydet.config.run import RunConfig
from raydet.methods import build_detection_method
from raydet.report.history import Select
from raydet.report.page import Pictures, Section, check_can_draw, write_page
from raydet.train.rundir import RunFolder

Made = tuple[Any, Sequence[Callable[[Any, Pictures], Section]]]  # what the page is made from, and its sections' makers


def write_report(run_dir: Path, *, select: Select | None = None) -> Path:
    """Write RUN/report.html, one page without outside parts, and its pictures into RUN/plots/; return the page.

    `select` applies thresholds to a detector's stored label; default: those of the run's method. What is missing in the
    run folder, its section names. Raises UserError where `run_dir` is no run folder or matplotlib is not installed.
    """
    check_can_draw()
    folder, config = RunFolder(run_dir).path, RunFolder(run_dir).load_config()
    if isinstance(config, ClassificationConfig):
        inputs, makers = _of_a_classifier(folder)
    else:
        inputs, makers = _of_a_detector(folder, select or _own_select(config))
    return write_page(folder / "report.html", f"{config.method.name}: {folder.name}", inputs, makers)


def _of_a_detector(folder: Path, select: Select) -> Made:
    from raydet.report import (  # not before they are wanted: they import matplotlib
        common,
        detection_labels,
        detection_sections,
    )
    from raydet.report.inputs import read_inputs

    makers = (
        detection_sections.summary,
        detection_sections.learning_curves,
        detection_sections.ap_table,
        detection_sections.loss_shares,
        detection_labels.localisation,
        detection_sections.gates,
        detection_labels.precision_and_recall,
        common.speed,
        detection_labels.gallery,
    )
    return read_inputs(folder, select), makers


def _of_a_classifier(folder: Path) -> Made:
    from raydet.report import classification_labels, classification_sections, common, r2d2_sections
    from raydet.report.classification_inputs import read_classification_inputs

    run = read_classification_inputs(folder)
    is_r2d2 = run.config.method.name == "r2d2"
    makers = [
        classification_sections.summary,
        classification_sections.learning_curves,
        classification_sections.stages,
        classification_sections.accuracy_table,
        classification_sections.loss_parts,
        classification_labels.confidence,
        *([classification_labels.repredictions] if is_r2d2 else []),
        classification_labels.correctness,
        *([r2d2_sections.theorem] if is_r2d2 else []),
        *([r2d2_sections.features] if run.config.model.network == "lenet2d" else []),
        common.speed,
        classification_labels.gallery,
    ]
    return run, makers


def _own_select(config: RunConfig) -> Select:
    method = build_detection_method(config, "a report of pseudo-boxes")
    return lambda label: method.select(label).kept
