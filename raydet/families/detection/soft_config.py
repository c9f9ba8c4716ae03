"""Settings of the methods that stand on Soft Teacher; neither torch nor Ray.

Defaults are the papers' settings (Greek letter in parentheses).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from raydet.config.base import Fraction, NonNegativeInt, PositiveInt, Section, Weight
from raydet.config.box_data import ViewsConfig
from raydet.config.detector import DetectorName, ModelConfig
from raydet.config.method import TeacherSection

if TYPE_CHECKING:
    from raydet.config.run import RunConfig

ColorOperation = Literal[
    "identity",
    "autocontrast",
    "equalize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "posterize",
]
Degrees = Annotated[float, Field(ge=0, le=90)]


class SoftViewsConfig(Section):
    """Soft Teacher's views. Flips, the longest side and evaluation follow `data.views`."""

    short_side: tuple[PositiveInt, PositiveInt] = (400, 1200)
    """The short edge is resized to a number of pixels between these, ends included, drawn for every view apart."""
    color_operations: tuple[ColorOperation, ...] = (
        "identity",
        "autocontrast",
        "equalize",
        "solarize",
        "color",
        "contrast",
        "brightness",
        "sharpness",
        "posterize",
    )
    """One of these is drawn for labelled images and for the student's views."""
    translate: Fraction = 0.1
    """Student's views: most of the width or height that an image is shifted by."""
    rotate_degrees: Degrees = 30.0
    """Student's views: largest rotation."""
    shear_degrees: Degrees = 30.0
    """Student's views: largest shear, along x and then along y."""
    erasures: NonNegativeInt = 4
    """Student's views: from one to so many rectangles are erased; boxes are never edited by them. 0: none."""
    erase_side: Fraction = 0.2
    """Largest share of both sides that one of them takes."""

    @model_validator(mode="after")
    def _makes_sense(self) -> SoftViewsConfig:
        if self.short_side[0] > self.short_side[1]:
            raise ValueError(f"short_side {list(self.short_side)}: the first number must not exceed the second")
        if not self.color_operations:
            raise ValueError("color_operations is empty: write [identity] to change no colours")
        return self


UNUSED_VIEWS = ("short_side", "color_jitter", "grayscale", "blur", "blur_sigma", "erase", "colors_on")
UNUSED_MODEL = ("roi_cls_loss", "cls_focal_exponent")
SIDES = 6  # of the sizes that stand for a range, as many as data.views.short_side has by default


class SoftSettings(TeacherSection):
    """Settings of Soft Teacher, and of the methods that stand on it."""

    detectors: ClassVar[tuple[DetectorName, ...]] = ("faster_rcnn",)
    has_focal_loss: ClassVar[bool] = True
    """Whether `cls_focal_exponent` has an effect."""
    burn_in_steps: NonNegativeInt = 0
    """Optimiser steps on labelled images only, before the first pseudo-labels; the paper has none."""
    ema_keep_rate: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Most of the teacher that one EMA update keeps; the t-th one keeps 1 - 1 / (t + 1) until that is more."""
    rpn_pseudo_threshold: Fraction = 0.9
    """Class confidence a pseudo-box must exceed, strictly, to train the region proposals."""
    cls_pseudo_threshold: Fraction = 0.9
    """Class confidence a pseudo-box must exceed, strictly, to train the RoI classes (theta)."""
    pseudo_score_floor: Fraction = 0.5
    """Class confidence that every pseudo-box must exceed, strictly, whatever it trains."""
    box_spread_threshold: Weight = 0.02
    """Spread that a pseudo-box must stay below, strictly, to train the RoI boxes: the standard deviation of what the
    teacher makes of it when it is jittered, relative to its sides."""
    jitter_times: Annotated[int, Field(ge=2)] = 10
    """How often a box is jittered to see that."""
    jitter_scale: Weight = 0.06
    """Standard deviation of the jitter, relative to the box's sides."""
    unsup_weight: Weight = 4.0
    """Weight of all losses on unlabelled images (alpha); the paper's run on all of COCO has 2."""
    cls_focal_exponent: Weight = 0.0
    """Exponent of the focal RoI classification loss; 0 is cross-entropy. Takes the place of `model.roi_cls_loss`."""
    teacher_proposals: Literal["train", "test"] = "train"
    """Whose proposal counts the teacher labels with: training's (the published code) or evaluation's."""
    alarm_after_steps: PositiveInt = 200
    """Warn, with the likely cause, when no pseudo-box survives for so many steps in a row."""
    views: SoftViewsConfig = SoftViewsConfig()
    """Augmentation."""

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        return [*super().contradictions(run), *self._thresholds(run), *self._unused(run)]

    def _thresholds(self, run: RunConfig) -> list[str]:
        lowest, found = self.pseudo_score_floor, []
        # A host with other views is not Soft Teacher: nothing there reads the threshold of the region proposals.
        of_rpn = ("rpn_pseudo_threshold",) if self.has_own_views else ()
        for key in ("cls_pseudo_threshold", *of_rpn):
            if getattr(self, key) < lowest:
                found.append(
                    f"method.{key}={getattr(self, key):g} is below method.pseudo_score_floor={lowest:g}: boxes between "
                    f"the two are never carried to the student; raise the first or lower the second"
                )
        floor = getattr(run.labels, "score_floor", 0.0)
        if lowest < floor:
            found.append(
                f"method.pseudo_score_floor is below labels.score_floor={floor}: labels would be incomplete; lower "
                f"labels.score_floor"
            )
        return found

    @property
    def has_own_views(self) -> bool:
        """Whether `views` counts, and not what `data.views` says of weak and strong views."""
        return True

    @property
    def own_views(self) -> SoftViewsConfig | None:
        """`views`, where they count."""
        return self.views if self.has_own_views else None

    def settings_for_control(self) -> dict[str, Any]:
        """Return the exponent of the loss, and sizes that are evenly spaced over the range that `views` draws from."""
        found: dict[str, Any] = {"model.cls_focal_exponent": self.cls_focal_exponent} if self.has_focal_loss else {}
        if self.has_own_views:
            low, high = self.views.short_side
            sides = {round(low + (high - low) * place / (SIDES - 1)) for place in range(SIDES)}
            found["data.views.short_side"] = sorted(sides)
        return found

    def _unused(self, run: RunConfig) -> list[str]:
        """Return settings of other methods' views and losses that would silently do nothing here."""
        found = []
        views, model = getattr(run.data, "views", None), run.model
        if self.has_own_views and isinstance(views, ViewsConfig):
            default = ViewsConfig()
            given = [f"data.views.{key}" for key in UNUSED_VIEWS if getattr(views, key) != getattr(default, key)]
            if given:
                found.append(
                    f"{', '.join(given)}: method.name={self.name} has views of its own; remove it, and set "
                    f"method.views.short_side and the like"
                )
        if isinstance(model, ModelConfig):
            fresh = {key: ModelConfig.model_fields[key].default for key in UNUSED_MODEL}
            given = [f"model.{key}" for key, value in fresh.items() if getattr(model, key) != value]
            if given:
                instead = ", and set method.cls_focal_exponent" if self.has_focal_loss else ""
                found.append(
                    f"{', '.join(given)}: method.name={self.name} has a classification loss of its own; remove it"
                    f"{instead}"
                )
        return found


class SoftTeacherConfig(SoftSettings):
    """Soft Teacher (Xu et al., ICCV 2021)."""

    implementation: ClassVar[str] = "raydet.families.detection.methods.soft_teacher:SoftTeacher"
    name: Literal["soft_teacher"] = "soft_teacher"
