"""Gradient-based sampling (Li et al., ICCV 2023, "Gradient-based Sampling for Class Imbalanced Semi-supervised Object
Detection", arXiv 2403.15127), on Soft Teacher or Unbiased Teacher.

Labelled and unlabelled data have rare classes. Three parts, each with a switch:

    GbR   class weights w that balance what a class's logit is pulled up and down by:
          w_i G~_ii = - sum_{k != i} w_k G~_ik,  sum_i w_i = n + 1                                      (Eq. 1, 2)
          found by a = log of a Jacobi iteration: L_jacobi = mean_i (log target_i - a_i)^2,
          w = (n + 1) softmax(a)                                                                 (supplement, 2)
          RoI class loss: l_j * omega_j * w_{y_j}^b / m,  b = beta on labelled images, else 1    (supplement, 1)
    GbT   theta_i = clamp(min(theta s_i / mean_j s_j, theta / w_i), floor, theta)
    CrS   an unlabelled image is listed ceil(max(1, max_j r_{c_j} * margin_j)) times in an epoch,
          r_c = max(1, sqrt(lambda(t) / f_c)),  lambda(t) = gamma t / T

| paper | code |
|---|---|
| beta | method.labeled_weight_exponent |
| gamma | method.crs_repeat_threshold_max |
| theta | method.cls_pseudo_threshold |
| warm-up | method.gbr_warmup_steps, method.gbt_warmup_steps, method.crs_warmup_steps, from the burn-in's end on |
| G~ (transposed), a | `GradientState.matrix`, `GradientState.weight_logits` |

Background is class 0 here. Deviations GS-D1 to GS-D13: `docs/methods/gradient_sampling.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydet.contract import DataSizes, Outputs
from raydet.data.order import Listing, Rebuilds
from raydet.families.detection.batch import LABELED, UNLABELED, StudentBatch
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.gates import by_score
from raydet.families.detection.gradient_balance import (
    GRADIENT_SCALE,
    Bounds,
    class_thresholds,
    direct_weights,
    gradient_matrix,
    jacobi_targets,
    met,
    softmax_weights,
    stationary_weights,
    update_mean_scores,
)
from raydet.families.detection.gradient_state import GradientState
from raydet.families.detection.hosts import HostedMethod, classes_of
from raydet.families.detection.long_tail_config import GradientSamplingConfig
from raydet.families.detection.method import Selection
from raydet.families.detection.methods.soft_teacher import SoftPass, cls_terms
from raydet.families.detection.repeats import (
    class_factors,
    class_frequencies,
    crs_image_factor,
    crs_threshold,
    image_factor,
    images_per_class,
    rounded,
    sure_boxes,
)
from raydet.group import Group
from raydet.records import PseudoBoxes, PseudoLabel
from raydet.text import plural
from raydet.vision import losses
from raydet.vision.device import to_device


class GradientSampling(HostedMethod):
    """Class weights, class thresholds and listings that follow from the gradients of the class logits."""

    settings = GradientSamplingConfig
    config: GradientSamplingConfig
    unseen_by_burn_in = HostedMethod.host_unseen_by_burn_in | {
        "gbt_enabled",
        "gbt_use_class_score",
        "unlabeled_sampling",
        "labeled_weight_exponent",
        "crs_repeat_threshold_max",
        "crs_rebuild_steps",
        "gbr_warmup_steps",
        "gbt_warmup_steps",
        "crs_warmup_steps",
        "gbr_enabled",
        "gbr_solver",
        "gbr_solve_every_steps",
        "gbr_ema",
        "class_weight_min",
        "class_weight_max",
        "weight_logits_lr",
    }

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.bounds = Bounds(self.config.class_weight_min, self.config.class_weight_max)
        copies = len(self.recipe.roles)
        per_step = {LABELED: config.optim.labeled_batch * copies, UNLABELED: config.optim.unlabeled_batch}
        self.rois = {group: images * config.model.roi_batch for group, images in per_step.items()}

    # --- what a step uses --------------------------------------------------------------------------------------------

    def class_weights(self, state: GradientState) -> Tensor:
        """Return w `[n + 1]`, inside its bounds; whether it is time to use it is not asked here."""
        if self.config.gbr_solver == "jacobi":
            return self.bounds.clamp(softmax_weights(state.weight_logits, met(state.matrix)))
        return self.bounds.clamp(state.solved.clone())

    def weights_at(self, state: GradientState, step: int) -> Tensor:
        """Return the weights `[n + 1]` of the losses of a step: 1 until the warm-up is over (supplement, 6)."""
        if not self.config.gbr_enabled or self._since(step) < self.config.gbr_warmup_steps:
            return torch.ones_like(state.solved)
        return self.class_weights(state)

    def thresholds_at(self, state: GradientState, step: int) -> Tensor:
        """Return theta_i `[n]` of a step: all theta until the warm-up is over (supplement, 6)."""
        config, theta = self.config, self.config.cls_pseudo_threshold
        if not config.gbt_enabled or self._since(step) < config.gbt_warmup_steps:
            return torch.full_like(state.class_scores, theta)
        scores = state.class_scores if config.gbt_use_class_score else None
        return class_thresholds(theta, config.pseudo_score_floor, self.class_weights(state)[1:], scores)

    def select_at(self, state: GradientState, step: int) -> Callable[[PseudoBoxes], Selection]:
        """Return the gate of the step's RoI class loss: by theta_i."""
        if not self.config.gbt_enabled:
            return self.select
        theta = self.thresholds_at(state, step).cpu()

        def select(labels: PseudoBoxes) -> Selection:
            kept = by_score(labels, theta[labels.classes])
            is_complete = bool(theta.min() >= labels.complete_above)
            return Selection(kept, {"score": len(labels) - len(kept)}, is_complete)

        return select

    def losses(self, student: Any, batch: StudentBatch, teacher: Any, state: GradientState) -> Outputs:
        """Return all terms, and the sums that the state is updated by."""
        found = self.host.forward(student, batch, teacher, self.thresholds_at(state, batch.step).cpu())
        roi, exponent = found.roi, self.config.cls_focal_exponent
        first = sum(roi.counts[: batch.num_labeled])
        is_labeled = torch.arange(len(roi.labels), device=roi.labels.device) < first
        own = self.weights_at(state, batch.step).to(roi.labels.device)[roi.labels]
        own = torch.where(is_labeled, own**self.config.labeled_weight_exponent, own)  # w^beta, w
        rows = losses.focal_cross_entropy(roi.logits, roi.labels, exponent) * found.weights
        rows = rows * own / state.mean_weight.to(own)
        terms = found.terms | cls_terms(batch, roi, rows, found.weights)
        sums = self._sums(batch, found, first, own) if self._since(batch.step) >= 0 else {}
        return Outputs(terms, sums=sums)

    # --- what it learns ----------------------------------------------------------------------------------------------

    def build_state(self, sizes: DataSizes) -> GradientState:
        """Return the statistics of the classes."""
        return GradientState.fresh(sizes)

    def state_bytes(self, sizes: DataSizes) -> int:
        """Return the size of the matrix and the listings."""
        with torch.device("meta"):  # shapes alone
            return GradientState.fresh(sizes).nbytes

    @torch.no_grad()
    def _sums(self, batch: StudentBatch, found: SoftPass, first: int, own: Tensor) -> dict[str, Tensor]:
        """Return this rank's part of a step's statistics; class weights are no part of the gradients."""
        roi, weights = found.roi, found.weights
        logits, n = roi.logits.detach().float(), roi.logits.shape[1]
        matrix = torch.zeros(n, n, device=logits.device)
        for group, part, factor in (
            (LABELED, slice(0, first), 1.0),
            (UNLABELED, slice(first, None), self.config.unsup_weight),
        ):
            if len(roi.labels[part]):
                share = factor * GRADIENT_SCALE / self.rois[group]
                args = logits[part], roi.labels[part], self.config.cls_focal_exponent, weights[part]
                matrix += share * gradient_matrix(*args)
        counted = to_device(torch.tensor([first, len(own) - first]), own.device)
        used = torch.stack([own[:first].sum(), own[first:].sum()])
        said = torch.zeros(2, n - 1)
        for label in batch.labels:
            said[0].index_add_(0, label.classes, label.scores)
            said[1] += torch.bincount(label.classes, minlength=n - 1)
        mine = logits.gather(1, roi.labels[:, None])[:, 0]
        raised = torch.stack([torch.bincount(roi.labels, minlength=n).float(), torch.zeros(n, device=mine.device)])
        raised[1].index_add_(0, roi.labels, mine)
        return {"gradients": matrix, "weights": torch.stack([counted, used]), "scores": said, "logits": raised}

    @torch.no_grad()
    def update(
        self,
        state: GradientState,
        batch: StudentBatch,
        per_view: Mapping[str, Tensor],
        sums: Mapping[str, Tensor],
        group: Group,
    ) -> None:
        """Take in a step's gradients, scores and weights, and move the class weights; the same on all ranks."""
        since = self._since(batch.step)
        if since < 0:
            return
        state.move(sums["gradients"].device)
        keep, state.updates = self.config.gbr_ema, state.updates + 1
        if since < self.config.gbr_warmup_steps:
            keep = 1 - 1 / int(state.updates)  # a plain mean
        state.matrix = keep * state.matrix + (1 - keep) * sums["gradients"]
        count, used = sums["weights"]
        ema, there = self.config.gbr_ema, count > 0
        mean = torch.where(there, used / count.clamp(min=1), 0).sum() / there.sum().clamp(min=1)  # of groups with RoIs
        state.mean_weight = torch.where(there.any(), ema * state.mean_weight + (1 - ema) * mean, state.mean_weight)
        total, number = sums["scores"]
        state.class_scores, state.detections = update_mean_scores(
            state.class_scores, state.detections, total, number, ema
        )
        met_now, raised = sums["logits"]
        average, old = raised / met_now.clamp(min=1), state.own_logits
        moved = torch.where(old == 0, average, ema * old + (1 - ema) * average)  # 0: of a class not met before
        state.own_logits = torch.where(met_now > 0, moved, old)
        if since >= self.config.gbr_warmup_steps:
            self._balance(state, batch.step)

    def _balance(self, state: GradientState, step: int) -> None:
        """Move a by SGD on L_jacobi, once for labelled and `unsup_weight` times for unlabelled images; or solve."""
        config, optim = self.config, self.run.optim
        if config.gbr_solver == "jacobi":
            seen = met(state.matrix)
            targets = jacobi_targets(state.matrix, softmax_weights(state.weight_logits, seen), self.bounds)
            slope = 2 / seen.sum().clamp(min=1) * (state.weight_logits - targets.log())  # dL_jacobi / da
            slope = torch.where(seen, slope, torch.zeros_like(slope)) * (1 + config.unsup_weight)
            state.velocity = optim.momentum * state.velocity + slope
            rate = self.lr_at(step) if config.weight_logits_lr is None else config.weight_logits_lr
            state.weight_logits = state.weight_logits - rate * state.velocity  # no weight decay, no EMA
        elif (self._since(step) - config.gbr_warmup_steps) % config.gbr_solve_every_steps == 0:
            solve = direct_weights if config.gbr_solver == "direct" else stationary_weights
            state.solved = solve(state.matrix)

    def class_statistics(self, state: GradientState, step: int) -> dict[str, Tensor]:
        """Return w, theta, scores, logits, what pulls a class's logit up and down, and how often images are listed."""
        matrix, weights = state.matrix.cpu(), self.weights_at(state, step).cpu()
        up = -matrix.diagonal()
        return {
            "weights": weights,
            "thresholds": self.thresholds_at(state, step),
            "scores": state.class_scores,
            "logits": state.own_logits,
            "up": up,
            "down": matrix.sum(dim=0) + up,
            "up_weighted": weights * up,  # the two sides of the balance (1)
            "down_weighted": weights @ matrix + weights * up,
            "listed": torch.bincount(state.repeats[-1].ceil().long()).float(),
        }

    # --- which images ------------------------------------------------------------------------------------------------

    def rebuilds(self) -> Rebuilds | None:
        """List unlabelled images anew every `crs_rebuild_steps` from the end of the warm-up on."""
        config = self.config
        if not config.lists_anew:
            return None
        start = config.burn_in_steps + config.crs_warmup_steps
        return Rebuilds(start, config.crs_rebuild_steps, self.run.labels.lookahead)

    def rebuild(
        self,
        state: GradientState,
        sizes: DataSizes,
        step: int,
        labels: Iterable[tuple[int, PseudoLabel]],
        group: Group,
    ) -> None:
        """Count the pseudo-boxes above their thresholds, and list each image by them."""
        config, rebuilds = self.config, self.rebuilds()
        assert rebuilds is not None and sizes.sets is not None
        theta = self.thresholds_at(state, step).cpu()
        pool, n = sure_boxes(labels, theta), len(theta)
        counted = torch.zeros(n + 1)
        counted[:n] = torch.from_numpy(images_per_class((classes for classes, _ in pool.values()), n))
        counted[n] = len(pool)
        counted = group.sum(counted.to(group.device)).cpu()
        labeled = images_per_class(classes_of(sizes.sets.labeled), n)  # they start the tally
        with_class = labeled + counted[:n].numpy().astype(np.int64)
        frequencies = class_frequencies(with_class, sizes.labeled + int(counted[n]))
        repeats = torch.zeros(state.repeats.shape[1])
        if config.unlabeled_sampling == "crs":
            factors = class_factors(
                frequencies, crs_threshold(step, self.run.optim.steps, config.crs_repeat_threshold_max)
            )
            found = {row: crs_image_factor(*boxes, factors) for row, boxes in pool.items()}
        else:
            factors = class_factors(frequencies, config.rfs_repeat_threshold)
            found = {row: image_factor(classes, factors) for row, (classes, _) in pool.items()}
        for row, factor in found.items():
            repeats[row] = factor
        every = group.sum(repeats.to(group.device)).cpu().clamp(min=1).double().numpy()
        state.list_anew(rebuilds.first_step(step), rounded(every, config.repeat_rounding))

    def listings(self, state: GradientState, sizes: DataSizes) -> list[Listing]:
        """Return the listings of labelled images (RFS) and of unlabelled ones."""
        return [*super().listings(state, sizes), *state.listings()]

    def notes(self, sizes: DataSizes) -> list[str]:
        """Say what the statistics take, when images are listed anew, and which parts the run is too short for."""
        found = [f"class statistics: {self.state_bytes(sizes) / 1e6:.1f} MB in every rank"]
        rebuilds = self.rebuilds()
        if rebuilds is not None and self.config.first_listing(self.run) < self.run.length:
            found.append(
                f"unlabelled images are listed anew at step {rebuilds.start + rebuilds.every} and every "
                f"{rebuilds.every} steps, from {plural(rebuilds.lookahead, 'step')} later on"
            )
        return found + [f"warning: {text}" for text in self.config.idle_parts(self.run)]

    def _since(self, step: int) -> int:
        """Return the steps since the burn-in's end."""
        return step - self.config.burn_in_steps
