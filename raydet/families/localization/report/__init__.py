"""What a localizer's report shows. Imports matplotlib."""

from __future__ import annotations

from pathlib import Path

from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.report import boxes, pictures, sections
from raydet.families.localization.report.inputs import read_inputs
from raydet.report import common
from raydet.report.page import Made


def made(folder: Path, config: LocalizationConfig) -> Made:
    """Return what a run's report is made from, and its sections' makers in order."""
    run = read_inputs(folder)
    makers = [
        sections.summary,
        sections.learning_curves,
        sections.stages,
        boxes.gate,
        boxes.drift,
        boxes.stability,
        pictures.boxes_of_each_stage,
        pictures.attention,
        common.speed,
    ]
    return run, makers
