"""One optimiser step's arithmetic: what DDP wraps, and the normalisation over all ranks.

DDP arms its gradient hooks in its own `forward`; a loss computed by calling a stage of the wrapped model directly would
train each rank alone. Therefore every loss-bearing forward runs inside `StepModule`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydet.contract import Batch, Method, Outputs, State
from raydet.errors import NonFiniteLossError
from raydet.group import Group
from raydet.vision.device import to_device


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

    def forward(self, batch: Batch, teacher: nn.Module | None, state: State | None) -> tuple[Tensor, Tensor, Outputs]:
        """Return totals `[T]` and counts `[T]`, float32, in the order of `method.loss_weights`, and all outputs."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            found = self.method.losses(self.student, batch, teacher, state)
        names = list(self.method.loss_weights)
        totals = torch.stack([found.losses[name].total.float() for name in names])
        # Counts that a method makes from Python's numbers lie on the CPU, others where they were added up.
        counts = [found.losses[name].count.to(totals.device, torch.float32, non_blocking=True) for name in names]
        return totals, torch.stack(counts), found


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

    In training each rank normalises with the statistics of its own images, as usual. Statistics that are equal
    everywhere, as those of norms that rest, stay so to the bit: in float64 the sum of n equal float32 is exact.
    """
    if group.world == 1 or not statistics:
        return
    flat = group.sum(torch.cat([each.reshape(-1) for each in statistics]).double()) / group.world
    for each, mean in zip(statistics, torch.split(flat, [each.numel() for each in statistics]), strict=True):
        each.copy_(mean.reshape(each.shape))


@dataclass(frozen=True, slots=True, eq=False)
class StepLosses:
    """What one step gave over all ranks."""

    names: tuple[str, ...]
    raw: Tensor  # [T] float32: normalised, unweighted
    stop_votes: Tensor  # [1] float32: how many ranks want to stop after this step
    per_view: dict[str, Tensor] = field(default_factory=dict)  # `Outputs.per_view` of this rank's whole batch
    sums: dict[str, Tensor] = field(default_factory=dict)  # `Outputs.sums` of all ranks together, on the device

    def on_host(self, grad_norm: Tensor) -> tuple[StepLosses, Tensor]:
        """Return losses, votes, rows and the gradient's norm in this machine's memory: all that a step has to know.

        The one place where a step waits for a GPU to have computed its gradients.
        """
        if not self.raw.is_cuda:
            return self, grad_norm
        parts = [self.raw, self.stop_votes, grad_norm, *self.per_view.values()]
        flat = torch.cat([part.float().reshape(-1) for part in parts]).cpu()
        pieces = torch.split(flat, [part.numel() for part in parts])
        raw, votes, norm, *rows = (piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True))
        return StepLosses(self.names, raw, votes, dict(zip(self.per_view, rows, strict=True)), self.sums), norm

    def check_finite(
        self,
        grad_norm: Tensor | None,
        batch: Batch,
        group: Group,
        advice: Callable[[str], str] = lambda problem: "",
    ) -> None:
        """Raise NonFiniteLossError, on every rank and before any weight changes, naming terms and images of the step.

        `grad_norm` of the reduced gradients, or None where a gradient scaler deals with overflow itself; `advice` is
        told the problem and says how to go on, the same on all ranks.
        """
        values = self.raw if grad_norm is None else torch.cat([self.raw, grad_norm.reshape(1).to(self.raw)])
        if bool(torch.isfinite(values).all()):
            return
        names = (*self.names, "the gradient")
        bad = [name for name, ok in zip(names, torch.isfinite(values).tolist(), strict=False) if not ok]
        images = group.all_gather(sorted(set(batch.image_ids)))
        problem = f"{', '.join(bad)} not finite"
        raise NonFiniteLossError(
            f"step {batch.step}: {problem}; images of the step by rank: {images}. Look at these images (raydet "
            f"check-data), or {advice(problem)}"
        )


def backward(
    module: StepModule | DistributedDataParallel,
    batch: Batch,
    weights: Tensor,
    group: Group,
    *,
    names: tuple[str, ...],
    teacher: nn.Module | None = None,
    state: State | None = None,
    accumulate: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    wants_stop: bool = False,
) -> StepLosses:
    """Run forward and backward of one step; gradients are those of the whole global batch on every rank.

    Each term is its sum over all ranks divided by its count over all ranks. DDP averages gradients over ranks, hence
    the factor `world`. With `accumulate` passes each pass is normalised by its own counts and weighted by its share of
    the images: exact where every image yields its full number of samples (deviation ILNET-D3). What a rank
    `wants_stop` and the method's own sums travel with the counts: one reduction, and all ranks know the same.
    """
    parts = batch.split(accumulate)
    shares = _shares(parts, group)
    raw = torch.zeros_like(weights)
    every, sums = [], dict[str, Tensor]()
    for part, share in zip(parts, shares, strict=True):
        is_last = part is parts[-1]
        sync = nullcontext() if is_last or not isinstance(module, DistributedDataParallel) else module.no_sync()
        with sync:
            totals, counts, found = module(part, teacher, state)
            own = [to_device(value, totals.device).to(totals.dtype).reshape(-1) for value in found.sums.values()]
            vote = totals.new_full((1,), float(wants_stop))
            summed = group.sum(torch.cat([totals.detach(), counts, vote, *own]))
            total_all, count_all, stop_votes = torch.split(summed[: 2 * len(totals) + 1], [len(totals), len(totals), 1])
            of_groups = torch.tensor([share[found.losses[name].group] for name in names])
            factor = to_device(of_groups, totals.device) / count_all.clamp(min=1)
            loss = (weights * totals * factor).sum() * group.world
            (loss if scaler is None else scaler.scale(loss)).backward()
        raw += total_all * factor
        every.append(found.per_view)
        for name, value in _unpacked(summed[2 * len(totals) + 1 :], found.sums).items():
            sums[name] = sums[name] + value if name in sums else value
    return StepLosses(names, raw, stop_votes, _joined(parts, every), sums)


def _unpacked(flat: Tensor, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut one row of numbers `[S]` into tensors of the shapes given."""
    pieces = torch.split(flat, [each.numel() for each in shapes.values()])
    return {name: piece.reshape(each.shape) for piece, (name, each) in zip(pieces, shapes.items(), strict=True)}


def _joined(parts: Sequence[Batch], per_view: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the rows of all passes of a step in the order of the whole batch: group by group."""
    if len(parts) == 1:
        return per_view[0]
    cut = [
        {name: torch.split(rows, list(part.sizes.values())) for name, rows in found.items()}
        for part, found in zip(parts, per_view, strict=True)
    ]
    groups = range(len(parts[0].sizes))
    return {name: torch.cat([found[name][group] for group in groups for found in cut]) for name in per_view[0]}


def _shares(parts: Sequence[Batch], group: Group) -> list[dict[str | None, float]]:
    """Return each pass's share of the step's views over all ranks: of each group, and of all of them (None)."""
    names = list(parts[0].sizes)
    if len(parts) == 1:
        return [dict.fromkeys([*names, None], 1.0)]
    counts = [[*part.sizes.values(), sum(part.sizes.values())] for part in parts]
    summed = group.sum(torch.tensor(counts, dtype=torch.float32).to(group.device)).cpu()
    shares = summed / summed.sum(dim=0).clamp(min=1)
    return [dict(zip([*names, None], row, strict=True)) for row in shares.tolist()]
