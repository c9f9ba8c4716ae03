"""Optimiser and numeric precision: pure functions of the configuration."""

from __future__ import annotations

import torch
from torch import nn

from raydet.config.optim import OptimConfig
from raydet.errors import ConfigError
from raydet.learning_rate import base_lr


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the trainable parameters; norm layers and all biases are not decayed."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else exempt).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    fused = all(p.is_cuda for p in decayed + exempt)
    if config.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=base_lr(config),
            momentum=config.momentum,
            nesterov=config.nesterov,
            foreach=not fused,
            fused=fused,
        )
    return torch.optim.AdamW(groups, lr=base_lr(config), foreach=not fused, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set one learning rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype to autocast to, or None for plain fp32. Raises ConfigError where the device cannot do it."""
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if _cpu_has_amx() else None
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError("optim.precision=fp16 needs a GPU; use bf16, fp32 or auto")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _cpu_has_amx() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return "amx_bf16" in file.read()
    except OSError:  # not Linux: no AMX to be had
        return False
