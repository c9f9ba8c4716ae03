"""What a classifier's report shows. Imports matplotlib."""

from __future__ import annotations

from pathlib import Path

from raydet.families.classification.config import ClassificationConfig
from raydet.families.classification.report import labels, r2d2, sections
from raydet.families.classification.report.inputs import read_classification_inputs
from raydet.report import common
from raydet.report.page import Made


def made(folder: Path, config: ClassificationConfig) -> Made:
    """Return what a run's report is made from, and its sections' makers in order."""
    run = read_classification_inputs(folder)
    is_r2d2 = config.method.name == "r2d2"
    makers = [
        sections.summary,
        sections.learning_curves,
        sections.stages,
        sections.accuracy_table,
        sections.loss_parts,
        labels.confidence,
        *([labels.repredictions] if is_r2d2 else []),
        labels.correctness,
        *([r2d2.theorem] if is_r2d2 else []),
        *([r2d2.features] if config.model.network == "lenet2d" else []),
        common.speed,
        labels.gallery,
    ]
    return run, makers
