"""Settings of the methods for data with rare classes: gradient-based sampling and what it is compared with.

All of them stand on a host, Soft Teacher or Unbiased Teacher, whose settings they take over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raydet.config.base import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Weight
from raydet.families.detection.soft_config import SoftSettings, SoftTeacherConfig

if TYPE_CHECKING:
    from raydet.config.run import RunConfig

HostName = Literal["soft_teacher", "unbiased_teacher"]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
OF_UNBIASED_TEACHER = {
    "burn_in_steps": 2000,
    "ema_keep_rate": 0.9996,
    "cls_pseudo_threshold": 0.7,
    "cls_focal_exponent": 1.5,
}
"""Defaults that differ on that host."""
RFS = ("labeled_sampling", "rfs_repeat_threshold", "repeat_rounding")
SOFT_ALONE = ("rpn_pseudo_threshold", "box_spread_threshold", "jitter_times", "jitter_scale", "views")


class LongTailConfig(SoftSettings):
    """What all of them have."""

    host: HostName = "soft_teacher"
    """The method underneath. On `unbiased_teacher` the defaults are burn_in_steps 2000, ema_keep_rate 0.9996,
    cls_pseudo_threshold 0.7, cls_focal_exponent 1.5; pseudo-boxes train the classifiers only."""
    labeled_sampling: Literal["random", "rfs"] = "rfs"
    """`rfs`: labelled images with rare classes are listed more often in an epoch (repeat factor sampling)."""
    rfs_repeat_threshold: PositiveFloat = 0.1
    """Share of images that a class must be in to be listed once: a rarer one, in the share f, is listed sqrt(this / f)
    times."""
    repeat_rounding: Literal["ceil", "stochastic"] = "ceil"
    """What becomes of a part of a repeat: rounded up (published code), or drawn anew every epoch (LVIS)."""

    @model_validator(mode="after")
    def _host_has_defaults(self) -> Self:
        if self.host == "unbiased_teacher":
            self._fill(OF_UNBIASED_TEACHER)
        return self

    def _fill(self, defaults: Mapping[str, float]) -> None:
        """Set what was left out, so that the resolved configuration holds it."""
        for name, value in defaults.items():
            if name not in self.model_fields_set:
                object.__setattr__(self, name, value)  # the section is frozen for everybody else

    @property
    def has_own_views(self) -> bool:
        """Whether Soft Teacher's views count."""
        return self.host == "soft_teacher"

    @property
    def labeled_listing(self) -> dict[str, Any]:
        """Those of repeat factor sampling, where it is on."""
        keys = () if self.labeled_sampling == "random" else RFS
        return {key: getattr(self, key) for key in keys}

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        found = super().contradictions(run)
        if self.host == "unbiased_teacher":
            fresh = SoftTeacherConfig()
            given = [f"method.{key}" for key in SOFT_ALONE if getattr(self, key) != getattr(fresh, key)]
            if given:
                found.append(f"{', '.join(given)}: for method.host=soft_teacher alone; remove what is not meant")
        return found


class GradientSamplingConfig(LongTailConfig):
    """Gradient-based sampling (Li et al., ICCV 2023): class weights and thresholds that balance gradients, rare pseudo-
    boxes listed more often."""

    implementation: ClassVar[str] = "raydet.families.detection.methods.gradient_sampling:GradientSampling"
    name: Literal["gradient_sampling"] = "gradient_sampling"
    cls_focal_exponent: Weight = 1.0
    """Exponent of the focal RoI classification loss; 0 is cross-entropy, the default on Soft Teacher without
    `gbr_enabled`."""
    gbr_enabled: bool = True
    """Weigh the classes' losses so that positive and negative gradients balance (GbR)."""
    gbt_enabled: bool = True
    """A threshold per class: lower where the class weight is higher (GbT)."""
    gbt_use_class_score: bool = True
    """GbT: also lower where the teacher's scores of the class are low (published code, not in the text)."""
    unlabeled_sampling: Literal["random", "rfs", "crs"] = "crs"
    """How often unlabelled images are listed: all once, by the classes of their pseudo-boxes (`rfs`), or by those and
    by how sure the boxes are (`crs`, class-rebalancing sampling)."""
    labeled_weight_exponent: Weight = 0.5
    """Exponent of the class weights on labelled images (beta); on unlabelled images it is 1."""
    crs_repeat_threshold_max: PositiveFloat = 0.5
    """CrS: what the share of images that a class must be in grows to, from 0 at the start to this at the end
    (gamma)."""
    crs_rebuild_steps: PositiveInt = 16_000
    """CrS, RFS of unlabelled images: count the pseudo-boxes and list the images anew every so many steps."""
    gbr_warmup_steps: NonNegativeInt = 4000
    """Steps, from the end of the burn-in on, before class weights are used: all are 1."""
    gbt_warmup_steps: NonNegativeInt = 4000
    """Steps before thresholds differ between classes."""
    crs_warmup_steps: NonNegativeInt = 4000
    """Steps before pseudo-boxes are counted for the first listing."""
    gbr_solver: Literal["jacobi", "direct", "stationary"] = "jacobi"
    """How weights follow from gradients: a learned Jacobi iteration, least squares, or the stationary distribution."""
    gbr_solve_every_steps: PositiveInt = 100
    """`direct`, `stationary`: solve every so many steps."""
    gbr_ema: BelowOne = 0.999
    """What one step keeps of gradients, class scores and mean weights, which are averages over steps."""
    class_weight_min: PositiveFloat = 1 / 3
    """Smallest class weight."""
    class_weight_max: PositiveFloat = 5.0
    """Largest class weight; that of background is never above 1."""
    weight_logits_lr: PositiveFloat | None = None
    """`jacobi`: learning rate of the weight logits; default: the run's, which is meant for SGD."""

    @model_validator(mode="after")
    def _plain_loss_without_gbr(self) -> Self:
        if not self.gbr_enabled and self.host == "soft_teacher":
            self._fill({"cls_focal_exponent": 0.0})
        return self

    @property
    def lists_anew(self) -> bool:
        """Whether unlabelled images are listed anew from time to time."""
        return self.unlabeled_sampling != "random"

    def first_listing(self, run: RunConfig) -> int:
        """Return the first step whose unlabelled images are listed by pseudo-boxes."""
        return self.burn_in_steps + self.crs_warmup_steps + self.crs_rebuild_steps + run.labels.lookahead

    def idle_parts(self, run: RunConfig) -> list[str]:
        """Return which parts are on and never begin, as the run is too short, each with what to change.

        They are not refused: trials and measurements are short, and a run can be made longer later.
        """
        burn_in = self.burn_in_steps
        firsts = {
            "class weights (GbR, method.gbr_warmup_steps)": (self.gbr_enabled, burn_in + self.gbr_warmup_steps),
            "class thresholds (GbT, method.gbt_warmup_steps)": (self.gbt_enabled, burn_in + self.gbt_warmup_steps),
            "listings of unlabelled images by their pseudo-boxes (method.crs_warmup_steps, method.crs_rebuild_steps)": (
                self.lists_anew,
                self.first_listing(run),
            ),
        }
        return [
            f"{what} would begin at step {first}, but the run ends at step {run.length}: lower what comes before, or "
            f"raise optim.steps"
            for what, (is_on, first) in firsts.items()
            if is_on and first >= run.length
        ]

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        found = super().contradictions(run)
        low, high = self.class_weight_min, self.class_weight_max
        if not low <= 1 <= high:
            found.append(
                f"method.class_weight_min={low:g}, method.class_weight_max={high:g}: 1, the weight of balanced "
                f"classes, must lie between the two"
            )
        if self.lists_anew:
            found += self._listing(run)
        return found

    def _listing(self, run: RunConfig) -> list[str]:
        found, labels, every = [], run.labels, self.crs_rebuild_steps
        if every <= labels.lookahead:
            found.append(
                f"method.crs_rebuild_steps={every} must exceed labels.lookahead={labels.lookahead}: a listing counts "
                f"from so many steps later on; raise the first or lower the second"
            )
        steps = every + labels.lookahead + labels.publish_every + run.checkpoint.every
        needed = -(-steps // labels.publish_every)
        if labels.keep_versions is not None and labels.keep_versions < needed:
            found.append(
                f"labels.keep_versions={labels.keep_versions} deletes labels that method.crs_rebuild_steps={every} "
                f"counts, also after a resume; leave it out, or set at least {needed}"
            )
        return found


class LogitAdjustmentConfig(LongTailConfig):
    """Logit adjustment (Menon et al., ICLR 2021) on the host."""

    implementation: ClassVar[str] = "raydet.families.detection.methods.logit_adjustment:LogitAdjustment"
    name: Literal["logit_adjustment"] = "logit_adjustment"
    adjustment_strength: Weight = 1.0
    """Factor of the log frequencies that are added to the logits in the loss (tau)."""


class ClassifierRetrainingConfig(LongTailConfig):
    """Classifier retraining (Kang et al., ICLR 2020) on the host."""

    implementation: ClassVar[str] = "raydet.families.detection.methods.classifier_retraining:ClassifierRetraining"
    name: Literal["classifier_retraining"] = "classifier_retraining"
    labeled_sampling: Literal["random", "rfs"] = "random"
    """How labelled images are listed until `retrain_from_step`: all once, or by repeat factor sampling."""
    retrain_from_step: PositiveInt = 120_000
    """From this step on only the last layer of the classifier trains, and labelled images are listed so that classes
    are met equally often."""
    most_repeats: PositiveFloat = 100.0
    """How often an image is then listed at most."""

    @property
    def labeled_listing(self) -> dict[str, Any]:
        """Those of repeat factor sampling, where it is on, and those of the balanced classes."""
        own = ("retrain_from_step", "most_repeats", "repeat_rounding")
        return super().labeled_listing | {key: getattr(self, key) for key in own}

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        found = super().contradictions(run)
        if not self.burn_in_steps < self.retrain_from_step < run.optim.steps:
            found.append(
                f"method.retrain_from_step={self.retrain_from_step} must lie between "
                f"method.burn_in_steps={self.burn_in_steps} and optim.steps={run.optim.steps}"
            )
        return found


class EqlV2Config(LongTailConfig):
    """Equalization loss v2 (Tan et al., CVPR 2021) on the host."""

    implementation: ClassVar[str] = "raydet.families.detection.methods.eqlv2:EqlV2"
    has_focal_loss: ClassVar[bool] = False
    name: Literal["eqlv2"] = "eqlv2"
    cls_focal_exponent: Weight = 0.0
    """Without effect, and refused where it is set to another value than the host's default: classes are told apart by
    sigmoids, whose loss has no exponent."""
    steepness: PositiveFloat = 12.0
    """How steeply weights follow the ratio of gradients (gamma)."""
    midpoint: Fraction = 0.8
    """Ratio of gradients at which the weight of negatives is one half (mu)."""
    positive_boost: Weight = 4.0
    """Most that positives of a suppressed class gain (alpha)."""

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        found, key = super().contradictions(run), "cls_focal_exponent"
        left_out = getattr(EqlV2Config(host=self.host), key)  # what saved configurations hold
        if getattr(self, key) != left_out:
            found.append(
                f"method.{key}={getattr(self, key):g}: method.name={self.name} tells classes apart by sigmoids, whose "
                f"loss has no exponent; remove it (with method.host={self.host} only {left_out:g} is allowed, which "
                f"changes nothing)"
            )
        return found
