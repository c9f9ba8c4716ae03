"""Pseudo-Label: which class is taken for the truth, and which labels are sure enough to be trained on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.families.classification.batch import ClassBatch
from raydet.families.classification.methods.pseudo_label import PseudoLabel
from raydet.registry import build_method
from tests.helpers import tiny_classes

STUDENT = [math.log(3), math.log(2), 0.0]  # probabilities 1/2, 1/3, 1/6: cross-entropies ln 2, ln 3, ln 6
SURE = [math.log(7), math.log(2), 0.0]  # 7/10, 2/10, 1/10: best class 0, worst class 2
UNSURE = [0.0, math.log(6), math.log(3)]  # 1/10, 6/10, 3/10: best class 1, worst class 0


def method(**changes: Any) -> PseudoLabel:
    """Labels of the student of step 4."""
    found = build_method(tiny_classes(Path("unused"), method={"name": "pseudo_label", "burn_in_steps": 4} | changes))
    assert isinstance(found, PseudoLabel)
    return found


def unsup(own: PseudoLabel, *labels: list[float]) -> tuple[float, int]:
    """Return the total and the count of the cross-entropy with pseudo-labels, where the student says `STUDENT` of
    every image; a labelled image comes first."""
    count = 1 + len(labels)
    pixels = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    batch = ClassBatch(5, [f"{n}" for n in range(count)], pixels, torch.tensor([2]), torch.tensor([*labels]))
    found = own.terms(torch.tensor([STUDENT] * count), batch)
    assert float(found["sup/ce"].total) == pytest.approx(math.log(6))  # class 2
    return float(found["unsup/ce"].total), int(found["unsup/ce"].count)


def test_the_best_class_of_a_label_is_taken_for_the_truth():
    assert unsup(method(), SURE) == (pytest.approx(math.log(2)), 1)  # class 0
    assert unsup(method(), UNSURE) == (pytest.approx(math.log(3)), 1)  # class 1
    assert unsup(method(), SURE, UNSURE) == (pytest.approx(math.log(2) + math.log(3)), 2)


def test_labels_below_the_threshold_teach_nothing_and_count_all_the_same():
    assert unsup(method(score_threshold=0.65), SURE, UNSURE) == (pytest.approx(math.log(2)), 2)  # 0.7 is, 0.6 is not
    assert unsup(method(score_threshold=0.55), SURE, UNSURE) == (pytest.approx(math.log(6)), 2)  # ln 2 + ln 3
    assert unsup(method(score_threshold=0.75), SURE, UNSURE) == (0.0, 2)


def test_a_label_must_exceed_the_threshold():
    even = [0.0, 0.0, -math.inf]  # 1/2 1/2 0, exactly
    assert unsup(method(score_threshold=0.5), even) == (0.0, 1)
    assert unsup(method(score_threshold=0.49), even)[0] > 0.5  # ln 2 or ln 3, whichever of the two is taken


def test_the_cross_entropy_with_labels_has_the_weight_that_is_configured():
    assert method(unsup_weight=0.25).loss_weights == {"sup/ce": 1.0, "unsup/ce": 0.25}


def test_labels_are_made_once_or_anew_at_every_intervals_end():
    assert method().schedule().boundaries == (4,)
    # 20 steps: the intervals begin at 4, 4 + 6, 4 + 2 x 6
    assert method(reprediction_interval_steps=6).schedule().boundaries == (4, 10, 16)
