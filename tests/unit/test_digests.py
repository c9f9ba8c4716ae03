from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raydet.labels.schema import contradict
from raydet.vision.digests import digest
from tests.device_double import DEVICE, OnDevice, waits

SIZES = (0, 1, 1023, 1024, 1025, 70_000)  # words; 70,000 is more than the 64 rows that a CPU takes at once


def weights() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    found = {f"w{size}": torch.randn(size, generator=rng) for size in SIZES}
    kernel = torch.randn(4, 3, 5, 5, generator=rng).to(memory_format=torch.channels_last)
    return {**found, "kernel": kernel, "count": torch.tensor(7), "half": torch.randn(5, generator=rng).bfloat16()}


def by_hand(given: dict[str, Tensor]) -> str:
    """What the docstring of `digest` says, in Python's own whole numbers."""
    drawn = hashlib.shake_256(b"raydet digest of weights").digest(16 * 1024)
    numbers = [int.from_bytes(drawn[at : at + 8], "little") | 1 for at in range(0, len(drawn), 8)]
    content = hashlib.blake2b(digest_size=16)
    for name in sorted(given):
        content.update(f"{name}|{given[name].dtype}|{tuple(given[name].shape)}|".encode())
    for name in sorted(given):
        raw = given[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        raw += bytes(-len(raw) % 4096)
        for row in range(0, len(raw), 4096):
            words = [int.from_bytes(raw[at : at + 4], "little", signed=True) for at in range(row, row + 4096, 4)]
            for which in (0, 1):
                total = sum(word * numbers[2 * i + which] for i, word in enumerate(words)) % 2**64
                content.update(total.to_bytes(8, "little"))
    return content.hexdigest()


def test_a_digest_is_what_its_docstring_says():
    assert digest(weights()) == by_hand(weights())
    assert len(digest({})) == 32


def test_a_device_says_the_same_in_one_copy():
    with waits() as found:
        there = {name: value.to(DEVICE) for name, value in weights().items()}
        assert all(isinstance(value, OnDevice) for value in there.values())
        assert digest(there) == digest(weights())
    assert found.total() == 1


def test_digests_see_names_dtypes_shapes_and_values_but_neither_order_nor_layout():
    a, b = torch.arange(4.0), torch.tensor(3)
    same = digest({"a": a, "b": b})
    assert digest({"b": b, "a": a.clone()}) == same
    others = [
        {"a": a, "c": b},
        {"a": a.double(), "b": b},
        {"a": a.reshape(2, 2), "b": b},
        {"a": a + 1, "b": b},
        {"a": a, "b": b.reshape(1)},
    ]
    assert len({same, *(digest(other) for other in others)}) == 6
    kernel = weights()["kernel"]
    assert digest({"k": kernel}) == digest({"k": kernel.clone(memory_format=torch.contiguous_format)})


@given(st.lists(st.tuples(st.integers(0, 1499), st.integers(0, 31)), min_size=1, max_size=6, unique=True))
def test_every_bit_counts(flipped: list[tuple[int, int]]):
    before = torch.arange(1500.0)
    words = before.clone().view(torch.int32)
    for at, bit in flipped:
        words[at] ^= (1 << bit) - (1 << 32 if bit == 31 else 0)
    assert digest({"w": words.view(torch.float32)}) != digest({"w": before})


@pytest.mark.parametrize("changed", [(0, 1), (5, 1029)])
def test_numbers_that_change_places_or_signs_are_seen(changed: tuple[int, int]):
    before = torch.randn(2048, generator=torch.Generator().manual_seed(1))
    swapped, negated = before.clone(), before.clone()
    swapped[list(changed)] = before[list(reversed(changed))]
    negated[list(changed)] *= -1
    assert len({digest({"w": each}) for each in (before, swapped, negated)}) == 3


def test_digests_of_an_older_kind_contradict_each_other_only():
    old, older, new, newer = "a" * 64, "b" * 64, "a" * 32, "b" * 32
    assert contradict(old, older) and contradict(new, newer)
    assert not contradict(old, new) and not contradict(newer, older)
    assert not contradict(old, old) and not contradict(new, new)
