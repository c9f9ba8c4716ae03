"""What a run computes in. Neither torch nor Ray: the label broker, which passes it on, must restart fast."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What `optim.precision: auto` came to when a run began, for all that compute on such devices for it."""

    device: str  # cpu or cuda: of the training processes
    dtype: str  # fp32, bf16 or fp16
