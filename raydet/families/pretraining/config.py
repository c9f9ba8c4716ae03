"""PretrainingConfig: a run that learns a detector's backbone, box head and region proposals from images without labels.

Defaults are the papers' settings on ImageNet-1k; what the papers leave open is in docs/methods/adept.md.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raydet.config.backbone import SMALL, default_strides
from raydet.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Weight
from raydet.config.detector import DetectorName, ModelConfig
from raydet.config.method import MethodSection
from raydet.config.optim import OptimConfig
from raydet.config.paths import PathText
from raydet.config.proposal_data import ProposalDataConfig
from raydet.config.run import EvalConfig, RunConfig
from raydet.config.transfer import Part


class PretrainingSection(MethodSection):
    """What the settings of every method of this family hold."""

    uses_labels: ClassVar[bool] = False
    one_stage: ClassVar[bool] = True
    fixed_length: ClassVar[bool] = True  # the averaging of the target ends where the run does
    burn_in_steps: Annotated[int, Field(ge=0, le=0)] = 0
    """Always 0: there is one stage."""
    num_boxes: PositiveInt = 4
    """Proposals per image and step (K)."""
    ema_momentum_start: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Share of the target that one update keeps at first; it rises to 1 along half a cosine (m)."""
    export_branch: Literal["online", "target"] = "online"
    """Whose backbone and box head `raydet export` writes; the region proposals are always the online branch's."""
    collapse_std: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Warn of a collapse when the projections of different boxes differ by less than this share of what is healthy:
    1 / sqrt(`model.projector_dim`) in each dimension."""
    alarm_after_steps: PositiveInt = 200
    """Warn when it has been so for so many steps in a row."""


class SocoConfig(PretrainingSection):
    """SoCo (Wei et al., NeurIPS 2021): boxes of one image look alike in three views; no region proposals."""

    implementation: ClassVar[str] = "raydet.families.pretraining.methods.soco:Soco"
    name: Literal["soco"] = "soco"


class AdeptConfig(PretrainingSection):
    """ADePT (Dong et al., arXiv 2211.09022): SoCo's loss, and region proposals that learn selective search's boxes."""

    implementation: ClassVar[str] = "raydet.families.pretraining.methods.adept:Adept"
    name: Literal["adept"] = "adept"
    mode: Literal["joint", "separate"] = "joint"
    """`joint`: everything, from random weights. `separate`: the region proposals alone, on the frozen network of
    `soco_checkpoint`."""
    soco_checkpoint: PathText | None = None
    """With `mode: separate`: run or checkpoint folder of `soco` with the same `model`. Of one of `adept` all but its
    region proposals is taken."""
    backbone_loss: Literal["det", "det+rpn"] = "det"
    """Which losses reach backbone and pyramid: that of the region proposals is stopped before them, or is not."""
    det_proposals: Literal["ss", "ss+rpn"] = "ss"
    """Which boxes have to look alike: the proposals of `data.proposals`, or those of the network as well."""
    rpn_views: tuple[Literal[1, 2], ...] = (1,)
    """Which views the region proposals learn from: V1, V2 or both."""
    rpn_reg_weight: Weight = 1.0
    """Weight of the region proposals' box loss beside their objectness loss (lambda)."""
    rpn_pre_nms: PositiveInt = 64
    """With `det_proposals: ss+rpn`: anchors per image that go into NMS; `num_boxes` come out."""

    def paths(self) -> tuple[str, ...]:
        """Return the key of SoCo's run, where there is one."""
        return () if self.soco_checkpoint is None else ("soco_checkpoint",)

    @property
    def trains_all(self) -> bool:
        """Whether more than the region proposals is trained."""
        return self.mode == "joint"

    @model_validator(mode="after")
    def _views_once(self) -> Self:
        if not self.rpn_views or len(set(self.rpn_views)) != len(self.rpn_views):
            raise ValueError(f"rpn_views={list(self.rpn_views)}: expected [1], [2] or [1, 2]")
        return self

    def contradictions(self, run: RunConfig) -> list[str]:
        """Return what of the run cannot be meant with this method, each with the keys and what to change."""
        found = super().contradictions(run)
        if self.trains_all and self.soco_checkpoint is not None:
            found.append("method.soco_checkpoint is for method.mode=separate; remove it, or set method.mode=separate")
        if not self.trains_all and self.soco_checkpoint is None:
            found.append(
                "method.mode=separate trains the region proposals of a network that SoCo has made: name its run folder "
                "as method.soco_checkpoint (made by method.name=soco), or set method.mode=joint"
            )
        if not self.trains_all and (self.backbone_loss != "det" or self.det_proposals != "ss"):
            found.append(
                "method.mode=separate trains neither backbone nor head: leave out method.backbone_loss and "
                "method.det_proposals, or set method.mode=joint"
            )
        return found


METHODS: list[type[MethodSection]] = [SocoConfig, AdeptConfig]
"""The methods that pre-train, a line each."""


class PretrainingModelConfig(ModelConfig):
    """The detector to be pre-trained, without its predictors, and the two small networks that comparing boxes takes."""

    init_from: PathText | None = None
    """Refused here: it is for detectors, which start from this run. It goes on with `--resume` or `run.fork_from`."""
    init_role: Literal["student", "teacher"] | None = None
    """Refused here, as `init_from` is."""
    init_parts: tuple[Part, ...] = ()
    """Refused here, as `init_from` is."""
    init_norms: Literal["frozen", "backbone_frozen", "trained"] = "frozen"
    """Refused here, as `init_from` is."""
    finetune: Literal["all", "predictors"] = "all"
    """Refused here, as `init_from` is."""
    detector: DetectorName = "faster_rcnn"
    """Leave it out, others are refused: what is pre-trained fits all detectors; the one that starts from it says which
    it is."""
    backbone: str = "resnet50_fpn"
    """`resnet18_fpn`, `resnet50_fpn`, `resnet101_fpn`, `efficientnet_lite0_fpn`, `timm/NAME`, or `small_gn` (group
    norm), which trains on a CPU."""
    weights: PathText | None = None
    """`none` (default): from scratch, as the papers do. Or as for a detector; its batch norms are then frozen."""
    fpn_strides: tuple[int, ...] = ()
    """Strides of the pyramid's levels. Default: 4 to 32 (stride 64 is too coarse for views of 224 pixels), 8 to 32 for
    `efficientnet_lite0_fpn` and `small_gn`."""
    anchor_sizes: tuple[tuple[PositiveFloat, ...], ...] = ()
    """Anchor sizes in pixels, one tuple per pyramid level. Default: 6 times the stride, one each."""
    fpn_norm: Literal["none", "batch", "group"] = "batch"
    """Norm layers of the pyramid, of the box head's convolutions, and of projector and predictor."""
    box_head: Literal["two_fc", "conv4_fc1"] = "conv4_fc1"
    """The box head that is pre-trained."""
    rpn_positive_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Most positives among the sampled anchors."""
    box_loss: Literal["l1", "smooth_l1"] = "smooth_l1"
    """Box regression loss of the region proposals; smooth L1 uses torchvision's beta of 1/9."""
    level_bounds: tuple[PositiveFloat, ...] = ()
    """Sides (pixels, sqrt of the area) up to which a box is pooled from each level but the coarsest, which has the
    rest. Default: 12 times the stride, 48, 96 and 192."""
    projector_hidden: PositiveInt = 4096
    """Width of the hidden layer of projector and predictor."""
    projector_dim: PositiveInt = 256
    """Dimensions in which boxes are compared."""
    sync_norms: bool = True
    """With several workers: batch norms use the statistics of all workers' images (SyncBN)."""

    @property
    def trains_batch_norms(self) -> bool:
        """Whether batch norms see the images of a step: those of pyramid and heads, or of a backbone."""
        return self.fpn_norm == "batch" or not (self.backbone == SMALL or self.keeps_norms("backbone"))

    @model_validator(mode="after")
    def _is_no_detector_yet(self) -> Self:
        """Refuse what only a detector has a use for."""
        if self.init_from is not None:
            raise ValueError("init_from is for detectors; a pre-training run goes on with --resume or run.fork_from")
        if self.detector != "faster_rcnn":
            raise ValueError(
                f"detector={self.detector} is for detectors; what is pre-trained here fits all of them: leave it out, "
                f"and name it in the run that starts from this one (model.init_from)"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_chosen(self) -> Self:
        """Start from scratch where nothing is said: that is what pre-training is for."""
        if self.backbone == SMALL and self.weights is not None:
            raise ValueError(f"backbone {SMALL} trains from scratch: remove `weights`, or choose another backbone")
        return self

    @model_validator(mode="after")
    def _levels(self) -> Self:
        """Fill in strides and anchors by other defaults than a detector's."""
        if not self.fpn_strides:
            self._fill(fpn_strides=tuple(each for each in default_strides(self.backbone) if each < 64))
        if not self.anchor_sizes:
            self._fill(anchor_sizes=tuple((6.0 * stride,) for stride in self.fpn_strides))
        return self._checked_levels()

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        pooled = self.pooled_strides
        if not self.level_bounds:
            self._fill(level_bounds=tuple(12.0 * stride for stride in pooled[:-1]))
        bounds = list(self.level_bounds)
        if len(bounds) != len(pooled) - 1 or bounds != sorted(bounds):
            raise ValueError(
                f"level_bounds={bounds}: expected {len(pooled) - 1} ascending sides, one for each of the strides "
                f"{list(pooled)} but the last"
            )
        return self


class PretrainingOptimConfig(OptimConfig):
    """Optimiser and batch. Batch sizes are GLOBAL, whatever the number of workers. Defaults: 100 epochs of ImageNet."""

    name: Literal["sgd", "adamw", "lars"] = "lars"
    """Which optimiser. `lars`: SGD whose steps are a share of each layer's weights, for batches of thousands."""
    lr: PositiveFloat = 0.1
    """Learning rate after the warm-up."""
    weight_decay: Weight = 1e-5
    """Weight decay; biases and norm layers are exempt."""
    steps: PositiveInt = 62_500
    """Optimiser steps in all (100 epochs of ImageNet-1k)."""
    warmup_steps: NonNegativeInt = 6_250
    """Linear warm-up from lr / 1000 (10 epochs)."""
    schedule: Literal["steps", "cosine"] = "cosine"
    """`cosine`: falls to 0 at `steps` along half a cosine. `steps`: constant, but for `decay_at`."""
    labeled_batch: PositiveInt = 2_048
    """Images per step, over all workers; each enters the networks in three views."""


class PretrainingEvalConfig(EvalConfig):
    """Evaluation while training."""

    recall_iou: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A true box is found by a region proposal that overlaps it at least so much (IoU)."""


class PretrainingConfig(RunConfig):
    """One pre-training run."""

    family: ClassVar[str] = "pretraining"
    trains: ClassVar[str] = "pre-trained network"
    figures: ClassVar[tuple[str, ...]] = ("recall_100", "recall_10", "ar_100")

    data: ProposalDataConfig
    model: PretrainingModelConfig = PretrainingModelConfig()
    optim: PretrainingOptimConfig = PretrainingOptimConfig()
    eval: PretrainingEvalConfig = PretrainingEvalConfig()

    def contradictions(self) -> list[str]:
        """Return what cannot be meant, each with the keys and what to change."""
        found = super().contradictions()
        workers, passes = 1 if self.model.sync_norms else self.cluster.workers, self.optim.accumulate
        # A batch norm sees the images of one pass, of all workers or of its own; the smallest pass counts.
        if self.model.trains_batch_norms and self.optim.labeled_batch // (workers * passes) < 2:
            split = f" with optim.accumulate={passes}" if passes > 1 else ""
            whose = " of a worker" if workers > 1 else ""
            ways = (
                ["raise it"] + ["lower optim.accumulate"] * (passes > 1) + ["set model.sync_norms=true"] * (workers > 1)
            )
            found.append(
                f"optim.labeled_batch={self.optim.labeled_batch}{split} gives a pass{whose} fewer than two images, of "
                f"which batch norms know nothing: {', or '.join(ways)}"
            )
        return found


RUN_CONFIG = PretrainingConfig
