"""One optimiser step's arithmetic: what DDP wraps, and the normalisation over all ranks.

DDP arms its gradient hooks in its own `forward`; a loss computed by calling a stage of the wrapped model directly would
train each rank alone. Therefore every loss-bearing forward runs inside `StepModule`.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydet.errors import NonFiniteLossError
from raydet.methods import Method
from raydet.models.detector import Detector
from raydet.models.images import collate
from raydet.randomness import stream
from raydet.records import StudentBatch
from raydet.train.group import Group


class StepModule(nn.Module):
    """The student and its method's losses as one module with one forward."""

    def __init__(self, student: Detector, method: Method, *, device: torch.device, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.device = device
        self.dtype = dtype

    def forward(self, batch: StudentBatch) -> tuple[Tensor, Tensor]:
        """Return totals `[T]` and counts `[T]`, float32, in the order of `method.loss_weights`."""
        images = collate([view.pixels for view in batch.views], self.device)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            terms = self.method.losses(self.student, batch, images, self._rngs(batch))
        names = list(self.method.loss_weights)
        totals = torch.stack([terms[name].total.float() for name in names])
        counts = torch.stack([terms[name].count.to(torch.float32) for name in names])
        return totals, counts.to(totals.device)

    def _rngs(self, batch: StudentBatch) -> list[torch.Generator]:
        """One stream per view for anchor and RoI sampling: independent of rank and of the views around it."""
        strong = batch.num_labeled // 2
        roles = ["labeled-strong"] * strong + ["labeled-weak"] * (batch.num_labeled - strong)
        roles += ["unlabeled"] * batch.num_unlabeled
        seed = self.method.run.seed
        return [
            stream(seed, "sampling", role, view.image_id, batch.step)
            for role, view in zip(roles, batch.views, strict=True)
        ]


def wrap(module: StepModule) -> DistributedDataParallel:
    """Wrap for data-parallel training. Buffers are not synchronised: all normalisation is frozen or per sample."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the new name of `broadcast_buffers` is not in torch 2.11
        return DistributedDataParallel(module, broadcast_buffers=False)


@dataclass(frozen=True, slots=True, eq=False)
class StepLosses:
    """The losses of one step over all ranks."""

    names: tuple[str, ...]
    raw: Tensor  # [T] float32 on the device: normalised, unweighted
    stop_votes: Tensor  # [1] float32 on the device: how many ranks want to stop after this step

    def check_finite(self, grad_norm: Tensor | None, batch: StudentBatch, group: Group) -> None:
        """Raise NonFiniteLossError, on every rank and before any weight changes, naming terms and images of the step.

        `grad_norm` of the reduced gradients, or None where a gradient scaler deals with overflow itself.
        """
        values = self.raw if grad_norm is None else torch.cat([self.raw, grad_norm.reshape(1).to(self.raw)])
        if bool(torch.isfinite(values).all()):
            return
        names = (*self.names, "the gradient")
        bad = [name for name, ok in zip(names, torch.isfinite(values).tolist(), strict=False) if not ok]
        images = group.all_gather(sorted({view.image_id for view in batch.views}))
        raise NonFiniteLossError(
            f"step {batch.step}: {', '.join(bad)} not finite; images of the step by rank: {images}. "
            f"Look at these images' boxes (raydet check-data), or go on with --resume and a lower optim.lr or an "
            f"optim.clip_norm."
        )


def backward(
    module: StepModule | DistributedDataParallel,
    batch: StudentBatch,
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
    parts = split_batch(batch, accumulate)
    sizes = _global_sizes(parts, group)
    raw = torch.zeros_like(weights)
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        sync = nullcontext() if is_last or not isinstance(module, DistributedDataParallel) else module.no_sync()
        with sync:
            totals, counts = module(part)
            summed = group.sum(torch.cat([totals.detach(), counts, totals.new_full((1,), float(wants_stop))]))
            total_all, count_all, stop_votes = summed[: len(totals)], summed[len(totals) : -1], summed[-1:]
            share = torch.tensor([sizes[i][0 if n.startswith("sup/") else 1] for n in names], device=totals.device)
            factor = share / count_all.clamp(min=1)
            loss = (weights * totals * factor).sum() * group.world
            (loss if scaler is None else scaler.scale(loss)).backward()
        raw += total_all * factor
    return StepLosses(names, raw, stop_votes)


def split_batch(batch: StudentBatch, parts: int) -> list[StudentBatch]:
    """Split a batch into passes; the two views of a labelled image stay together."""
    if parts == 1:
        return [batch]
    pairs, unlabeled = batch.num_labeled // 2, batch.num_unlabeled
    found = []
    for i in range(parts):
        low, high = i * pairs // parts, (i + 1) * pairs // parts
        rows = [*range(low, high), *range(pairs + low, pairs + high)]
        labeled = len(rows)
        start = batch.num_labeled
        rows += range(start + i * unlabeled // parts, start + (i + 1) * unlabeled // parts)
        views = tuple(batch.views[row] for row in rows)
        targets = tuple(batch.targets[row] for row in rows)
        found.append(StudentBatch(step=batch.step, views=views, targets=targets, num_labeled=labeled))
    return found


def _global_sizes(parts: list[StudentBatch], group: Group) -> list[tuple[float, float]]:
    """Return each pass's share of the step's labelled and unlabelled views over all ranks."""
    if len(parts) == 1:
        return [(1.0, 1.0)]
    counts = torch.tensor([[part.num_labeled, part.num_unlabeled] for part in parts], dtype=torch.float32)
    summed = group.sum(counts.to(group.device)).cpu()
    shares = summed / summed.sum(dim=0).clamp(min=1)
    return [(float(row[0]), float(row[1])) for row in shares]
