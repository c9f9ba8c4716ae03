"""DetectionConfig: a run that trains a detector, and one class of settings per method.

Defaults of a method are the paper's setting (Greek letter in parentheses).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raydet.config.backbone import SMALL
from raydet.config.base import Fraction, PositiveInt, Section, Threshold, Weight
from raydet.config.box_data import DataConfig
from raydet.config.detector import DetectorName, ModelConfig
from raydet.config.method import MethodSection, TeacherSection
from raydet.config.run import EvalConfig, LabelsConfig, RunConfig
from raydet.config.transfer import Part
from raydet.families.detection.long_tail_config import (
    ClassifierRetrainingConfig,
    EqlV2Config,
    GradientSamplingConfig,
    LogitAdjustmentConfig,
)
from raydet.families.detection.soft_config import SoftTeacherConfig


class BoxLabelsConfig(LabelsConfig):
    """How pseudo-labels are made and kept."""

    score_floor: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Candidates at or below this score are not stored."""
    top_k: PositiveInt = 1000
    """Most candidates stored per image, best score first."""


class BoxEvalConfig(EvalConfig):
    """Evaluation while training."""

    engine: Literal["auto", "numpy", "hotcoco", "pycocotools"] = "auto"
    """COCO AP engine; all give the same figures. `auto` takes `numpy`, the fastest; pycocotools is the reference."""


BranchInput = Literal["roi_features", "class_logits", "box_deltas"]


class IoUBranchConfig(Section):
    """The box-quality classifier of IL-net (section 3.2) and the switches of its ablations."""

    inputs: tuple[BranchInput, ...] = ("roi_features", "class_logits")
    """What the branch reads (Table 5); `roi_features` is mandatory. The final IL-net leaves `box_deltas` out."""
    hidden: PositiveInt = 1024
    """Width of the hidden layer."""
    activation: Literal["elu", "none"] = "elu"
    """Between the two layers."""
    detach_inputs: bool = False
    """Stop the branch's gradient at its inputs (not in the paper)."""
    loss: Literal["focal_bce", "smooth_l1", "focal_soft"] = "focal_bce"
    """Loss of the branch: binary focal (Eq. 2), smooth L1 on the IoU (Fig. 3b), or focal with the IoU as target."""
    focal_exponent: Weight = 1.5
    """Exponent of the branch's focal loss (the paper's second gamma)."""
    target_gt: Literal["matched", "max"] = "matched"
    """IoU target against the RoI's matched box (published code) or the best box of the image (Eq. 3 as written)."""


def detectors_of(method: type[MethodSection]) -> tuple[DetectorName, ...]:
    """Return the detectors that a method's paper allows: its `detectors`, or Faster R-CNN where it says nothing."""
    found: tuple[DetectorName, ...] = getattr(method, "detectors", ("faster_rcnn",))
    return found


class SupervisedConfig(TeacherSection):
    """Labelled images only. After `burn_in_steps` an EMA of the student is kept, so that it compares like with like."""

    detectors: ClassVar[tuple[DetectorName, ...]] = ("faster_rcnn", "mask_rcnn", "cascade_rcnn")
    uses_labels: ClassVar[bool] = False
    implementation: ClassVar[str] = "raydet.families.detection.methods.supervised:Supervised"
    name: Literal["supervised"] = "supervised"
    iou_branch: IoUBranchConfig | None = None
    """Train IL-net's IoU branch too; needed where an IL-net run is forked from this run's burn-in."""
    iou_target_threshold: Threshold = 0.75
    """IoU above which a box counts as well localized (mu), for the branch's target."""
    sup_iou_weight: Weight = 1.0
    """Weight of the IoU-branch loss."""


class _MutualConfig(TeacherSection):
    detectors: ClassVar[tuple[DetectorName, ...]] = ("faster_rcnn", "cascade_rcnn")
    score_threshold: Fraction = 0.7
    """Class confidence a pseudo-box must exceed, strictly."""
    class_thresholds: dict[str, Fraction] = {}
    """The same for pseudo-boxes of single classes, by name, in place of `score_threshold`: `{Platelets: 0.4}`. On the
    command line `method.class_thresholds.Platelets=0.4`, or `method.class_thresholds={a.b: 0.4}` for a name with a
    dot."""
    unsup_cls_weight: Weight = 4.0
    """Weight of the unsupervised RPN and RoI classification losses (alpha)."""
    teacher_proposals: Literal["train", "test"] = "train"
    """Whose proposal counts the teacher labels with: training's (Unbiased Teacher's code) or evaluation's."""
    alarm_after_steps: PositiveInt = 200
    """Warn, with the likely cause, when no pseudo-box survives for so many steps in a row."""

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        found = super().contradictions(run)
        floor = run.labels.score_floor if isinstance(run.labels, BoxLabelsConfig) else 0.0
        given = {"score_threshold": self.score_threshold}
        given |= {f"class_thresholds.{name}": value for name, value in self.class_thresholds.items()}
        found += [
            f"method.{key} is below labels.score_floor={floor}: labels would be incomplete; lower labels.score_floor"
            for key, value in given.items()
            if value < floor
        ]
        return found


class UnbiasedTeacherConfig(_MutualConfig):
    """Unbiased Teacher (Liu et al., ICLR 2021): no regression on pseudo-boxes."""

    implementation: ClassVar[str] = "raydet.families.detection.methods.unbiased_teacher:UnbiasedTeacher"
    name: Literal["unbiased_teacher"] = "unbiased_teacher"


class IlNetConfig(_MutualConfig):
    """IL-net (arXiv 2206.10186)."""

    implementation: ClassVar[str] = "raydet.families.detection.methods.il_net:IlNet"
    name: Literal["il_net"] = "il_net"
    unsup_reg_weight: Weight = 1.0
    """Weight of the unsupervised RPN and RoI box regression (beta); 0 is Unbiased Teacher."""
    unsup_iou_weight: Weight = 4.0
    """Weight of the unsupervised IoU-branch loss (gamma of Eq. 1)."""
    sup_iou_weight: Weight = 1.0
    """Weight of the supervised IoU-branch loss."""
    iou_branch_enabled: bool = True
    """Build and train the IoU branch."""
    iou_branch: IoUBranchConfig = IoUBranchConfig()
    """The branch itself."""
    iou_target_threshold: Threshold = 0.75
    """IoU of the decoded box above which the branch's target is 1 (mu)."""
    iou_filter_enabled: bool = True
    """Gate the predictions by the branch, in pseudo-labelling and in evaluation."""
    iou_filter_threshold: Threshold = 0.4
    """IoU score that a foreground prediction must exceed, strictly, to survive (theta)."""


METHODS: list[type[MethodSection]] = [
    SupervisedConfig,
    UnbiasedTeacherConfig,
    IlNetConfig,
    SoftTeacherConfig,
    GradientSamplingConfig,
    LogitAdjustmentConfig,
    ClassifierRetrainingConfig,
    EqlV2Config,
]
"""The methods that train a detector, a line each."""


class DetectionConfig(RunConfig):
    """One training run of a detector."""

    family: ClassVar[str] = "detection"
    trains: ClassVar[str] = "detector"
    figures: ClassVar[tuple[str, ...]] = (
        *("AP", "AP50", "AP75", "APs", "APm", "APl"),
        *("APmaj", "APmin", "APr", "APc", "APf"),  # of groups of classes, where there are such
        *("APbase", "APnovel", "AP50base", "AP50novel"),
        *("AP_mk", "AP50_mk", "AP75_mk", "APs_mk", "APm_mk", "APl_mk"),  # of masks, where the model makes them
    )
    told_besides: ClassVar[tuple[str, ...]] = ("AP_mk",)

    data: DataConfig
    model: ModelConfig = ModelConfig()
    labels: BoxLabelsConfig = BoxLabelsConfig()
    eval: BoxEvalConfig = BoxEvalConfig()

    def complete(self) -> None:
        """A mask_rcnn reads masks."""
        if self.model.detector == "mask_rcnn" and "masks" not in self.data.model_fields_set:
            object.__setattr__(self, "data", self.data.model_copy(update={"masks": True}))

    def contradictions(self) -> list[str]:
        """Return what cannot be meant, each with the keys and what to change."""
        found = super().contradictions()
        model, workers = self.model, self.cluster.workers
        has_masks = model.detector == "mask_rcnn"
        if self.data.masks != has_masks:
            wants = "a mask_rcnn learns from masks" if has_masks else "it would learn nothing from masks"
            given = f"data.masks={str(self.data.masks).lower()} with model.detector={model.detector}"
            found.append(f"{given}: {wants}; remove data.masks")
        if model.backbone != SMALL and not model.keeps_norms("backbone") and workers > 1:
            found.append(
                f"model.backbone={model.backbone} trains its batch norm, whose statistics would differ between the "
                f"{workers} workers; set model.weights, or with model.init_from model.init_norms=frozen, use "
                f"model.backbone=small_gn, or one worker"
            )
        normed: tuple[Part, ...] = ("fpn", "box_head") if model.box_head == "conv4_fc1" else ("fpn",)
        if model.fpn_norm == "batch" and not all(map(model.keeps_norms, normed)) and workers > 1:
            found.append(
                f"model.fpn_norm=batch trains its statistics, which would differ between the {workers} workers; set "
                f"model.fpn_norm=group, with model.init_from model.init_norms=frozen, or use one worker"
            )
        allowed = detectors_of(type(self.method))
        if model.detector not in allowed:
            able = [each.called() for each in METHODS if model.detector in detectors_of(each)]
            found.append(
                f"model.detector={model.detector}: method.name={self.method.name} is published, and defined, for "
                f"{' and '.join(allowed)} alone; set model.detector={allowed[0]}, or method.name to one of "
                f"{', '.join(able)}"
            )
        return found


RUN_CONFIG = DetectionConfig
