"""Thresholds by class, how often images are listed, and the published figures of gradient-based sampling, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from raydet.families.detection.gradient_balance import (
    class_thresholds,
    update_mean_scores,
)
from raydet.families.detection.repeats import (
    balanced_factors,
    class_factors,
    class_frequencies,
    crs_image_factor,
    crs_threshold,
    image_factor,
    images_per_class,
    rounded,
)
from tests.parity.by_hand import F64, near


def test_fact_9_thresholds_of_four_classes():
    # scores .8 .6 .4 .2, mean .5: .9 * s / .5 = 1.44 1.08 .72 .36; .9 / w = 1.8 .9 .6 .36
    weights, scores = torch.tensor([0.5, 1, 1.5, 2.5]), torch.tensor([0.8, 0.6, 0.4, 0.2])
    assert class_thresholds(0.9, 0.5, weights, scores).tolist() == near([0.9, 0.9, 0.6, 0.5])
    assert class_thresholds(0.9, 0.5, weights, None).tolist() == near([0.9, 0.9, 0.6, 0.5])
    assert class_thresholds(0.9, 0.5, torch.ones(4), scores).tolist() == near([0.9, 0.9, 0.72, 0.5])
    assert class_thresholds(0.9, 0.5, torch.ones(4), torch.zeros(4)).tolist() == near([0.9] * 4)  # nothing seen yet


def test_fact_10_repeat_factors():
    # sqrt(.1 / f): .707, 1.414, 2, 10
    assert class_factors(np.array([0.2, 0.05, 0.025, 0.001]), 0.1).tolist() == near([1, 1.414214, 2, 10])
    assert rounded(np.array([1.414214]), "ceil").tolist() == [2]
    assert rounded(np.array([1.414214]), "stochastic").tolist() == [1.414214]
    factors = class_factors(np.array([0.5, 0.1, 0.02, 0.004, 0.0]), 0.5)
    assert factors.tolist() == near([1, 2.236068, 5, 11.180340, 1])
    # p = .95, theta_i = .6: margin .35; 11.180 * .35 = 3.913 -> 4 copies; 5 * .35 = 1.75 -> 2; 2.236 * .35 < 1 -> 1
    copies = [crs_image_factor(np.array([c]), np.array([0.35]), factors) for c in (3, 2, 1)]
    assert copies == near([3.913119, 1.75, 1.0])
    assert rounded(np.array(copies), "ceil").tolist() == [4, 2, 1]
    assert crs_threshold(45_000, 180_000, 0.5) == 0.125
    assert crs_threshold(200_000, 180_000, 0.5) == 0.5


def test_an_image_is_listed_for_its_rarest_class_and_once_without_any():
    factors = np.array([1.0, 3.0, 2.0])
    assert image_factor([0, 2], factors) == 2
    assert image_factor([], factors) == 1
    assert crs_image_factor(np.zeros(0, dtype=np.int64), np.zeros(0), factors) == 1
    assert images_per_class([[0, 0, 1], [1], []], 3).tolist() == [1, 2, 0]  # images, not boxes
    assert balanced_factors(np.array([0.5, 0.1, 0.0]), 100).tolist() == [1, 5, 1]
    assert balanced_factors(np.array([0.5, 0.001]), 100).tolist() == [1, 100]


def test_the_first_thousand_detections_fill_the_mean_score_and_the_others_move_it():
    mean, seen = torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64)
    mean, seen = update_mean_scores(mean, seen, torch.tensor([200.0, 0]), torch.tensor([400.0, 0]), 0.999)
    assert mean.tolist() == near([0.2, 0]) and seen.tolist() == [400, 0]  # 400 * .5 / 1000
    # 700 more of .8 each: 600 fill up, .2 + .48 = .68; 100 move: .999^100 = .904792; .68 k + .8 (1 - k) = .691425
    mean, seen = update_mean_scores(mean, seen, torch.tensor([560.0, 0]), torch.tensor([700.0, 0]), 0.999)
    assert mean.tolist() == near([0.691425, 0]) and seen.tolist() == [1100, 0]


# all, majority, minority of split 1: 60 of 80 classes are majority
PUBLISHED = {
    "beta .3": (26.5, 30.8, 13.4),
    "beta .5": (26.5, 30.7, 13.9),
    "beta 1": (25.8, 29.3, 15.4),
    "gamma .1": (26.4, 30.7, 13.5),
    "gamma 1": (26.3, 30.4, 14.0),
    "random, random": (25.5, 30.9, 9.4),
    "rfs, random": (25.8, 30.9, 10.5),
    "rfs, rfs": (26.0, 30.8, 11.7),
    "Unbiased Teacher": (22.3, 28.6, 5.3),
    "+ ours": (24.7, 28.5, 13.2),
    "logit adjustment": (24.6, 30.6, 6.5),
    "classifier retraining": (24.5, 29.9, 8.4),
}


def test_behind_the_first_thousand_the_mean_score_only_moves():
    mean, seen, one = torch.tensor([0.5], dtype=F64), torch.tensor([1500.0], dtype=F64), torch.ones(1, dtype=F64)
    found, count = update_mean_scores(mean, seen, one, one, keep=0.9)
    assert found.tolist() == near([0.55]) and count.tolist() == [1501]  # .9 * .5 + .1 * 1


def test_the_share_of_images_that_hold_a_class():
    assert class_frequencies(np.array([1, 0]), 1).tolist() == [1, 0]
    assert class_frequencies(np.array([0, 0]), 0).tolist() == [0, 0]  # of no image at all


def test_published_rows_satisfy_their_identity():
    odd = [
        name
        for name, (every, majority, minority) in PUBLISHED.items()
        if abs(every - (0.75 * majority + 0.25 * minority)) > 0.1 + 1e-9  # each is rounded to .1
    ]
    assert odd == ["Unbiased Teacher"]  # .75 * 28.6 + .25 * 5.3 = 22.775, not 22.3


def test_the_search_spaces_hold_the_published_figures():
    from raydet.sweep.space import load_sweep

    folder = Path(__file__).parents[2] / "tune_spaces"
    for file in ("samplers", "hosts", "baselines"):
        published = load_sweep(folder / f"gradient_sampling_{file}.py").published
        assert published is not None
        for name, value in published.values.items():
            assert PUBLISHED.get(name, PUBLISHED["beta .5"])[0] == value, (file, name)
