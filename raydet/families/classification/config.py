"""ClassificationConfig: a run that trains an image classifier, and one class of settings per method.

Defaults of a method are the paper's setting (Greek letter in parentheses).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raydet.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Weight
from raydet.config.class_data import ImageDataConfig
from raydet.config.classifier import ClassifierConfig
from raydet.config.method import MethodSection, TeacherSection
from raydet.config.optim import OptimConfig
from raydet.config.run import LabelsConfig, RunConfig

ClassLossType = Literal["kl_pred_to_pseudo", "kl_pseudo_to_pred", "mse"]
ConsistencyLoss = Literal["mse", "kl"]


def _published_at_stages(run: RunConfig) -> list[str]:
    """Return a contradiction where a teacher is to be published between the stages of a method that has none."""
    if run.labels.publish_every == 1:
        return []
    return [
        f"labels.publish_every={run.labels.publish_every} has no effect with method.name={run.method.name}, whose "
        f"labels are predicted at fixed steps: remove it"
    ]


class SupervisedClassifierConfig(TeacherSection):
    """Labelled images only. After `burn_in_steps` an EMA of the student is kept, so that it compares like with like."""

    uses_labels: ClassVar[bool] = False
    implementation: ClassVar[str] = "raydet.families.classification.methods.supervised_classifier:SupervisedClassifier"
    name: Literal["supervised_classifier"] = "supervised_classifier"


class MeanTeacherConfig(TeacherSection):
    """Mean Teacher (Tarvainen and Valpola, NIPS 2017)."""

    implementation: ClassVar[str] = "raydet.families.classification.methods.mean_teacher:MeanTeacher"
    name: Literal["mean_teacher"] = "mean_teacher"
    burn_in_steps: NonNegativeInt = 0
    """Optimiser steps on labelled images only, before the first pseudo-labels; the paper has none, but a ramp-up."""
    ema_keep_rate: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Share of the teacher that one EMA update keeps; 1.0 would freeze the teacher forever."""
    consistency_loss: ConsistencyLoss = "mse"
    """What the student's and the teacher's probabilities are compared by: squared difference, mean over the classes, or
    KL(teacher || student) (theirs on ImageNet)."""
    consistency_weight: Weight = 100.0
    """Weight of that comparison, at the ramp-up's end."""
    ramp_up_steps: NonNegativeInt = 40_000
    """Steps over which that weight grows from e^-5 of itself, along a Gaussian."""


class PseudoLabelConfig(MethodSection):
    """Hard pseudo-labels (Lee, 2013): the network's own best class, taken for the truth from time to time."""

    implementation: ClassVar[str] = "raydet.families.classification.methods.pseudo_label:PseudoLabel"
    name: Literal["pseudo_label"] = "pseudo_label"
    unsup_weight: Weight = 1.0
    """Weight of the cross-entropy on pseudo-labels."""
    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Only labels whose probability exceeds this are trained on; 0: all."""
    reprediction_interval_steps: PositiveInt | None = None
    """Label anew, by the student of that time, every so many steps; default: once, at the burn-in's end."""

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        return [*super().contradictions(run), *_published_at_stages(run)]


class R2D2Config(MethodSection):
    """R2-D2 (Wang et al., AAAI 2020): pseudo-labels are learned, and predicted anew from time to time."""

    fixed_length: ClassVar[bool] = True
    lr_keys: ClassVar[tuple[str, ...]] = ("method.burn_in_lr", "optim.lr", "method.repeat_lrs", "method.finetune_lr")
    implementation: ClassVar[str] = "raydet.families.classification.methods.r2d2:R2D2"
    name: Literal["r2d2"] = "r2d2"
    burn_in_steps: PositiveInt = 30_000
    """Stage 1: optimiser steps on labelled images only (300 epochs of 100)."""
    burn_in_batch: PositiveInt = 40
    """Stage 1: labelled images per step, over all workers."""
    burn_in_lr: PositiveFloat = 0.05
    """Stage 1: learning rate at the start; it falls along a cosine, to 0.05 of itself at the stage's end."""
    d2_steps: PositiveInt = 35_700
    """Stage 2, D2: steps until the first reprediction (300 epochs of 119), at `optim.lr`."""
    repeat_stage2: bool = True
    """Go on with D2 until the fine-tuning (Table 1); off: the run ends earlier."""
    reprediction_enabled: bool = True
    """While D2 is repeated, predict the pseudo-labels anew every `reprediction_interval_steps` (R2)."""
    reprediction_interval_steps: PositiveInt = 8_925
    """Steps between repredictions, and between changes of the learning rate (75 epochs of 119)."""
    reduce_lr_enabled: bool = True
    """While D2 is repeated, use `repeat_lrs`; off: `optim.lr`."""
    repeat_lrs: tuple[PositiveFloat, ...] = (0.12, 0.08, 0.04, 0.004)
    """Learning rate of each interval of the repetition; the last one stays."""
    class_loss_type: ClassLossType = "kl_pred_to_pseudo"
    """Classification loss (L_c): KL(prediction || label), KL(label || prediction), or squared difference (Table 4)."""
    class_loss_weight: PositiveFloat = 0.1
    """Weight of the classification loss (alpha)."""
    entropy_weight: Weight = 0.03
    """Weight of the predictions' entropy (beta); less than `class_loss_weight`."""
    label_lr: PositiveFloat = 4000.0
    """Learning rate of the pseudo-labels (lambda), meant for a loss that is a mean over 512 images."""
    pseudo_grad_reduction: Literal["mean", "sum"] = "mean"
    """`mean`: a label's step is label_lr x class_loss_weight / images per step. `sum`: Eq. 7 read literally."""
    label_step_override: PositiveFloat | None = None
    """The label's step itself, whatever the batch."""
    labeled_logit_scale: PositiveFloat = 10.0
    """Logit of the true class of labelled images (K); the others have 0."""
    labeled_loss: Literal["d2", "ce"] = "d2"
    """Loss of labelled images in stage 2: the same as for the others, or cross-entropy."""
    update_labeled: bool = False
    """Learn the labels of labelled images too."""
    finetune_enabled: bool = True
    """Stage 3: train on hard labels at last; off: the run ends earlier."""
    finetune_label_source: Literal["pseudo_logits", "reprediction"] = "pseudo_logits"
    """Stage 3: hard labels from the learned pseudo-labels, or predicted by the network as it is then."""
    finetune_steps: PositiveInt = 4_850
    """Stage 3: the last so many steps (50 epochs of 97)."""
    finetune_batch: PositiveInt = 512
    """Stage 3: images per step, over all workers; labelled and unlabelled ones by their numbers."""
    finetune_lr: PositiveFloat = 0.01
    """Stage 3: learning rate at the start; it falls to 0 along a cosine."""

    @property
    def tail_steps(self) -> int:
        """Steps of stage 3."""
        return self.finetune_steps if self.finetune_enabled else 0

    def length(self, optim: OptimConfig) -> int:
        """Return the optimiser steps of a run: `optim.steps`, or less where a stage is left out."""
        if not self.repeat_stage2:
            return self.burn_in_steps + self.d2_steps + self.tail_steps
        return optim.steps if self.finetune_enabled else optim.steps - self.finetune_steps

    def shortened(self, burn_in: int, later: int) -> dict[str, int]:
        """Return what to change for a run of `burn_in` steps of stage 1, `later` of D2, and one more."""
        return {**super().shortened(burn_in, later), "d2_steps": later, "finetune_steps": 1}

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        optim, found = run.optim, _published_at_stages(run)
        least = self.burn_in_steps + self.d2_steps + self.finetune_steps
        if self.repeat_stage2 and optim.steps < least:  # without it the stages alone make the length
            found.append(
                f"optim.steps={optim.steps} is less than method.burn_in_steps + d2_steps + finetune_steps = "
                f"{self.burn_in_steps} + {self.d2_steps} + {self.finetune_steps} = {least}; raise it, or shorten "
                f"a stage"
            )
        if self.class_loss_weight <= self.entropy_weight:
            found.append(
                f"method.class_loss_weight={self.class_loss_weight:g} must be greater than method.entropy_weight="
                f"{self.entropy_weight:g}: otherwise the loss drives every prediction to one class, wherever it starts "
                f"(R2-D2, section on Theorem 1), and training fails"
            )
        if self.update_labeled and self.labeled_loss == "ce":
            found.append(
                "method.update_labeled learns labels from the D2 loss, which labelled images do not have with "
                "method.labeled_loss=ce; switch one of them off"
            )
        if not self.repeat_lrs:
            found.append("method.repeat_lrs is empty; give at least one learning rate")
        if optim.decay_at or optim.schedule != "steps" or optim.lr_scaling != "none":
            found.append(
                "r2d2 has a law of the learning rate of its own (burn_in_lr, optim.lr, repeat_lrs, finetune_lr): leave "
                "optim.decay_at empty, optim.schedule=steps and optim.lr_scaling=none"
            )
        parts = run.cluster.workers * optim.accumulate
        pooled = self.finetune_batch // 2 if self.finetune_enabled else self.burn_in_batch
        if parts > min(self.burn_in_batch, pooled):
            found.append(
                f"cluster.workers={run.cluster.workers} x optim.accumulate={optim.accumulate} needs batches of at "
                f"least that many images, and twice as many for fine-tuning, where labelled and unlabelled ones share "
                f"a batch; method.burn_in_batch={self.burn_in_batch}, method.finetune_batch={self.finetune_batch}"
            )
        return found


METHODS: list[type[MethodSection]] = [SupervisedClassifierConfig, MeanTeacherConfig, PseudoLabelConfig, R2D2Config]
"""The methods that train a classifier, a line each."""


class ClassifierOptimConfig(OptimConfig):
    """Optimiser and batch. Batch sizes are GLOBAL, whatever the number of workers. Defaults: R2-D2 on CIFAR-10."""

    lr: PositiveFloat = 0.12
    """Learning rate for `reference_batch` images; see `lr_scaling`. R2-D2: that of D2 before the first reprediction."""
    reference_batch: PositiveInt = 512
    """Images per step that `lr` was chosen for (labelled + unlabelled, where the method uses such)."""
    nesterov: bool = True
    """SGD with Nesterov's momentum."""
    weight_decay: Weight = 2e-4
    """Weight decay; biases and norm layers are exempt."""
    steps: PositiveInt = 106_250
    """Optimiser steps in all, burn-in included."""
    warmup_steps: NonNegativeInt = 0
    """Linear warm-up from lr / 1000."""
    labeled_batch: PositiveInt = 128
    """Labelled images per step, over all workers."""
    unlabeled_batch: PositiveInt = 384
    """Unlabelled images per step, over all workers."""


class ClassLabelsConfig(LabelsConfig):
    """How pseudo-labels are made and kept."""

    keep_versions: PositiveInt | None = 2
    """Keep stored labels of only so many newest teacher versions; null: all. Only resuming reads them."""


class ClassificationConfig(RunConfig):
    """One training run of an image classifier."""

    family: ClassVar[str] = "classification"
    trains: ClassVar[str] = "classifier"
    figures: ClassVar[tuple[str, ...]] = ("accuracy", "error", "top5_error")
    told_besides: ClassVar[tuple[str, ...]] = ("top5_error",)  # below six classes there is none: it would be 0
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"error", "top5_error"})
    spoken: ClassVar[Mapping[str, str]] = {
        "top5_error": "top-5 error",
        "d2": "D2",
        "finetune": "fine-tuning",
        "ce": "cross-entropy",
        "class": "classification",
        "entropy": "entropy of predictions",
    }

    data: ImageDataConfig
    model: ClassifierConfig = ClassifierConfig()
    optim: ClassifierOptimConfig = ClassifierOptimConfig()
    labels: ClassLabelsConfig = ClassLabelsConfig()

    def contradictions(self) -> list[str]:
        """Return what cannot be meant, each with the keys and what to change."""
        found = super().contradictions()
        size, least = self.data.views.size, self.model.least_size
        if size < least:
            found.append(
                f"data.views.size={size} is too small for model.network={self.model.network}: use {least} or more, or "
                f"another network"
            )
        return found


RUN_CONFIG = ClassificationConfig
