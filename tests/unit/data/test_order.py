from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.order import BatchOrder


def drawn(order: BatchOrder, start: int, stop: int) -> list[int]:
    """The images at places start..stop of the endless stream of `order`."""
    first, last = start // order.batch, -(-stop // order.batch)
    stream = np.concatenate([order.positions(step) for step in range(first, last)])
    return list(stream[start - first * order.batch : stop - first * order.batch])


@given(n=st.integers(1, 300), batch=st.integers(1, 40), seed=st.integers(0, 2**31), epoch=st.integers(0, 5))
@settings(max_examples=60)
def test_every_epoch_is_a_permutation_even_where_batches_straddle_it(n: int, batch: int, seed: int, epoch: int) -> None:
    order = BatchOrder(n, batch, seed, "x")
    assert sorted(drawn(order, epoch * n, (epoch + 1) * n)) == list(range(n))


@given(n=st.integers(1, 10**9), step=st.integers(0, 10**8), batch=st.integers(1, 64))
@settings(max_examples=60)
def test_positions_are_pure_and_inside_the_data_set(n: int, step: int, batch: int) -> None:
    order = BatchOrder(n, batch, 3, "x")
    first = order.positions(step)
    order.positions(step + 7)
    assert first.dtype == np.int64 and first.shape == (batch,)
    assert ((first >= 0) & (first < n)).all()
    assert np.array_equal(first, order.positions(step))
    assert np.array_equal(first, BatchOrder(n, batch, 3, "x").positions(step))


def test_the_batch_size_cuts_one_and_the_same_stream() -> None:
    assert drawn(BatchOrder(50, 4, 1, "x"), 0, 200) == drawn(BatchOrder(50, 7, 1, "x"), 0, 200)


def test_one_image_is_drawn_again_and_again() -> None:
    assert BatchOrder(1, 5, 0, "x").positions(3).tolist() == [0, 0, 0, 0, 0]


def test_epochs_seeds_and_names_shuffle_differently() -> None:
    base = drawn(BatchOrder(100, 10, 0, "labeled"), 0, 100)
    assert base != list(range(100))
    assert base != drawn(BatchOrder(100, 10, 0, "labeled"), 100, 200)
    assert base != drawn(BatchOrder(100, 10, 1, "labeled"), 0, 100)
    assert base != drawn(BatchOrder(100, 10, 0, "unlabeled"), 0, 100)


def test_a_billion_images_do_not_repeat_within_an_epoch() -> None:
    images = BatchOrder(10**9, 200_000, 0, "x").positions(17)
    assert len(np.unique(images)) == 200_000


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_every_image_is_equally_often_at_every_place_of_an_epoch(n: int) -> None:
    epochs = 4000
    table = BatchOrder(n, epochs * n, 0, "x").positions(0).reshape(epochs, n)
    counts = np.stack([np.bincount(table[:, place], minlength=n) for place in range(n)])
    # Each cell is binomial(4000, 1/n): 6 standard deviations never fail by chance.
    spread = np.sqrt(epochs * (1 / n) * (1 - 1 / n))
    assert np.abs(counts - epochs / n).max() < 6 * spread


def test_all_orders_of_five_images_are_equally_likely() -> None:
    epochs = 24_000
    table = BatchOrder(5, epochs * 5, 0, "x").positions(0).reshape(epochs, 5)
    _, counts = np.unique(table, axis=0, return_counts=True)
    assert len(counts) == 120  # 5!
    # 200 expected in each; chi-squared / 119 has mean 1 and standard deviation sqrt(2 / 119) = 0.13
    assert ((counts - 200) ** 2 / 200).sum() / 119 < 1.8


def test_neighbours_in_one_epoch_are_no_longer_neighbours() -> None:
    images = BatchOrder(10_000, 10_000, 5, "x").positions(0)
    correlation = np.corrcoef(images[:-1], images[1:])[0, 1]
    assert abs(correlation) < 0.05  # standard error 0.01


def test_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="num_images=0"):
        BatchOrder(0, 4, 0, "x")
