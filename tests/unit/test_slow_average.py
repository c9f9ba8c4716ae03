"""A teacher that averages more slowly than its run lasts is still the network it began with, and that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.contract import Teacher
from raydet.registry import build_method
from raydet.train.launch import slow_average
from tests.helpers import tiny_config, tiny_soft


def test_what_an_average_still_holds_of_its_start():
    # .9 ** 3 = .729; Soft Teacher's law, 1 - 1 / (s + 2): 1/2 * 2/3 * 3/4 = 1/4
    assert Teacher(2, lambda step: 0.9).share_of_start(5) == pytest.approx(0.729)
    assert Teacher(0, lambda step: 1 - 1 / (step + 2)).share_of_start(3) == pytest.approx(0.25)
    assert Teacher(5, lambda step: 0.9).share_of_start(5) == 1


def test_an_average_that_is_mostly_its_start_is_said_with_a_rate_that_is_not():
    # .9996 ** 400 = .852; a fifth of 400 steps: 1 - 1 / 80 = .9875
    (said,) = slow_average(Teacher(100, lambda step: 0.9996), 500)
    assert "at the end 85% of it is still the network of step 100" in said
    assert "method.ema_keep_rate=0.987 or lower" in said
    (said,) = slow_average(Teacher(0, lambda step: 0.9), 3)  # .729
    assert "method.ema_keep_rate=0 looks back over a fifth of them" in said


@pytest.mark.parametrize(
    "teacher",
    [
        None,  # there is no average
        Teacher(100, lambda step: 0.99),  # .99 ** 400 = .018
        Teacher(500, lambda step: 0.9996),  # the burn-in is all
        Teacher(100, lambda step: 0.9996, judged=False),  # it is not what comes out
    ],
)
def test_nothing_is_said_where_it_does_not_matter(teacher: Teacher | None):
    assert slow_average(teacher, 500) == []


def test_the_papers_rates_suit_the_papers_lengths():
    long = {"optim__steps": 180_000}
    unbiased = tiny_config(Path("unused"), **long, method={"name": "unbiased_teacher", "burn_in_steps": 2000})
    for config in (unbiased, tiny_soft(Path("unused"), **long)):
        assert slow_average(build_method(config).teacher(), 180_000) == []
