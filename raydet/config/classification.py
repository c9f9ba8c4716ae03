"""ClassificationConfig: a run that trains an image classifier."""

from __future__ import annotations

from raydet.config.classification_methods import ClassificationMethodConfig, R2D2Config
from raydet.config.classifier import ClassifierConfig
from raydet.config.images import ImageDataConfig
from raydet.config.run import RunConfig


class ClassificationConfig(RunConfig):
    """One training run of an image classifier."""

    data: ImageDataConfig
    model: ClassifierConfig = ClassifierConfig()
    method: ClassificationMethodConfig

    def contradictions(self) -> list[str]:
        """Return what cannot be meant, each with the keys and what to change."""
        found, method = super().contradictions(), self.method
        parts = self.cluster.workers * self.optim.accumulate
        if isinstance(method, R2D2Config) and parts > min(method.burn_in_batch, method.finetune_batch // 2):
            found.append(
                f"cluster.workers={self.cluster.workers} x optim.accumulate={self.optim.accumulate} needs batches of "
                f"at least that many images, and twice as many for fine-tuning, where labelled and unlabelled ones "
                f"share a batch; method.burn_in_batch={method.burn_in_batch}, "
                f"method.finetune_batch={method.finetune_batch}"
            )
        if self.model.network == "resnet18" and self.data.views.size < 64:
            found.append(
                f"model.network=resnet18 halves its input five times; data.views.size={self.data.views.size} leaves "
                f"nothing to see: use 64 or more, or another network"
            )
        return found
