"""LCHP (Sun and Zhu, "Learning Consistency from High-quality Pseudo-labels for Weakly Supervised Object Localization",
arXiv 2203.09803).

Initialisation (LCHP-I), the burn-in, on plain views I_r:

    y      = Algorithm 1 of I_r, by the momentum classifier theta_2; it masks L_r on the way: I_m
    L_cls  = 1/2N sum_i [CE(cls(I_r), c) + CE(cls(I_m), c)]                                                    (1)
    L_reg  = 1/N sum_i ||Loc(I_r) - y||^2                                                                     (2)
    L_init = L_cls + alpha L_reg                                                                              (3)
    theta_2 <- beta theta_2 + (1 - beta) theta_1          after every step                                    (7)

Refinement (LCHP-R), the classifier frozen, S(.) one strong augmentation of image and box:

    y_r    = Loc(I_r), without gradient;   y_s = S(y_r)                                                       (4)
    L_ref  = 1/N sum_i 1(max cls(crop of I_r by y_r) > tau) ||Loc(S(I_r)) - y_s||^2                           (6)

| paper | code |
|---|---|
| delta, tau | method.attention_threshold, method.crop_confidence_threshold |
| alpha, beta | method.init_reg_weight, method.pseudo_net_momentum |
| M | model.num_attention_maps |
| theta_1, theta_2, Loc | model.classifier, model.pseudo_classifier, model.localizer |

N is the batch, over all ranks; never the number of boxes that pass. Deviations and what the paper leaves open are in
docs/methods/lchp.md.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from raydet.contract import Alarm, DataSizes, LossTerm, Outputs, ParamGroup
from raydet.families.localization.assemble import WHOLE, alarm_of_whole_images
from raydet.families.localization.attention import AttentionBoxes, AttentionRule, pseudo_boxes
from raydet.families.localization.batch import IMAGES, LocationBatch
from raydet.families.localization.boxes import (
    crops,
    cross_entropies,
    decode,
    encode,
    is_visible,
    squared_distance,
)
from raydet.families.localization.config import LchpConfig, LocalizationConfig
from raydet.families.localization.method import LocalizationMethod, nan_rows
from raydet.families.localization.model import (
    BapClassifier,
    LocalizationModel,
    Localizer,
    bap_classifier,
    build_localizer,
    shares,
)
from raydet.families.localization.views import StrongSwitches, strong_boxes, strong_pixels
from raydet.learning_rate import warm_up
from raydet.vision.device import to_device
from raydet.vision.ema import average_into
from raydet.vision.geometry import box_areas, paired_iou
from raydet.vision.mode import by_batch, evaluating
from raydet.window import Window


class Lchp(LocalizationMethod):
    """Boxes of attention maps teach a localizer; then it agrees with itself where the crop convinces the classifier."""

    settings = LchpConfig
    config: LchpConfig
    unseen_by_burn_in = frozenset(
        {
            "refine_lr",
            "crop_confidence_threshold",
            "gate_network",
            "gate_class",
            "refine_target",
            "refine_target_keep_rate",
            "target_forward_mode",
            "aug_scale",
            "aug_translation",
            "aug_flip",
            "alarm_after_steps",
        }
    )
    has_momentum = True

    def __init__(self, config: LocalizationConfig) -> None:
        super().__init__(config)
        own = self.config
        self.rule = AttentionRule(own.attention_threshold, own.upsample_before_threshold, own.mask_out_enabled)
        self.strong = StrongSwitches(own.aug_scale, own.aug_translation, own.aug_flip)
        self._probe: tuple[int, Tensor, Tensor, Tensor] | None = None  # step, views, and both networks' boxes then

    # --- what the engine asks -----------------------------------------------------------------------------------------

    @property
    def loss_weights(self) -> dict[str, float]:
        """Those of the stages that the run has."""
        terms = {"init/cls": 1.0, "init/reg": self.config.init_reg_weight, "refine/reg": 1.0}
        last = {"pseudo_label_only": 1, "init": 2, "refine": 3}[self.config.stage]
        return dict(list(terms.items())[:last])

    @property
    def localizes(self) -> bool:
        """Whether there is a localizer."""
        return self.config.stage != "pseudo_label_only"

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Two stages, or one."""
        return ("init", "refine")

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The classifier freezes, and the refinement begins."""
        return (self.config.burn_in_steps,) if self.config.stage == "refine" else ()

    def build_model(self, num_classes: int) -> LocalizationModel:
        """Return classifier, its momentum copy, localizer, and the localizer's copy where `refine_target` wants one."""
        classifier = bap_classifier(self.run.model, num_classes)
        localizer = build_localizer(self.run.model) if self.localizes else None
        has_target = self.config.refine_target != "online"
        return LocalizationModel(classifier, localizer, momentum_classifier=True, target_localizer=has_target)

    def param_groups(self) -> list[ParamGroup]:
        """The classifier's rate falls by the epoch until it freezes; the localizer's is constant in each stage."""
        first, optim = self.config.burn_in_steps, self.run.optim

        def classifier(step: int) -> float | None:
            return self.classifier_lr_at(step) if step < first else None

        def localizer(step: int) -> float | None:
            return optim.lr * warm_up(step, optim) if step < first else self.config.refine_lr

        return self.groups(classifier, localizer)

    def after_step(self, student: LocalizationModel, step: int) -> None:
        """Let the copies follow what was just trained."""
        is_init, localizer, target = step < self.config.burn_in_steps, student.localizer, student.target_localizer
        if is_init:
            assert student.pseudo_classifier is not None
            average_into(student.pseudo_classifier, student.classifier, keep=self.config.pseudo_net_momentum)  # (7)
        if target is not None and localizer is not None and (is_init or self.config.refine_target == "ema"):
            average_into(target, localizer, keep=0.0 if is_init else self.config.refine_target_keep_rate)

    def losses(self, student: LocalizationModel, batch: LocationBatch, teacher: Any, state: Any) -> Outputs:
        """Return the terms of the batch's stage; those of the other one have no elements."""
        device = next(student.parameters()).device
        pixels, classes = shares(batch.pixels, device), to_device(batch.classes, device)
        is_init = batch.step < self.config.burn_in_steps
        found = (
            self.init(student, batch.step, pixels, classes) if is_init else self.refine(student, batch, pixels, classes)
        )
        anchor = next(iter(found.losses.values())).total * 0.0
        none = LossTerm(anchor, torch.tensor(0), IMAGES)
        return Outputs({name: found.losses.get(name, none) for name in self.loss_weights}, found.per_view)

    # --- the two stages -----------------------------------------------------------------------------------------------

    def init(self, student: LocalizationModel, step: int, pixels: Tensor, classes: Tensor) -> Outputs:
        """Return L_cls and L_reg of plain views `pixels` `[B, 3, S, S]` in [0, 1] of images of `classes` `[B]`."""
        count, side = torch.tensor(len(classes)), int(pixels.shape[-1])
        found = self.algorithm_1(student, pixels)
        logits, masked = self._classified(student.classifier, pixels, found.masked)
        terms = {"init/cls": LossTerm(cross_entropies(logits, masked, classes).sum(), count, IMAGES)}  # (1)
        if student.localizer is not None:
            wanted = encode(found.boxes / side, self.config.box_encoding)
            rows = squared_distance(student.localizer(pixels), wanted, self.config.reg_reduction)
            terms["init/reg"] = LossTerm(rows.sum(), count, IMAGES)  # (2)
        area = box_areas(found.boxes) / side**2
        figures = {"box_area": area, "is_whole": (area > WHOLE).float(), "is_flat": found.is_flat.float()}
        return Outputs(terms, {**figures, **self._stability(student, step, pixels)})

    def refine(self, student: LocalizationModel, batch: LocationBatch, pixels: Tensor, classes: Tensor) -> Outputs:
        """Return L_refine of plain views `pixels` `[B, 3, S, S]` in [0, 1]."""
        assert student.localizer is not None
        side = int(pixels.shape[-1])
        boxes = self.target_boxes(student, pixels)  # (4), y_r
        confidence = self._gate_confidence(student, pixels, boxes, classes)
        is_sure = (confidence > self.config.crop_confidence_threshold) & is_visible(boxes, side)
        moved = strong_boxes(boxes, batch.strong)  # (4), y_s
        has_left = ~is_visible(moved, side)
        kept = is_sure & ~has_left
        said = student.localizer(strong_pixels(pixels, batch.strong))
        rows = squared_distance(said, encode(moved, self.config.box_encoding), self.config.reg_reduction) * kept
        area = box_areas(boxes)
        figures = {
            "box_area": area,
            "is_whole": (area > WHOLE).float(),
            "confidence": confidence,
            "kept": kept.float(),
            "left_view": has_left.float(),
        }
        return Outputs({"refine/reg": LossTerm(rows.sum(), torch.tensor(len(classes)), IMAGES)}, figures)  # (6)

    def algorithm_1(self, model: LocalizationModel, pixels: Tensor, by: nn.Module | None = None) -> AttentionBoxes:
        """Return the pseudo-boxes of `pixels` `[B, 3, S, S]` in [0, 1], by theta_2 or another classifier."""
        network = model.pseudo_classifier if by is None else by
        assert isinstance(network, BapClassifier)
        wants_maps = self.config.attention_source == "attention_maps"

        def attention_of(images: Tensor) -> Tensor:
            maps, features = network.look(images)
            # Features behind no ReLU (EfficientNet's linear bottlenecks) have signs that would cancel each other.
            return maps.float().mean(dim=1) if wants_maps else features.float().abs().mean(dim=1)

        is_black = self.config.mask_fill == "black_pixel"
        fill = torch.zeros_like(network.trunk.mean) if is_black else network.trunk.mean
        with evaluating(network):
            return pseudo_boxes(attention_of, pixels, self.rule, fill)

    def target_boxes(self, student: LocalizationModel, pixels: Tensor) -> Tensor:
        """Return the box `[B, 4]` of each plain view that the strong view has to agree with, without gradient."""
        network = student.localizer if student.target_localizer is None else student.target_localizer
        assert isinstance(network, Localizer)
        if self.config.target_forward_mode == "eval":
            mode: AbstractContextManager[None] = evaluating(network)
        elif network is student.localizer:
            mode = nullcontext()  # it is trained, and so in that mode
        else:
            mode = by_batch(network)
        with torch.no_grad(), mode:
            return decode(network(pixels), self.config.box_encoding)

    def _classified(self, classifier: nn.Module, pixels: Tensor, masked: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return theta_1's logits `[B, N]` of images and masked images; None where nothing is masked."""
        if not self.config.mask_out_enabled:
            return classifier(pixels).logits, None
        if not self.config.joint_forward:
            return classifier(pixels).logits, classifier(masked).logits
        both: Tensor = classifier(torch.cat([pixels, masked])).logits
        return both[: len(pixels)], both[len(pixels) :]

    def _gate_confidence(self, student: LocalizationModel, pixels: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
        """Return the probability `[B]` of each crop that the gate looks at."""
        network = student.classifier if self.config.gate_network == "classifier" else student.pseudo_classifier
        assert network is not None
        with evaluating(network):
            probabilities: Tensor = network(crops(pixels, boxes)).logits.softmax(dim=-1)
        if self.config.gate_class == "label":
            return probabilities.gather(1, classes[:, None])[:, 0]
        return probabilities.amax(dim=-1)

    # --- looking at it ------------------------------------------------------------------------------------------------

    def locate(self, model: LocalizationModel, pixels: Tensor, classes: Tensor) -> Tensor:
        """Return what the localizer says; without one what Algorithm 1 says."""
        if model.localizer is None:
            return (self.algorithm_1(model, pixels).boxes / pixels.shape[-1])[:, None]
        return decode(model.localizer(pixels), self.config.box_encoding)[:, None]

    def pseudo_boxes_of(self, model: LocalizationModel, pixels: Tensor, classes: Tensor) -> Tensor | None:
        """Return Algorithm 1's boxes."""
        return None if model.localizer is None else self.algorithm_1(model, pixels).boxes / pixels.shape[-1]

    def attention(self, model: LocalizationModel, pixels: Tensor, classes: Tensor) -> AttentionBoxes | None:
        """Return what Algorithm 1 sees."""
        return self.algorithm_1(model, pixels)

    def _stability(self, student: LocalizationModel, step: int, pixels: Tensor) -> dict[str, Tensor]:
        """Return, from time to time, the IoU of boxes of the same views before and after one step, by theta_2 and by
        theta_1. A run that is resumed between the two lacks that point."""
        every = self.config.stability_every
        if not every or step % every not in (0, 1):
            return {}
        figures = {}
        if step % every == 1 % every:
            figures = self._since_probe(student, step, pixels)
        if step % every == 0:
            views = pixels[: self.config.stability_images]
            self._probe = (step, views, *self._both(student, views))
        return figures

    def _since_probe(self, student: LocalizationModel, step: int, pixels: Tensor) -> dict[str, Tensor]:
        """Return those IoUs, a row for each of `pixels`, and forget the views that they are of."""
        figures = {"stable": nan_rows(pixels), "stable_without": nan_rows(pixels)}
        if self._probe is not None and self._probe[0] == step - 1:  # not by an earlier pass of this step
            (_, views, *before), self._probe = self._probe, None
            for name, old, new in zip(figures, before, self._both(student, views), strict=True):
                ious = paired_iou(old, new)[: len(pixels)]
                figures[name][: len(ious)] = ious
        return figures

    def _both(self, student: LocalizationModel, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the boxes of views by theta_2 and by theta_1."""
        return self.algorithm_1(student, views).boxes, self.algorithm_1(student, views, by=student.classifier).boxes

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say that most images have no attention or are a box as a whole, or that no box passes the gate."""
        seen, flat = window.sums.get("count/is_flat", 0.0), window.sums.get("sum/is_flat", 0.0)
        if flat > seen / 2:
            return Alarm(
                "no_attention",
                f"the attention map of {flat / seen:.0%} of the images is the same everywhere, so that their box is "
                f"the whole image: the classifier has probably diverged; start again with a lower optim.lr",
                self.config.alarm_after_steps,
            )
        looked, kept = window.sums.get("count/kept", 0.0), window.sums.get("sum/kept", 0.0)
        advice = (
            f"where they grew in this stage, lower method.refine_lr={self.config.refine_lr:g}; where they were so "
            f"before, raise method.attention_threshold={self.config.attention_threshold:g} and train from the start"
            if looked
            else f"raise method.attention_threshold={self.config.attention_threshold:g} (the report shows the maps)"
        )
        if whole := alarm_of_whole_images(window, advice, self.config.alarm_after_steps):
            return whole
        if not looked or kept:
            return None
        mean = window.sums["sum/confidence"] / looked
        return Alarm(
            "no_box_is_kept",
            f"no box passes method.crop_confidence_threshold={self.config.crop_confidence_threshold:g}: the mean "
            f"confidence of the classifier in the crops is {mean:.2f}. Lower the threshold, or train the classifier "
            f"longer (method.burn_in_steps)",
            self.config.alarm_after_steps,
        )

    def notes(self, sizes: DataSizes) -> list[str]:
        """Say what the stages are, and that a gate that lets everything through fails in the paper."""
        config, found = self.config, super().notes(sizes)
        if config.stage == "refine":
            found.append(f"initialisation until {config.burn_in_steps}, refinement until {self.run.length}")
        if config.stage == "refine" and config.crop_confidence_threshold == 0:
            found.append("warning: method.crop_confidence_threshold=0 learns from every box, which fails in the paper")
        return found

    def fork_drops(self, name: str) -> bool:
        """A run of another `refine_target` may have had a copy of the localizer."""
        return name.startswith("target_localizer.")

    def fork_takes(self, name: str) -> str | None:
        """Until the refinement the copy of the localizer is the localizer."""
        own = "target_localizer."
        return f"localizer.{name.removeprefix(own)}" if name.startswith(own) else None
