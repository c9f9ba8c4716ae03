"""Numeric precision: which dtype a device autocasts to."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from raydet.arithmetic import Arithmetic
from raydet.errors import ConfigError, StorageError
from raydet.files import read_json, write_text

NAMES: dict[torch.dtype | None, str] = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
PAYS = 0.9  # of the time that fp32 takes: less is worth the digits
ROUNDS = 5


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype to autocast to, or None for plain fp32. Raises ConfigError where the device cannot do it.

    `auto` on a CPU that computes bf16 in hardware: whichever is faster, timed once per machine and version of torch.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if has_bf16_hardware() and bf16_over_fp32() < PAYS else None
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError("optim.precision=fp16 needs a GPU; use bf16, fp32 or auto")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def settled_dtype(precision: str, device: torch.device, begun: Arithmetic | None) -> torch.dtype | None:
    """Return the dtype as `autocast_dtype` does, but for `auto` what the run began with on such a device, if it did.

    So a run that goes on elsewhere, or a teacher on another node, rounds as the run has before. A device of the other
    kind decides by itself.
    """
    if precision == "auto" and begun is not None and begun.device == device.type:
        return next(dtype for dtype, name in NAMES.items() if name == begun.dtype)
    return autocast_dtype(precision, device)


def has_bf16_hardware() -> bool:
    """Return whether this machine's processor multiplies bf16 numbers; others imitate it, slowly."""
    flags = _cpuinfo()
    return "amx_bf16" in flags or "avx512_bf16" in flags


@lru_cache(maxsize=1)
def bf16_over_fp32() -> float:
    """Return the time of a small network's step in bf16 over that in fp32, on this machine's CPU.

    It is kept in a file, so that all processes of a machine decide alike, and the next run as this one. The flags alone
    do not tell: how fast bf16 convolutions are has changed from one version of torch to the next.
    """
    name = next((line.split(":")[1].strip() for line in _cpuinfo().splitlines() if "model name" in line), "CPU")
    key, file = f"{name}, torch {torch.__version__}", cache_file()
    known: dict[str, float] = {}
    with suppress(ValueError):
        known = {str(k): float(v) for k, v in read_json(file, ValueError).items() if isinstance(v, float)}
    if key not in known:
        known[key] = round(time_both(), 3)
        with suppress(StorageError, OSError):  # a home that cannot be written to costs a timing per process
            write_text(file, json.dumps(known, indent=1))
    return known[key]


def cache_file() -> Path:
    """Return where timings are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "raydet" / "bf16_over_fp32.json"


def time_both() -> float:
    """Return the CPU time of forward and backward in bf16 over that in fp32: the least of some rounds, in turn."""
    with torch.random.fork_rng(devices=[]):  # a run draws the same numbers, whether this is done or not
        network, pixels = _network(), torch.rand(2, 32, 40, 40).to(memory_format=torch.channels_last)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for is_bf16, seen in times.items():
            begun = time.process_time()  # other programs' share of the cores does not count
            _step(network, pixels, is_bf16)
            seen.append(time.process_time() - begun)
    return min(times[True]) / min(times[False])


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.Conv2d(64, 128, 1),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
    ).to(memory_format=torch.channels_last)


def _step(network: nn.Module, pixels: Tensor, is_bf16: bool) -> None:
    with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
        network(pixels).float().square().mean().backward()
    network.zero_grad()


@lru_cache(maxsize=1)
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux: nothing is known, so nothing is promised
        return ""
