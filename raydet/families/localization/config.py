"""LocalizationConfig: a run that learns to put one box on each image from class labels, and one class of settings per
method.

Defaults of a method are the paper's setting (Greek letter in parentheses), on CUB-200-2011.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raydet.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Threshold, Weight
from raydet.config.localizer import LocalizerConfig
from raydet.config.located_data import LocatedDataConfig
from raydet.config.method import MethodSection
from raydet.config.optim import OptimConfig
from raydet.config.run import EvalConfig, RunConfig


class LocatingSection(MethodSection):
    """What the settings of every method of this family hold."""

    uses_labels: ClassVar[bool] = False
    classifier_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The classifier's learning rate, `optim.lr` at first, is multiplied by this from time to time."""
    classifier_decay_steps: PositiveInt = 187
    """How often: an epoch of CUB in steps (5,994 images / 32)."""

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        found, optim = super().contradictions(run), run.optim
        if optim.decay_at or optim.schedule != "steps" or optim.lr_scaling != "none":
            found.append(
                f"{self.name} has laws of the learning rate of its own (optim.lr, method.classifier_decay and so on): "
                f"leave optim.decay_at empty, optim.schedule=steps and optim.lr_scaling=none"
            )
        return found

    def leaves_nothing(self, run: RunConfig, second: str) -> list[str]:
        """Return a contradiction where the first stage is all of a run that has a second one."""
        if self.burn_in_steps < run.optim.steps:
            return []
        return [
            f"method.burn_in_steps={self.burn_in_steps} leaves nothing of optim.steps={run.optim.steps} for {second}; "
            f"lower the first, or raise the second"
        ]


class LchpConfig(LocatingSection):
    """LCHP (Sun and Zhu, arXiv 2203.09803): boxes of an attention map, then consistency of the sure ones."""

    lr_keys: ClassVar[tuple[str, ...]] = ("optim.lr", "method.refine_lr")
    implementation: ClassVar[str] = "raydet.families.localization.methods.lchp:Lchp"
    name: Literal["lchp"] = "lchp"
    burn_in_steps: PositiveInt = 7_492
    """The initialisation stage, LCHP-I: optimiser steps of classifier and localizer (40 epochs of CUB). The rest of
    `optim.steps` is the refinement, LCHP-R."""
    stage: Literal["pseudo_label_only", "init", "refine"] = "refine"
    """How far to go: the classifier and Algorithm 1's boxes (the paper's baseline Pseudo Label), LCHP-I, or LCHP-R.
    The first two end after `burn_in_steps`."""
    attention_threshold: Threshold = 0.7
    """What counts as foreground on the normalised attention map (delta), strictly; Tiny-ImageNet: 0.8."""
    attention_source: Literal["attention_maps", "trunk_features"] = "attention_maps"
    """Of which maps the attention is the mean: the `num_attention_maps` ones, or all channels of the trunk (their
    magnitudes, where a trunk ends without a ReLU)."""
    upsample_before_threshold: bool = True
    """Enlarge the attention to the image before the threshold; off: scale the cells afterwards."""
    mask_out_enabled: bool = True
    """Mask the first region and look again; the classifier learns from masked images too."""
    mask_fill: Literal["normalized_zero", "black_pixel"] = "normalized_zero"
    """What masked pixels become: 0 after normalisation (the mean colour), or black."""
    joint_forward: bool = False
    """Classify images and masked images in one forward, with common batch statistics; off: in two."""
    pseudo_net_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the pseudo-label classifier that one update keeps (beta); 0: the classifier itself makes the boxes."""
    init_reg_weight: Weight = 20.0
    """Weight of the localizer's loss beside the classifier's (alpha)."""
    box_encoding: Literal["xywh", "xyxy"] = "xywh"
    """What the localizer says: upper left corner and size (PSOL), or both corners."""
    reg_reduction: Literal["sum", "mean"] = "sum"
    """Squared distance of two boxes: summed over the four numbers (Eq. 2), or their mean, four times smaller."""
    refine_lr: PositiveFloat = 2e-3
    """Refinement: learning rate of the localizer; ImageNet: 2e-4."""
    crop_confidence_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Refinement: class probability of the cropped box above which it is learned from (tau), strictly. 0: always, which
    fails in the paper (Table 4)."""
    gate_network: Literal["classifier", "pseudo_classifier"] = "classifier"
    """Refinement: which classifier judges the crop."""
    gate_class: Literal["max", "label"] = "max"
    """Refinement: the probability of the crop's best class, or of the image's own class."""
    refine_target: Literal["online", "frozen_init", "ema"] = "online"
    """Refinement: who says the box of the plain view: the localizer as it is, as it was at the stage's start, or an
    average of itself."""
    refine_target_keep_rate: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """With `refine_target: ema`: share of the average that one update keeps."""
    target_forward_mode: Literal["eval", "train"] = "train"
    """Refinement: batch norms of that forward: running statistics, or those of the batch, as in the strong view's."""
    aug_scale: bool = True
    """Strong view: scale by 80 to 120 %, each axis by itself (Table 6)."""
    aug_translation: bool = True
    """Strong view: cut off or add up to 25 % at each side, with probability 0.5."""
    aug_flip: bool = True
    """Strong view: flip in each direction with probability 0.5."""
    stability_every: NonNegativeInt = 200
    """Initialisation: measure every so many steps how much boxes change from one step to the next, with and without
    momentum (IoU); 0: never. Costs four looks at `stability_images` images."""
    stability_images: PositiveInt = 8
    """On so many images of each worker's batch."""
    alarm_after_steps: PositiveInt = 200
    """Warn when no box passes, most maps are flat or most boxes the whole image, for so many steps in a row."""

    def length(self, optim: OptimConfig) -> int:
        """Return the optimiser steps of a run: `optim.steps`, or the first stage alone."""
        return optim.steps if self.stage == "refine" else self.burn_in_steps

    def shortened(self, burn_in: int, later: int) -> dict[str, int]:
        """Return what to change for a run of `burn_in` steps of the first stage, `later` after it, and one more."""
        return {"burn_in_steps": burn_in if self.stage == "refine" else burn_in + later + 1}

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        found = super().contradictions(run)
        if self.stage == "refine":
            found += self.leaves_nothing(run, "the refinement (or set method.stage=init)")
        return found


class PsolConfig(LocatingSection):
    """Pseudo-labels in PSOL's manner (Zhang et al., CVPR 2020): boxes of class activation maps teach a localizer."""

    lr_keys: ClassVar[tuple[str, ...]] = ("optim.lr", "method.localizer_lr")
    implementation: ClassVar[str] = "raydet.families.localization.methods.psol:Psol"
    name: Literal["psol"] = "psol"
    burn_in_steps: PositiveInt = 7_492
    """The classifier's stage; the rest of `optim.steps` is the localizer's, with the classifier frozen."""
    cam_threshold: Threshold = 0.2
    """Share of the class activation map's range above which a pixel belongs to the object."""
    localizer_lr: PositiveFloat = 2e-3
    """Learning rate of the localizer."""
    box_encoding: Literal["xywh", "xyxy"] = "xywh"
    """What the localizer says: upper left corner and size, or both corners."""
    reg_reduction: Literal["sum", "mean"] = "sum"
    """Squared distance of two boxes: summed over the four numbers, or their mean."""
    alarm_after_steps: PositiveInt = 200
    """Warn when most boxes are the whole image for so many steps in a row."""

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        return [*super().contradictions(run), *self.leaves_nothing(run, "the localizer")]


class CamConfig(LocatingSection):
    """Class activation maps (Zhou et al., CVPR 2016): a classifier's maps, thresholded; no box is learned."""

    one_stage: ClassVar[bool] = True
    implementation: ClassVar[str] = "raydet.families.localization.methods.cam:Cam"
    name: Literal["cam"] = "cam"
    burn_in_steps: Annotated[int, Field(ge=0, le=0)] = 0
    """Always 0: there is one stage."""
    cam_threshold: Threshold = 0.2
    """Share of the map's range above which a pixel belongs to the object."""


METHODS: list[type[MethodSection]] = [LchpConfig, PsolConfig, CamConfig]
"""The methods that localise, a line each."""


class LocalizationOptimConfig(OptimConfig):
    """Optimiser and batch. Batch sizes are GLOBAL, whatever the number of workers. Defaults: LCHP on CUB-200-2011."""

    lr: PositiveFloat = 2e-3
    """Learning rate of the first stage; see the method for how it falls and what follows."""
    weight_decay: Weight = 1e-5
    """Weight decay; biases and norm layers are exempt."""
    steps: PositiveInt = 14_984
    """Optimiser steps in all, both stages (80 epochs of CUB)."""
    warmup_steps: NonNegativeInt = 0
    """Linear warm-up from lr / 1000."""
    labeled_batch: PositiveInt = 32
    """Images per step, over all workers."""


class LocalizationEvalConfig(EvalConfig):
    """Evaluation while training."""

    pseudo_boxes: bool = True
    """Measure the boxes that a localizer learns from too (`pseudo_label`): one or two more forwards per image."""


class LocalizationConfig(RunConfig):
    """One training run of a localizer."""

    family: ClassVar[str] = "localization"
    trains: ClassVar[str] = "localizer"
    figures: ClassVar[tuple[str, ...]] = ("gt_known", "top1_loc", "max_box_acc")

    data: LocatedDataConfig
    model: LocalizerConfig = LocalizerConfig(weights="imagenet")
    optim: LocalizationOptimConfig = LocalizationOptimConfig()
    eval: LocalizationEvalConfig = LocalizationEvalConfig()

    def contradictions(self) -> list[str]:
        """Return what cannot be meant, each with the keys and what to change."""
        found = super().contradictions()
        size, least = self.data.views.size, self.model.least_size
        if size < least:
            found.append(
                f"data.views.size={size} is too small for model.classifier_backbone={self.model.classifier_backbone} "
                f"and model.localizer_backbone={self.model.localizer_backbone}: use {least} or more, or other backbones"
            )
        return found


RUN_CONFIG = LocalizationConfig
