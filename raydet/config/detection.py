"""DetectionConfig: a run that trains a detector."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raydet.config.base import PositiveInt
from raydet.config.detection_data import DataConfig
from raydet.config.detection_methods import DetectionMethodConfig, SupervisedConfig
from raydet.config.detector import ModelConfig
from raydet.config.run import EvalConfig, LabelsConfig, RunConfig


class BoxLabelsConfig(LabelsConfig):
    """How pseudo-labels are made and kept."""

    score_floor: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Candidates at or below this score are not stored."""
    top_k: PositiveInt = 1000
    """Most candidates stored per image, best score first."""


class BoxEvalConfig(EvalConfig):
    """Evaluation while training."""

    engine: Literal["auto", "hotcoco", "pycocotools"] = "auto"
    """COCO AP engine; `auto` takes hotcoco where installed (same figures, faster) and says which."""


class DetectionConfig(RunConfig):
    """One training run of a detector."""

    trains: ClassVar[str] = "detector"
    figures: ClassVar[tuple[str, ...]] = ("AP", "AP50", "AP75", "APs", "APm", "APl")

    data: DataConfig
    model: ModelConfig = ModelConfig()
    method: DetectionMethodConfig
    labels: BoxLabelsConfig = BoxLabelsConfig()
    eval: BoxEvalConfig = BoxEvalConfig()

    def contradictions(self) -> list[str]:
        """Return what cannot be meant, each with the keys and what to change."""
        found = super().contradictions()
        model, method, workers = self.model, self.method, self.cluster.workers
        if model.backbone != "small_gn" and model.weights is None and workers > 1:
            found.append(
                f"model.backbone={model.backbone} without model.weights trains its batch norm, whose statistics "
                f"would differ between the {workers} workers; set model.weights, use model.backbone=small_gn, or "
                f"one worker"
            )
        if not isinstance(method, SupervisedConfig) and method.score_threshold < self.labels.score_floor:
            found.append(
                f"method.score_threshold is below labels.score_floor={self.labels.score_floor}: labels would be "
                f"incomplete; lower labels.score_floor"
            )
        return found
