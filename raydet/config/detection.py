"""DetectionConfig: a run that trains a detector."""

from __future__ import annotations

from raydet.config.detection_data import DataConfig
from raydet.config.detection_methods import DetectionMethodConfig, SupervisedConfig
from raydet.config.detector import ModelConfig
from raydet.config.run import RunConfig


class DetectionConfig(RunConfig):
    """One training run of a detector."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    method: DetectionMethodConfig

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
