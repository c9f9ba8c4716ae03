"""Mean Teacher: what the consistency costs, who learns from it, and how its weight grows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.families.classification.batch import ClassBatch
from raydet.families.classification.methods.mean_teacher import MeanTeacher, consistency
from raydet.group import Group
from raydet.registry import build_method
from raydet.train.step import StepModule, backward
from tests.helpers import tiny_classes

# Of two classes; as probabilities 1/2 1/2, 3/4 1/4, 1/4 3/4.
EVEN, FIRST, SECOND = [0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]


def method(**changes: Any) -> MeanTeacher:
    """The teacher appears at step 4; the weight is whole 10 steps later."""
    section = {"name": "mean_teacher", "burn_in_steps": 4, "ramp_up_steps": 10, "consistency_weight": 7.0}
    found = build_method(tiny_classes(Path("unused"), method=section | changes))
    assert isinstance(found, MeanTeacher)
    return found


def batch(step: int, *, classes: list[int], teacher: list[list[float]]) -> ClassBatch:
    count = len(classes) + len(teacher)
    pixels = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    ids, truth = [f"image-{n}" for n in range(count)], torch.tensor(classes, dtype=torch.int64)
    return ClassBatch(step, ids, pixels, truth, torch.tensor(teacher).reshape(-1, 2))


def consistency_at(step: int) -> float:
    """Of one image whose squared difference is 1/16: (3/4 - 1/2)^2 for either class."""
    found = method().terms(torch.tensor([FIRST]), batch(step, classes=[], teacher=[EVEN]))
    return 16 * float(found["unsup/consistency"].total)


def test_the_consistency_is_the_squared_difference_of_the_probabilities_averaged_over_classes():
    student = torch.tensor([SECOND, FIRST, SECOND])  # of the labelled image, then of the unlabelled ones
    found = method().terms(student, batch(14, classes=[1], teacher=[EVEN, FIRST]))
    # (3/4 - 1/2)^2 = (1/4 - 1/2)^2 = 1/16, mean 1/16; (1/4 - 3/4)^2 twice, mean 1/4; 1/16 + 1/4 = 5/16
    assert float(found["unsup/consistency"].total) == pytest.approx(5 / 16)
    assert int(found["unsup/consistency"].count) == 2
    assert float(found["sup/ce"].total) == pytest.approx(math.log(4 / 3))  # -ln(3/4)
    assert int(found["sup/ce"].count) == 1


def test_kl_is_that_of_the_teacher_from_the_student_summed_over_classes():
    # Teacher (1/2, 1/2), student (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2 = -.202733 + .346574 = .143841.
    student, teacher = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    assert consistency(student, teacher, "kl").tolist() == pytest.approx([0.143841], abs=1e-6)
    # The other way round it would be 3/4 ln(3/2) + 1/4 ln(1/2) = .130812; squared: (1/16 + 1/16) / 2 = 1/16.
    assert consistency(student, teacher, "mse").tolist() == pytest.approx([1 / 16])
    images = batch(14, classes=[], teacher=[EVEN])
    found = method(consistency_loss="kl").terms(torch.tensor([FIRST]), images)["unsup/consistency"]
    assert float(found.total) == pytest.approx(float(consistency(torch.tensor([FIRST]), torch.tensor([EVEN]), "kl")))


def test_the_consistency_has_the_weight_that_is_configured():
    assert method().loss_weights == {"sup/ce": 1.0, "unsup/consistency": 7.0}
    assert method(consistency_weight=0.5).loss_weights["unsup/consistency"] == 0.5


def test_the_consistency_pulls_the_student_towards_the_teacher():
    student = torch.tensor([FIRST], requires_grad=True)
    images = batch(14, classes=[], teacher=[EVEN])
    method().terms(student, images)["unsup/consistency"].total.backward()
    # With p = 3/4 and q = 1/2 of class 0 the loss is (p - q)^2; dp/dy = p (1 - p): 2 x 1/4 x 3/16 = 3/32
    assert student.grad is not None
    assert student.grad.tolist()[0] == pytest.approx([3 / 32, -3 / 32])


def test_a_step_of_unlabelled_images_moves_the_student_in_proportion_to_the_weight():
    """The whole way: forward, term, weight, backward."""

    def slope(weight: float) -> list[float]:
        own = method(consistency_weight=weight)
        student = own.build_model(2)
        torch.nn.init.zeros_(student.last.weight)
        torch.nn.init.zeros_(student.last.bias)  # it says 1/2 1/2 of every image
        module = StepModule(student, own, device=torch.device("cpu"), dtype=None)
        weights = torch.tensor(list(own.loss_weights.values()))
        images = batch(14, classes=[], teacher=[FIRST, FIRST])
        backward(module, images, weights, Group(), names=tuple(own.loss_weights))
        assert student.last.bias.grad is not None
        found: list[float] = student.last.bias.grad.tolist()
        return found

    # p = 1/2, q = 3/4: 2 (p - q) p (1 - p) = 2 x -1/4 x 1/4 = -1/8, the mean of two equal ones
    assert slope(1.0) == pytest.approx([-1 / 8, 1 / 8])
    assert slope(7.0) == pytest.approx([-7 / 8, 7 / 8])


def test_a_step_of_the_burn_in_has_no_consistency():
    found = method().terms(torch.tensor([FIRST]), batch(3, classes=[0], teacher=[]))
    assert (float(found["unsup/consistency"].total), int(found["unsup/consistency"].count)) == (0.0, 0)


@pytest.mark.parametrize(
    ("step", "exponent"),
    [
        (4, -5.0),  # t = 0: -5 x 1^2
        (9, -1.25),  # t = 5/10: -5 x (1/2)^2
        (12, -0.2),  # t = 8/10: -5 x (1/5)^2
        (14, 0.0),  # t = 1
        (1000, 0.0),
    ],
)
def test_the_weight_grows_along_a_gaussian_from_the_steps_since_the_teacher_appeared(step: int, exponent: float):
    assert consistency_at(step) == pytest.approx(math.exp(exponent))


def test_without_a_ramp_the_weight_is_whole_at_once():
    found = method(ramp_up_steps=0).terms(torch.tensor([FIRST]), batch(4, classes=[], teacher=[EVEN]))
    assert float(found["unsup/consistency"].total) == pytest.approx(1 / 16)
