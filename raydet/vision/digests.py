"""Naming weights by their content, where they are.

A teacher is published every step or every few, and is named each time. SHA-256 of all bytes would want a GPU's weights
copied and then read byte by byte; here whole numbers are multiplied and added, which gives the same in any order and so
on any device, and only the sums are hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydet.vision.device import to_device

_ROW = 1024  # words of 4 bytes; each row has its own sums
_ROWS_AT_ONCE = {"cpu": 64, "cuda": 4096}  # words and products of so many stay in the cache, or are 64 MB


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return 32 hexadecimal digits for names, dtypes, shapes and bytes; independent of device and order of the dict.

    Each tensor's bytes, as rows of 1,024 signed 32-bit words (the last one filled up with zeros), are multiplied with
    two rows of odd 64-bit numbers and added up, modulo 2^64; BLAKE2b hashes the sums. Meant against accidents, not
    against somebody who looks for two networks of one name.
    """
    content = hashlib.blake2b(digest_size=16)
    names = sorted(weights)
    for name in names:
        content.update(f"{name}|{weights[name].dtype}|{tuple(weights[name].shape)}|".encode())
    parts = [weights[name].detach().contiguous().reshape(-1).view(torch.uint8) for name in names]
    on_gpu = [part for part in parts if part.is_cuda]
    if len(on_gpu) == len(parts) > 0:
        content.update(_sums_there(on_gpu).tobytes())
    else:
        for part in parts:
            content.update(_sums(part.cpu().numpy()).tobytes())
    return content.hexdigest()


@cache
def _keys() -> NDArray[np.int64]:
    """Return the numbers that words are multiplied with, `[1024, 2]`."""
    drawn = hashlib.shake_256(b"raydet digest of weights").digest(2 * 8 * _ROW)
    return np.frombuffer(drawn, "<i8").reshape(_ROW, 2) | 1


@cache
def _keys_on(device: torch.device) -> Tensor:
    return to_device(torch.from_numpy(_keys()), device)


def _sums(content: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the sums `[R, 2]` of one tensor's rows."""
    whole = len(content) // (4 * _ROW) * (4 * _ROW)
    rest = np.zeros(4 * _ROW if whole < len(content) else 0, np.uint8)
    rest[: len(content) - whole] = content[whole:]
    found, step = [np.zeros((0, 2), np.int64)], _ROWS_AT_ONCE["cpu"]
    for part in (content[:whole], rest):
        words = part.view("<i4").reshape(-1, _ROW)
        found += [words[row : row + step].astype(np.int64) @ _keys() for row in range(0, len(words), step)]
    return np.concatenate(found)


def _sums_there(parts: list[Tensor]) -> NDArray[np.int64]:
    """Return the sums of all tensors' rows, one tensor after the other, computed on their GPU."""
    filler = parts[0].new_zeros(4 * _ROW)
    filled = [piece for part in parts for piece in (part, filler[: -len(part) % (4 * _ROW)])]
    words = torch.cat(filled).view(torch.int32).reshape(-1, _ROW)
    first, second = _keys_on(words.device).unbind(1)
    found = []
    for some in torch.split(words, _ROWS_AT_ONCE["cuda"]):
        wide = some.long()
        found.append(torch.stack([(wide * first).sum(dim=1), (wide * second).sum(dim=1)], dim=1))
    sums: NDArray[np.int64] = torch.cat(found).cpu().numpy()
    return sums
