"""Numeric precision: which dtype a device autocasts to."""

from __future__ import annotations

import torch

from raydet.errors import ConfigError


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
            flags = file.read()
            return "amx_bf16" in flags or "avx512_bf16" in flags
    except OSError:  # not Linux: no AMX to be had
        return False
