"""R2-D2 ("Repetitive Reprediction Deep Decipher for Semi-Supervised Learning", AAAI 2020, arXiv 1908.04345).

Every unlabelled image owns a logit vector y~, learned beside the network by gradient descent on the network's own loss.
With predictions p^ = softmax(y^) and pseudo-labels p~ = softmax(y~):

    L   = alpha * L_c + beta * L_e                                   mean over all images of a step     (Eq. 2)
    L_c = sum_j p^_j (log p^_j - log p~_j)                           KL(p^ || p~)                       (in Eq. 2)
    L_e = - sum_j p^_j log p^_j
    dL/dy~ = alpha * (p~ - p^)                                       of one image                       (Eq. 6)
    y~ <- y~ - (lambda * alpha / B) * (p~ - p^)                      B images per step                  (Eq. 7)

Stages: 1 cross-entropy on labelled images (the burn-in); 2 y~ starts from the network's prediction of the unaugmented
image and is learned (D2), later predicted anew every interval, at falling learning rates (R2); 3 fine-tuning on hard
labels. Labelled images have y~ = K on the true class and 0 elsewhere, for good.

| paper | code | value |
|---|---|---|
| alpha | method.class_loss_weight | 0.1 |
| beta | method.entropy_weight | 0.03, must be less than alpha (Theorem 1) |
| lambda | method.label_lr | 4000 |
| K | method.labeled_logit_scale | 10 |
| lambda alpha / B | `label_step` | 0.78125 at B = 512 |

Eq. 7 as printed lacks 1 / B; the published code takes the mean over the batch, and so does this
(`pseudo_grad_reduction`). The update is computed in closed form with the global B, so that no averaging of gradients
over ranks can change it. R2D2-D1: stage 3 draws labelled and unlabelled images apart, by their numbers. All deviations:
`docs/methods/r2d2.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from raydet.contract import DataSizes, LossTerm
from raydet.families.classification.batch import LABELED, ClassBatch
from raydet.families.classification.config import ClassificationConfig, ClassLossType, R2D2Config
from raydet.families.classification.label_table import LabelTable
from raydet.families.classification.method import ClassificationMethod, Stage, cross_entropy, nothing
from raydet.group import Group
from raydet.labels.schedule import LabelSchedule
from raydet.learning_rate import half_cosine, warm_up
from raydet.text import plural

STRETCH = 350 / 300  # stage 1's cosine would reach 0 at 350 epochs, and is left at 300 (published code)


class R2D2(ClassificationMethod):
    """Pseudo-labels are free variables, learned, and predicted anew from time to time."""

    settings = R2D2Config
    config: R2D2Config
    unseen_by_burn_in = frozenset(R2D2Config.model_fields) - {"name", "burn_in_steps", "burn_in_batch", "burn_in_lr"}

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__(config)
        self.stage2_end = config.length - self.config.tail_steps
        self.repeats_from = self.config.burn_in_steps + self.config.d2_steps

    @property
    def loss_weights(self) -> dict[str, float]:
        """Eq. 2 in stage 2, cross-entropy in the others; a stage's terms are 0 outside it."""
        alpha, beta = self.config.class_loss_weight, self.config.entropy_weight
        labeled = {"d2/ce": 1.0} if self.config.labeled_loss == "ce" else {}
        return {"sup/ce": 1.0, **labeled, "d2/class": alpha, "d2/entropy": beta, "finetune/ce": 1.0}

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The end of stage 1, the first reprediction, the end of stage 2."""
        return (self.config.burn_in_steps, self.repeats_from, self.stage2_end)

    @property
    def learns_labels_until(self) -> int:
        """The end of stage 2."""
        return self.stage2_end

    @property
    def fresh_optimizer_at(self) -> tuple[int, ...]:
        """Each stage has an optimiser of its own, kept across repredictions (published code)."""
        return (self.config.burn_in_steps, self.stage2_end)

    @property
    def repredictions(self) -> range:
        """Return the steps at which stage 2 predicts its pseudo-labels anew."""
        if not (self.config.repeat_stage2 and self.config.reprediction_enabled):
            return range(0)
        return range(self.repeats_from, self.stage2_end, self.config.reprediction_interval_steps)

    def schedule(self) -> LabelSchedule:
        """Predictions at the start of stage 2, at each reprediction, and for stage 3 where that is asked for."""
        config = self.config
        last = [self.stage2_end] if config.tail_steps and config.finetune_label_source == "reprediction" else []
        return LabelSchedule.stages(config.burn_in_steps, *self.repredictions, *last)

    def stage_at(self, step: int) -> Stage:
        """Return the stage; Cutout is for stages 1 and 3.

        Steps beyond the run's end, whose labels are asked for ahead, are of its last stage.
        """
        config, optim = self.config, self.run.optim
        if step < config.burn_in_steps:
            return Stage("supervised", 0, config.burn_in_batch, 0, cutout=True)
        if step < self.stage2_end or not config.finetune_enabled:
            return Stage("D2", config.burn_in_steps, optim.labeled_batch, optim.unlabeled_batch, cutout=False)
        return Stage("fine-tuning", self.stage2_end, 0, config.finetune_batch, cutout=True, is_pooled=True)

    def lr_at(self, step: int) -> float:
        """Cosine, then steps at the repredictions, then cosine to 0: a law for each stage."""
        config, optim = self.config, self.run.optim
        if step < config.burn_in_steps:
            rate = config.burn_in_lr * half_cosine(step / (config.burn_in_steps * STRETCH))
            return rate * warm_up(step, optim)
        if step >= self.stage2_end:
            return config.finetune_lr * half_cosine((step - self.stage2_end) / config.finetune_steps)
        since = step - self.repeats_from
        if since < 0 or not config.reduce_lr_enabled:
            return optim.lr
        return config.repeat_lrs[min(since // config.reprediction_interval_steps, len(config.repeat_lrs) - 1)]

    @property
    def label_step(self) -> float:
        """Return the factor of (p~ - p^) in Eq. 7."""
        config, optim = self.config, self.run.optim
        if config.label_step_override is not None:
            return config.label_step_override
        images = optim.labeled_batch + optim.unlabeled_batch if config.pseudo_grad_reduction == "mean" else 1
        return config.label_lr * config.class_loss_weight / images

    def terms(self, logits: Tensor, batch: ClassBatch) -> dict[str, LossTerm]:
        """Return the terms of the batch's stage."""
        terms = dict.fromkeys(self.loss_weights, nothing(logits))
        if batch.step < self.config.burn_in_steps:
            return terms | {"sup/ce": cross_entropy(logits, batch.classes, LABELED)}
        if batch.step >= self.stage2_end:
            hard = torch.cat([batch.classes, batch.pseudo_logits.argmax(dim=-1)])
            return terms | {"finetune/ce": cross_entropy(logits, hard)}
        images, first = torch.tensor(len(logits)), 0
        pseudo = self.targets(batch).to(logits.device)
        if self.config.labeled_loss == "ce":
            first = batch.num_labeled
            labeled = cross_entropy(logits[:first], batch.classes)
            terms["d2/ce"] = LossTerm(labeled.total, images)  # all parts of the loss are means over the same images
        own, given = logits[first:], pseudo[first:]
        terms["d2/class"] = LossTerm(class_loss(own, given, self.config.class_loss_type).sum(), images)
        terms["d2/entropy"] = LossTerm(entropy(own).sum(), images)
        return terms

    def targets(self, batch: ClassBatch) -> Tensor:
        """Return y~ `[B, N]` of all views; that of a labelled image follows from its class, until it is learned."""
        labeled = self.config.labeled_logit_scale * F.one_hot(batch.classes, batch.pseudo_logits.shape[1]).float()
        if batch.learned_logits is not None:
            labeled = torch.where(batch.learned_logits.isnan(), labeled, batch.learned_logits)
        return torch.cat([labeled, batch.pseudo_logits])

    def build_state(self, sizes: DataSizes) -> LabelTable:
        """Return the table of y~: a row per unlabelled image, then one per labelled image where those are learned."""
        learned = sizes.labeled if self.config.update_labeled else 0
        return LabelTable(sizes.unlabeled, sizes.classes, num_labeled=learned)

    def state_bytes(self, sizes: DataSizes) -> int:
        """Return the size of the table."""
        with torch.device("meta"):
            return self.build_state(sizes).nbytes

    def wants_label(self, state: LabelTable, rows: Sequence[int], version: int) -> list[bool]:
        """Images whose y~ has taken its start from that teacher's prediction are not predicted again."""
        return state.needs(rows, version)

    def update(
        self,
        state: LabelTable,
        batch: ClassBatch,
        per_view: Mapping[str, Tensor],
        sums: Mapping[str, Tensor],
        group: Group,
    ) -> None:
        """Apply Eq. 7 to the rows of the whole step, each computed by the rank that has its image."""
        if batch.rows is None or batch.step >= self.stage2_end:
            return
        first = 0 if self.config.update_labeled else batch.num_labeled
        pseudo, logits = self.targets(batch)[first:], per_view["logits"][first:].float().cpu()
        learned = pseudo - self.label_step * label_gradient(logits, pseudo, self.config.class_loss_type)
        everybodys = pseudo.new_zeros(len(batch.rows.rows), pseudo.shape[1])
        everybodys[batch.rows.own] = learned
        state.write(batch.rows.rows, group.sum(everybodys.to(group.device)).cpu(), batch.rows.version)

    def notes(self, sizes: DataSizes) -> list[str]:
        """Say how far a label moves in one step, what the table takes, and where the stages are."""
        config, optim = self.config, self.run.optim
        batch = f"{optim.labeled_batch} + {optim.unlabeled_batch} images"
        rule = f"{config.label_lr:g} x {config.class_loss_weight:g} / ({batch})"
        if config.pseudo_grad_reduction == "sum":
            rule = f"{config.label_lr:g} x {config.class_loss_weight:g}"
        if config.label_step_override is not None:
            rule = "label_step_override"
        rows = sizes.unlabeled + sizes.labeled * config.update_labeled
        megabytes = self.state_bytes(sizes) / 1e6
        return [
            f"label step: {self.label_step:g} = {rule}",
            f"label table: {rows:,} x {sizes.classes} logits, {megabytes:.1f} MB in every rank",
            *self._stage_notes(sizes.unlabeled),
        ]

    def _stage_notes(self, num_unlabeled: int) -> list[str]:
        config, optim = self.config, self.run.optim
        interval, epoch = config.reprediction_interval_steps, num_unlabeled // optim.unlabeled_batch
        again = ", ".join(str(step) for step in self.repredictions[:8]) + ", ..." * (len(self.repredictions) > 8)
        rates = f"{optim.lr:g}"
        if config.repeat_stage2 and config.reduce_lr_enabled:
            rates += f", from {self.repeats_from} on {', '.join(f'{rate:g}' for rate in config.repeat_lrs)}"
        found = [
            f"supervised until {config.burn_in_steps}: {plural(config.burn_in_batch, 'image')}, learning rate "
            f"{config.burn_in_lr:g} and falling",
            f"D2 until {self.stage2_end}: {optim.labeled_batch} + {optim.unlabeled_batch} images, "
            f"learning rate {rates}; repredictions at {again or 'no step'}",
        ]
        if config.finetune_enabled:
            found.append(
                f"fine-tuning until {self.run.length}: {plural(config.finetune_batch, 'image')}, learning rate "
                f"{config.finetune_lr:g} and falling"
            )
        if config.repeat_stage2 and config.reduce_lr_enabled and max(config.repeat_lrs) > optim.lr:
            found.append(
                f"warning: method.repeat_lrs={list(config.repeat_lrs)} goes above optim.lr={optim.lr:g}: the learning "
                f"rate rises at a reprediction, where the paper lowers it"
            )
        if self.repredictions and interval < epoch:
            found.append(
                f"warning: method.reprediction_interval_steps={interval} is less than the {epoch:,} steps of an epoch: "
                f"some labels will miss a reprediction"
            )
        return found


def class_loss(logits: Tensor, pseudo_logits: Tensor, kind: ClassLossType) -> Tensor:
    """Return L_c of each image `[B]` from logits and pseudo-logits `[B, N]`; differentiable in both (Table 4)."""
    log_p, log_q = logits.log_softmax(dim=-1), pseudo_logits.log_softmax(dim=-1)
    if kind == "kl_pred_to_pseudo":
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)  # Eq. 2; F.kl_div(log_p, q) would be the other direction
    if kind == "kl_pseudo_to_pred":
        return (log_q.exp() * (log_q - log_p)).sum(dim=-1)
    return (log_p.exp() - log_q.exp()).square().sum(dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Return L_e of each image `[B]` from its logits `[B, N]`."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def label_gradient(logits: Tensor, pseudo_logits: Tensor, kind: ClassLossType) -> Tensor:
    """Return dL_c/dy~ of each image `[B, N]` in closed form; every row sums to 0, so the sum of y~ never changes."""
    log_p, log_q = logits.log_softmax(dim=-1), pseudo_logits.log_softmax(dim=-1)
    p, q = log_p.exp(), log_q.exp()
    if kind == "kl_pred_to_pseudo":
        return q - p  # Eq. 6
    inner = log_q - log_p if kind == "kl_pseudo_to_pred" else 2 * (q - p)
    return q * (inner - (q * inner).sum(dim=-1, keepdim=True))


def theorem_1(logits: Tensor, pseudo_logits: Tensor, *, class_weight: float, entropy_weight: float) -> Tensor:
    """Return exp(-L / alpha) * p^_n^(1 - beta / alpha) `[B]`: what p~_n is at a stationary point, n the best class."""
    loss = class_weight * class_loss(logits, pseudo_logits, "kl_pred_to_pseudo") + entropy_weight * entropy(logits)
    best = logits.softmax(dim=-1).amax(dim=-1)
    return (-loss / class_weight).exp() * best ** (1 - entropy_weight / class_weight)
