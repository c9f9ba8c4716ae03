"""Which proposals are kept. Fact 1 of ADePT: on 640 x 480, sqrt(W H) = 554.26, limits 166.28 and 443.41."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet.data.proposals import Fallback
from raydet.errors import ConfigError
from raydet.proposals.filters import Drop, Filters

KEPT = [(200, 150), (167, 166), (450, 150), (443, 443), (300, 100), (100, 300)]
DROPPED = [(166, 166), (600, 150), (450, 149), (500, 400), (444, 444), (640, 480)]


def at_origin(*sizes: tuple[float, float]) -> np.ndarray:
    return np.array([(0, 0, w, h) for w, h in sizes], np.float64)


@pytest.mark.parametrize("size", KEPT)
def test_boxes_of_a_fit_shape_and_size_are_kept(size: tuple[int, int]):
    boxes, fallback, _ = Filters().kept(at_origin(size, (640, 480)), 640, 480)
    assert (boxes.tolist(), fallback) == ([[0, 0, *size]], Fallback.NONE)


@pytest.mark.parametrize("size", DROPPED)
def test_other_boxes_are_dropped(size: tuple[int, int]):
    boxes, _, _ = Filters().kept(at_origin(size, (200, 150)), 640, 480)
    assert boxes.tolist() == [[0, 0, 200, 150]]


@pytest.mark.parametrize(
    ("size", "image"),
    [
        ((30, 75), (100, 250)),  # 30 * 75 = 2,250 of 25,000: .09 = .3 * .3
        ((48, 104), (60, 130)),  # 48 * 104 = 4,992 of 7,800: .64 = .8 * .8
    ],
)
def test_a_box_of_exactly_a_bound_of_the_size_is_kept(size: tuple[int, int], image: tuple[int, int]):
    boxes, fallback, _ = Filters().kept(at_origin(size), *image)
    assert (boxes.tolist(), fallback) == ([[0, 0, *size]], Fallback.NONE)


def test_a_box_just_beyond_a_bound_of_the_size_is_dropped():
    # (30 - .001) * 75 of 25,000: .299995 squared; 48.001 * 104 of 7,800: .800008 squared
    assert Filters().kept(at_origin((29.999, 75)), 100, 250)[1] == Fallback.IMAGE
    assert Filters().kept(at_origin((48.001, 104)), 60, 130)[1] == Fallback.ASPECT


def test_a_bound_whose_square_is_rounded_still_is_inclusive():
    # 1,000 and 12,250 of 25,000: .04 and .49, but 0.2 * 0.2 = 0.04000000000000001 and 0.7 * 0.7 = 0.48999999999999994
    boxes, fallback, _ = Filters(sqrt_area_range=(0.2, 0.7)).kept(at_origin((20, 50), (70, 175)), 100, 250)
    assert (boxes.tolist(), fallback) == ([[0, 0, 20, 50], [0, 0, 70, 175]], Fallback.NONE)


@pytest.mark.parametrize("box", [[0.0, 0.4, 0.6, 0.6], [0.4, 0.0, 0.6, 0.6]])
def test_a_box_of_exactly_a_bound_of_the_shape_is_kept_though_its_sides_are_rounded(box: list[float]):
    # .6 to .2, but 0.6 - 0.4 = 0.19999999999999996, and 0.6 / that is 3.0000000000000004; sqrt(.6 * .2) = .346
    boxes, fallback, _ = Filters().kept(np.array([box]), 1, 1)
    assert (boxes.tolist(), fallback) == ([box], Fallback.NONE)


def test_where_nothing_passes_filters_are_given_up_one_by_one():
    filters = Filters()
    # 100 * 100: too small, of a fit shape; 33 x 200: neither; 31 x 31: a side below 32
    boxes, fallback, _ = filters.kept(at_origin((100, 100), (33, 200), (31, 31)), 640, 480)
    assert (boxes.tolist(), fallback) == ([[0, 0, 100, 100]], Fallback.ASPECT)
    boxes, fallback, _ = filters.kept(at_origin((33, 200), (31, 31)), 640, 480)
    assert (boxes.tolist(), fallback) == ([[0, 0, 33, 200]], Fallback.SIDE)
    boxes, fallback, _ = filters.kept(at_origin((31, 31)), 640, 480)
    assert (boxes.tolist(), fallback) == ([[0, 0, 640, 480]], Fallback.IMAGE)
    boxes, fallback, _ = filters.kept(at_origin(), 640, 480)
    assert (boxes.tolist(), fallback) == ([[0, 0, 640, 480]], Fallback.IMAGE)


def test_the_smallest_side_is_optional():
    assert Filters().kept(at_origin((20, 20), (30, 30)), 64, 64)[0].tolist() == [[0, 0, 20, 20], [0, 0, 30, 30]]
    assert Filters(min_side=30).kept(at_origin((20, 20), (30, 30)), 64, 64)[0].tolist() == [[0, 0, 30, 30]]


def test_boxes_are_clipped_counted_once_and_sorted():
    given = np.array([[50, 0, 90, 40], [-9, 0, 40, 40], [0, 0, 40, 40], [60, 60, 60, 90]], np.float64)
    boxes, _, _ = Filters().kept(given, 80, 80)
    assert boxes.tolist() == [[0, 0, 40, 40], [50, 0, 80, 40]]


def test_each_dropped_box_counts_for_the_first_reason_there_is():
    given = [
        *((0, 0, 40, 40), (0, 0, 40, 40), (-9, 0, 40, 40)),  # the same three times, once it is clipped
        *((60, 60, 60, 90), (99, 0, 120, 40)),  # no width; beyond the right edge
        *((0, 0, 80, 20), (0, 0, 12, 40)),  # 4 to 1; .3 to 1, and sqrt(12 * 40) = 21.9 is .27 of 80
        (0, 0, 20, 20),  # .25 of 80, and its sides are shorter than 30
        (0, 0, 25, 40),  # sqrt(25 * 40) = 31.6 is .395 of 80
    ]
    boxes, fallback, dropped = Filters(min_side=30).kept(np.array(given, np.float64), 80, 80)
    assert (boxes.tolist(), fallback) == ([[0, 0, 40, 40]], Fallback.NONE)
    assert {Drop(place): count for place, count in enumerate(dropped.tolist())} == {
        Drop.EMPTY: 2,
        Drop.TWICE: 2,
        Drop.SHAPE: 2,
        Drop.AREA: 1,
        Drop.SIDE: 1,
    }


def test_a_box_that_a_fallback_keeps_is_not_counted_as_dropped():
    # 100 * 100: too small, and kept; 33 x 200: too high; 31 x 31: too small
    _, fallback, dropped = Filters().kept(at_origin((100, 100), (33, 200), (31, 31)), 640, 480)
    assert (fallback, dropped.tolist()) == (Fallback.ASPECT, [0, 0, 1, 1, 0])
    _, fallback, dropped = Filters().kept(at_origin((31, 31)), 640, 480)
    assert (fallback, dropped.tolist()) == (Fallback.IMAGE, [0, 0, 0, 1, 0])


@given(
    st.lists(st.tuples(*[st.integers(-20, 120)] * 4), max_size=20),
    st.integers(1, 100),
    st.integers(1, 100),
    st.randoms(),
)
def test_there_is_always_a_box_and_never_one_outside_whatever_the_order(corners, width, height, draw):
    boxes, fallback, _ = Filters().kept(np.array(corners, np.float64).reshape(-1, 4), width, height)
    assert len(boxes) and (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    draw.shuffle(corners)
    again, fallback_again, _ = Filters().kept(np.array(corners, np.float64).reshape(-1, 4), width, height)
    assert np.array_equal(boxes, again) and fallback == fallback_again


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(aspect_range=(3.0, 1.0)), "--aspect-range 3 1: expected 0 <= LOW <= HIGH"),
        (Filters(sqrt_area_range=(0.3, 1.5)), "--sqrt-area-range 0.3 1.5: expected 0 <= LOW <= HIGH <= 1"),
        (Filters(sqrt_area_range=(float("nan"), 0.5)), "--sqrt-area-range nan 0.5"),
        (Filters(min_side=-1.0), "--min-side -1: expected 0 pixels or more"),
    ],
)
def test_bounds_that_nothing_can_pass_are_refused(filters: Filters, message: str):
    with pytest.raises(ConfigError) as error:
        filters.check()
    assert message in str(error.value)
