"""What a pre-training run's report shows. Imports matplotlib."""

from __future__ import annotations

from pathlib import Path

from raydet.families.pretraining.config import PretrainingConfig
from raydet.families.pretraining.report import pictures, sections
from raydet.families.pretraining.report.inputs import read_inputs
from raydet.report import common
from raydet.report.page import Made


def made(folder: Path, config: PretrainingConfig) -> Made:
    """Return what a run's report is made from, and its sections' makers in order."""
    makers = [
        sections.summary,
        sections.learning_curves,
        sections.similarity,
        sections.proposals,
        pictures.views,
        common.speed,
    ]
    return read_inputs(folder), makers
