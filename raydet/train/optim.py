"""The optimiser and its learning rates: pure functions of the configuration, the method's groups and the step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from raydet.config.optim import OptimConfig
from raydet.contract import ParamGroup
from raydet.train.lars import Lars

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "lars": Lars}
"""What `optim.name` means; a checkpoint says with which class it was trained."""


def build_optimizer(model: nn.Module, groups: Sequence[ParamGroup], config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the trainable parameters; norm layers and all biases are not decayed.

    Each of `groups` becomes two of the optimiser's, its weights and what is not decayed of it, in that order. Rates are
    the loop's to set (`set_lrs`), before each step. Raises ValueError where a parameter matches none.
    """
    own: dict[str, tuple[list[nn.Parameter], list[nn.Parameter]]] = {group.name: ([], []) for group in groups}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own[group_of(name, groups).name][parameter.ndim <= 1].append(parameter)
    found = []
    for name, (decayed, exempt) in own.items():
        found.append({"params": decayed, "weight_decay": config.weight_decay, "name": name})
        found.append({"params": exempt, "weight_decay": 0.0, "name": name})
    if config.name == "lars":
        found = [{**each, "adapts": place % 2 == 0} for place, each in enumerate(found)]  # the decayed ones
        return Lars(found, lr=config.lr, momentum=config.momentum, trust=config.lars_trust)
    fused = all(p.is_cuda for each in own.values() for kind in each for p in kind)
    if config.name == "sgd":
        return torch.optim.SGD(
            found,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            foreach=not fused,
            fused=fused,
        )
    return torch.optim.AdamW(found, lr=config.lr, foreach=not fused, fused=fused)


def group_of(name: str, groups: Sequence[ParamGroup]) -> ParamGroup:
    """Return the first group that a parameter's name matches. Raises ValueError where there is none."""
    for group in groups:
        if group.match(name):
            return group
    raise ValueError(f"parameter {name} matches none of the groups {[group.name for group in groups]}")


def set_lrs(optimizer: torch.optim.Optimizer, rates: dict[str, float | None]) -> None:
    """Set the learning rate of each group by name; that of a frozen group (None) has no effect."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]] or 0.0


def set_frozen(model: nn.Module, groups: Sequence[ParamGroup], step: int, trainable: frozenset[str]) -> bool:
    """Freeze what has no learning rate at `step`, thaw the rest; return whether anything changed.

    `trainable` are the parameters that the model itself does not freeze for good. A module whose parameters are all
    frozen is not put into evaluation mode by this: that is the method's to say.
    """
    changed = False
    for name, parameter in model.named_parameters():
        wanted = name in trainable and group_of(name, groups).lr_at(step) is not None
        changed |= parameter.requires_grad != wanted
        parameter.requires_grad_(wanted)
    return changed
