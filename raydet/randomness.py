"""Named random streams: every draw in raydet is a pure function of the run seed and of what it is for.

`stream(seed, "view", image_id, version)` gives the same numbers in the trainer, in a teacher actor and after a resume
on another number of workers, because nothing is drawn from a shared, order-dependent generator.
"""

from __future__ import annotations

import hashlib

import torch

Key = str | int


def derive_seed(seed: int, *key: Key) -> int:
    """Return a 63-bit seed for the named purpose; different keys give independent seeds."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *key: Key) -> torch.Generator:
    """Return a CPU generator for the named purpose, e.g. `stream(0, "roi", image_id, step)`."""
    return torch.Generator().manual_seed(derive_seed(seed, *key))


def happens(probability: float, rng: torch.Generator) -> bool:
    """Draw whether something of a probability happens."""
    return uniform(rng, 0.0, 1.0) < probability


def uniform(rng: torch.Generator, low: float, high: float) -> float:
    """Draw from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def integer(rng: torch.Generator, low: int, high: int) -> int:
    """Draw from low, ..., high - 1."""
    return int(torch.randint(low, high, (), generator=rng))
