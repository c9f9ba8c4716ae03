from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.order import BatchOrder, ListedOrder, Listing, Rebuilds, RepeatedOrder


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


# --- images that are listed more than once ---------------------------------------------------------------------------

FACTORS = st.lists(st.floats(1.0, 5.0), min_size=1, max_size=60).map(np.array)


def listed(order: RepeatedOrder, steps: range) -> np.ndarray:
    return np.concatenate([order.positions(step) for step in steps])


@given(n=st.integers(1, 200), batch=st.integers(1, 30), seed=st.integers(0, 2**31), step=st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_images_that_are_all_listed_once_come_in_the_plain_order(n: int, batch: int, seed: int, step: int) -> None:
    plain, repeated = BatchOrder(n, batch, seed, "x"), RepeatedOrder(np.ones(n), batch, seed, "x")
    assert np.array_equal(plain.positions(step), repeated.positions(step))


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=40), batch=st.integers(1, 9), epoch=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_an_epoch_lists_every_image_as_often_as_it_should(counts: list[int], batch: int, epoch: int) -> None:
    order, size = RepeatedOrder(np.array(counts, dtype=float), batch, 3, "x"), sum(counts)
    first, last = epoch * size // batch, -(-(epoch + 1) * size // batch)
    places = listed(order, range(first, last))[epoch * size - first * batch :][:size]
    assert np.bincount(places, minlength=len(counts)).tolist() == counts


@given(factors=FACTORS, batch=st.integers(1, 20), steps=st.lists(st.integers(0, 300), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_listed_order_is_a_pure_function_of_the_step(factors: np.ndarray, batch: int, steps: list[int]) -> None:
    order = RepeatedOrder(factors, batch, 3, "x")
    for step in steps:  # in any order, from a fresh object or an old one
        fresh = RepeatedOrder(factors, batch, 3, "x").positions(step)
        assert np.array_equal(order.positions(step), fresh)
        assert ((fresh >= 0) & (fresh < len(factors))).all()


def test_parts_of_a_repeat_are_drawn_anew_every_epoch() -> None:
    order = RepeatedOrder(np.array([1.0, 2.5, 1.25]), 100, 0, "x")
    shares = np.bincount(listed(order, range(200)), minlength=3) / 20_000
    # Of 4.75 places an epoch: 1, 2.5 and 1.25.
    assert shares.tolist() == pytest.approx([1 / 4.75, 2.5 / 4.75, 1.25 / 4.75], abs=0.006)


@pytest.mark.parametrize("factors", [[], [0.5], [1.0, np.nan], [np.inf]])
def test_an_image_is_never_listed_less_than_once(factors: list[float]) -> None:
    with pytest.raises(ValueError, match="listed at least once"):
        RepeatedOrder(np.array(factors), 1, 0, "x")


def test_listings_take_over_at_their_first_steps() -> None:
    factors = [np.array([1.0, 3.0, 1.0]), np.array([2.0, 1.0, 1.0])]
    order = ListedOrder(3, 4, 0, "unlabeled")
    order.list_anew([Listing("unlabeled", 9, factors[1]), Listing("unlabeled", 5, factors[0])], None)
    expected = {
        4: BatchOrder(3, 4, 0, "unlabeled"),
        5: RepeatedOrder(factors[0], 4, 0, "unlabeled", first_step=5),
        9: RepeatedOrder(factors[1], 4, 0, "unlabeled", first_step=9),
    }
    for step, one in {0: 4, 4: 4, 5: 5, 8: 5, 9: 9, 30: 9}.items():
        assert np.array_equal(order.positions(step), expected[one].positions(step)), step


def test_a_listing_of_other_images_is_refused() -> None:
    with pytest.raises(ValueError, match="a listing of 2 images for the 3 of the unlabeled set"):
        ListedOrder(3, 4, 0, "unlabeled").list_anew([Listing("unlabeled", 0, np.ones(2))], None)


# --- rebuilds --------------------------------------------------------------------------------------------------------


def test_rebuilds_of_a_small_example() -> None:
    rebuilds = Rebuilds(start=10, every=4, lookahead=3)
    assert [step for step in range(30) if rebuilds.is_due(step)] == [14, 18, 22, 26]
    assert rebuilds.window(18) == range(14, 18)
    assert rebuilds.first_step(18) == 21
    # Before the rebuild of step 14 is done, the steps below 17 are settled; before that of step 18, those below 21.
    assert [rebuilds.known_until(step) for step in (0, 10, 14, 15, 18, 19)] == [17, 17, 17, 21, 21, 25]


def learned_at(rebuild: int, n: int) -> np.ndarray:
    """What a method would count at a rebuild: any function of what was seen before it."""
    return 1.0 + np.random.default_rng(rebuild).integers(0, 4, n)


class Run:
    """The part of the engine that lists images: it goes step by step, asks ahead, and can be killed."""

    def __init__(self, rebuilds: Rebuilds, n: int, batch: int, step: int, saved: list[Listing]) -> None:
        self.rebuilds, self.n, self.step = rebuilds, n, step
        self.order, self.listings = ListedOrder(n, batch, 7, "unlabeled"), list(saved)
        self.order.list_anew(self.listings, rebuilds.known_until(step))
        self.asked = step

    def advance(self, prefetch: int) -> dict[int, list[int]]:
        """Make a step; return the images of every step that was asked for in it."""
        s, rebuilds = self.step, self.rebuilds
        if rebuilds.is_due(s):
            self.listings = [*self.listings[-1:], Listing("unlabeled", rebuilds.first_step(s), learned_at(s, self.n))]
            self.order.list_anew(self.listings, rebuilds.known_until(s + 1))
        until = rebuilds.known_until(s + 1 if rebuilds.is_due(s) else s)
        wanted = [*range(self.asked, s + rebuilds.lookahead + 1), *range(s, max(s + 1, min(s + prefetch + 1, until)))]
        self.asked, self.step = s + rebuilds.lookahead + 1, s + 1
        return {step: self.order.positions(step).tolist() for step in wanted}


@given(
    start=st.integers(0, 6),
    every=st.integers(1, 9),
    lookahead=st.integers(0, 8),
    kills=st.lists(st.integers(1, 39), max_size=4),
    prefetch=st.integers(0, 12),
)
@settings(max_examples=80, deadline=None)
def test_which_images_a_step_sees_never_depends_on_restarts_or_on_how_far_ahead_it_is_looked_up(
    start: int, every: int, lookahead: int, kills: list[int], prefetch: int
) -> None:
    if lookahead >= every:
        with pytest.raises(ValueError, match="lookahead < every"):
            Rebuilds(start, every, lookahead)
        return
    rebuilds, n, batch = Rebuilds(start, every, lookahead), 11, 3
    straight, seen = Run(rebuilds, n, batch, 0, []), dict[int, list[int]]()
    while straight.step < 40:
        for step, images in straight.advance(0).items():
            assert seen.setdefault(step, images) == images  # settled when it is first asked for
    run = Run(rebuilds, n, batch, 0, [])
    for kill in [*sorted(set(kills)), 40]:
        while run.step < kill:
            for step, images in run.advance(prefetch).items():
                assert seen.get(step, images) == images, (step, kill)
        run = Run(rebuilds, n, batch, run.step, run.listings)  # from a checkpoint of this very step
    assert len(run.listings) <= 2  # what a checkpoint has to hold


def test_asking_for_a_step_before_it_is_settled_is_an_error() -> None:
    order = ListedOrder(5, 2, 0, "unlabeled")
    order.list_anew([], 8)
    order.positions(7)
    with pytest.raises(AssertionError, match="step 8 were asked for before the rebuild"):
        order.positions(8)
