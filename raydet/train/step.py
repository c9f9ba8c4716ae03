"""One optimiser step's arithmetic: what DDP wraps, and the normalisation over all ranks.

DDP arms its gradient hooks in its own `forward`; a loss computed by calling a stage of the wrapped model directly would
train each rank alone. Therefore every loss-bearing forward runs inside `StepModule`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydet.errors import NonFiniteLossError
from raydet.methods import Method
from raydet.records import Batch
from raydet.train.group import Group

KINDS = {"sup": 0, "unsup": 1}  # first part of a loss's name -> column of `_global_sizes`; others are about all views


class StepModule(nn.Module):
    """The student and its method's losses as one module with one forward."""

    def __init__(
        self, student: nn.Module, method: Method[Any, Any], *, device: torch.device, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.device = device
        self.dtype = dtype

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return totals `[T]` and counts `[T]`, float32, in the order of `method.loss_weights`, and what was told."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            terms = self.method.step_terms(self.student, batch, self.device)
        names = list(self.method.loss_weights)
        totals = torch.stack([terms.losses[name].total.float() for name in names])
        counts = torch.stack([terms.losses[name].count.to(torch.float32) for name in names])
        return totals, counts.to(totals.device), terms.told


def wrap(module: StepModule) -> DistributedDataParallel:
    """Wrap for data-parallel training. Buffers are left alone: see `share_statistics`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the new name of `broadcast_buffers` is not in torch 2.11
        return DistributedDataParallel(module, broadcast_buffers=False)


def statistics_of(model: nn.Module) -> list[Tensor]:
    """Return the running statistics of a model's batch norms; none where all normalisation is frozen or per sample."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    found = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    return [statistic for statistic in found if statistic is not None]


@torch.no_grad()
def share_statistics(statistics: list[Tensor], group: Group) -> None:
    """Replace every rank's running statistics by their mean over ranks, so that all ranks hold the same model.

    In training each rank normalises with the statistics of its own images, as usual.
    """
    if group.world == 1 or not statistics:
        return
    flat = group.sum(torch.cat([each.reshape(-1) for each in statistics])) / group.world
    for each, mean in zip(statistics, torch.split(flat, [each.numel() for each in statistics]), strict=True):
        each.copy_(mean.reshape(each.shape))


@dataclass(frozen=True, slots=True, eq=False)
class StepLosses:
    """The losses of one step over all ranks."""

    names: tuple[str, ...]
    raw: Tensor  # [T] float32 on the device: normalised, unweighted
    stop_votes: Tensor  # [1] float32 on the device: how many ranks want to stop after this step
    told: dict[str, Tensor] = field(default_factory=dict)  # see `StepTerms`; the views of this rank, in their order

    def check_finite(
        self, grad_norm: Tensor | None, batch: Batch, group: Group, *, lr_keys: tuple[str, ...] = ("optim.lr",)
    ) -> None:
        """Raise NonFiniteLossError, on every rank and before any weight changes, naming terms and images of the step.

        `grad_norm` of the reduced gradients, or None where a gradient scaler deals with overflow itself; `lr_keys`:
        the settings that a lower learning rate can be given by.
        """
        values = self.raw if grad_norm is None else torch.cat([self.raw, grad_norm.reshape(1).to(self.raw)])
        if bool(torch.isfinite(values).all()):
            return
        names = (*self.names, "the gradient")
        bad = [name for name, ok in zip(names, torch.isfinite(values).tolist(), strict=False) if not ok]
        images = group.all_gather(sorted(set(batch.image_ids)))
        raise NonFiniteLossError(
            f"step {batch.step}: {', '.join(bad)} not finite; images of the step by rank: {images}. "
            f"Look at these images (raydet check-data), or go on with --resume and a lower {' or '.join(lr_keys)}, or "
            f"an optim.clip_norm."
        )


def backward(
    module: StepModule | DistributedDataParallel,
    batch: Batch,
    weights: Tensor,
    group: Group,
    *,
    names: tuple[str, ...],
    accumulate: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    wants_stop: bool = False,
) -> StepLosses:
    """Run forward and backward of one step; gradients are those of the whole global batch on every rank.

    Each term is its sum over all ranks divided by its count over all ranks. DDP averages gradients over ranks, hence
    the factor `world`. With `accumulate` passes each pass is normalised by its own counts and weighted by its share of
    the images: exact where every image yields its full number of samples (deviation D-3). What a rank
    `wants_stop` travels with the counts, so that all ranks know the same after the same step.
    """
    parts = batch.split(accumulate)
    sizes = _global_sizes(parts, group)
    raw = torch.zeros_like(weights)
    kinds = torch.tensor([KINDS.get(name.split("/")[0], 2) for name in names])
    told = []
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        sync = nullcontext() if is_last or not isinstance(module, DistributedDataParallel) else module.no_sync()
        with sync:
            totals, counts, said = module(part)
            summed = group.sum(torch.cat([totals.detach(), counts, totals.new_full((1,), float(wants_stop))]))
            total_all, count_all, stop_votes = summed[: len(totals)], summed[len(totals) : -1], summed[-1:]
            factor = sizes[i][kinds].to(totals.device) / count_all.clamp(min=1)
            loss = (weights * totals * factor).sum() * group.world
            (loss if scaler is None else scaler.scale(loss)).backward()
        raw += total_all * factor
        told.append(said)
    return StepLosses(names, raw, stop_votes, _joined(parts, told))


def _joined(parts: Sequence[Batch], told: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what the passes of a step told, in the order of the whole batch: labelled views first."""
    if len(parts) == 1:
        return told[0]
    halves = [
        {name: (rows[: part.num_labeled], rows[part.num_labeled :]) for name, rows in said.items()}
        for part, said in zip(parts, told, strict=True)
    ]
    return {name: torch.cat([said[name][half] for half in (0, 1) for said in halves]) for name in told[0]}


def _global_sizes(parts: Sequence[Batch], group: Group) -> Tensor:
    """Return each pass's share `[P, 3]` of the step's labelled, unlabelled and all views over all ranks."""
    if len(parts) == 1:
        return torch.ones(1, 3)
    counts = [[p.num_labeled, p.num_unlabeled, p.num_labeled + p.num_unlabeled] for p in parts]
    summed = group.sum(torch.tensor(counts, dtype=torch.float32).to(group.device)).cpu()
    return summed / summed.sum(dim=0).clamp(min=1)
