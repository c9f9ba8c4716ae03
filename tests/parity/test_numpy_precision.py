"""The precision arrays of NumPy's engine are pycocotools' to the last bit, whatever boxes there are."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.boxes.federated import Federated
from raydet.families.detection.average_precision import numpy_precision
from raydet.families.detection.box_pairs import SaidBoxes, TrueBoxes, judgeable
from raydet.families.detection.judged_boxes import dataset_of, rows_of
from raydet.families.detection.lvis import lvis_numpy, lvis_precision
from raydet.families.detection.precision import pycocotools_precision

CLASSES = ("a", "b", "c")
IMAGES = 4
STEP = 8.0  # of places: many equal overlaps; sides of 0 to 144 pixels, in all of COCO's sizes and on their bounds


class Index:
    class_names = CLASSES

    def size_at(self, row: int) -> tuple[int, int]:
        return 400, 400


def boxes(draw: Any, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images from 1, by image or not; places, on a grid or shaken a little; classes."""
    number, rng = draw(st.integers(0, most)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = rng.integers(0, draw(st.sampled_from([2, 4, 16])), (number, 2)) * STEP
    sides = rng.choice([0, 4, 8, 12, 18], (number, 2), p=[0.02, 0.38, 0.3, 0.2, 0.1]) * STEP
    if draw(st.booleans()):
        low, sides = low + rng.normal(0, 2, low.shape), sides + rng.random(sides.shape)
    return np.sort(rng.integers(1, IMAGES + 1, number)), np.hstack([low, low + sides]), rng.integers(0, 3, number)


@st.composite
def cases(draw: Any) -> tuple[TrueBoxes, SaidBoxes]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    of, places, classes = boxes(draw, 60)
    sides = places[:, 2:] - places[:, :2]
    areas = sides.prod(axis=1) * (rng.choice([0.6, 1.0], len(of)) if draw(st.booleans()) else 1)  # of masks
    crowd = rng.random(len(of)) < draw(st.sampled_from([0.0, 0.3]))
    truth = TrueBoxes(of, np.hstack([places[:, :2], places[:, :2] + sides]), classes, crowd, sides, areas)
    of, places, classes = boxes(draw, draw(st.sampled_from([5, 150, 700])))
    sides = places[:, 2:] - places[:, :2]
    scores = rng.random(len(of)).round(draw(st.sampled_from([1, 7])))  # one digit: many equal ones
    return truth, SaidBoxes(of, np.hstack([places[:, :2], places[:, :2] + sides]), classes, scores, sides)


@settings(max_examples=60, deadline=None)
@given(case=cases(), pairs=st.sampled_from([1, 300, 100_000]))
def test_precision_is_that_of_pycocotools(case: tuple[TrueBoxes, SaidBoxes], pairs: int):
    truth, said = case
    expected = pycocotools_precision(dataset_of(Index(), range(IMAGES), truth), rows_of(said))  # type: ignore[arg-type]
    with patch("raydet.families.detection.box_pairs.MOST_PAIRS", pairs):
        found = numpy_precision(truth, said, judgeable(truth, said), len(CLASSES))
    assert np.array_equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_so_it_is_where_not_every_class_was_looked_for(case: tuple[TrueBoxes, SaidBoxes], seed: int):
    truth, said = case
    rng = np.random.default_rng(seed)
    there = [np.unique(truth.classes[truth.images == image + 1]) for image in range(IMAGES)]
    negative = [np.setdiff1d(np.flatnonzero(rng.random(3) < 0.5), each) for each in there]
    partial = [each[rng.random(len(each)) < 0.4] for each in there]
    federated = Federated(negative, partial, ("r", "c", "f"))
    dataset: Any = dataset_of(Index(), range(IMAGES), truth)  # type: ignore[arg-type]
    with patch("raydet.families.detection.lvis.MOST", 60):
        expected = lvis_precision(dataset, rows_of(said), federated, "pycocotools")
        found = lvis_numpy(truth, said, np.arange(1, IMAGES + 1), federated, len(CLASSES))
    assert np.array_equal(found, expected)
