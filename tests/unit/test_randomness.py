from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from raydet.randomness import derive_seed, stream

keys = st.lists(st.one_of(st.text(alphabet="ab1:\x1f", max_size=4), st.integers(-20, 20)), max_size=3)


def test_the_seed_of_a_key_never_changes() -> None:
    # Frozen: another value would silently change every run that is resumed.
    assert derive_seed(0, "weak", "000001", 7) == 7698990717455185296


def test_one_key_gives_one_stream_and_another_key_another() -> None:
    draws = torch.rand(4, generator=stream(3, "view", "a", 1))
    assert torch.equal(draws, torch.rand(4, generator=stream(3, "view", "a", 1)))
    for other in (stream(4, "view", "a", 1), stream(3, "roi", "a", 1), stream(3, "view", "b", 1), stream(3, "view")):
        assert not torch.equal(draws, torch.rand(4, generator=other))


@given(seed=st.integers(0, 2**63), key=keys)
def test_seeds_fit_into_63_bits(seed: int, key: list[str | int]) -> None:
    assert 0 <= derive_seed(seed, *key) < 2**63


def test_a_number_and_its_text_are_different_keys() -> None:
    assert derive_seed(0, 1) != derive_seed(0, "1")
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")
    assert derive_seed(1, 2) != derive_seed(12)


def test_streams_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(5, generator=stream(0, "x"))
    assert torch.equal(torch.rand(1), expected)


def test_neighbouring_streams_are_uncorrelated() -> None:
    first = torch.stack([torch.rand(1, generator=stream(0, "x", i))[0] for i in range(1000)])
    assert abs(float(first.mean()) - 0.5) < 0.055  # 6 x 0.289 / sqrt(1000)
    assert abs(float(torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1])) < 0.19  # 6 / sqrt(999)
