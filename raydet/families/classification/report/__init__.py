"""What a classifier's report shows. Imports matplotlib."""

from __future__ import annotations

from pathlib import Path

from raydet.families.classification.config import ClassificationConfig, R2D2Config
from raydet.families.classification.report import labels, r2d2, sections
from raydet.families.classification.report.inputs import read_classification_inputs
from raydet.report import common
from raydet.report.page import Made


def made(folder: Path, config: ClassificationConfig) -> Made:
    """Return what a run's report is made from, and its sections' makers in order."""
    run = read_classification_inputs(folder)
    learns_labels = run.method.learns_labels_until is not None
    makers = [
        sections.summary,
        sections.learning_curves,
        sections.stages,
        sections.accuracy_table,
        sections.loss_parts,
        labels.confidence,
        *([labels.repredictions] if learns_labels else []),
        labels.correctness,
        *([r2d2.theorem] if isinstance(config.method, R2D2Config) else []),  # it is about that method's loss alone
        *([r2d2.features] if config.model.network == "lenet2d" else []),
        common.speed,
        labels.gallery,
    ]
    return run, makers
