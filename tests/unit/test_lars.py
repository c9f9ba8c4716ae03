"""LARS: its arithmetic, what it leaves out, and the run around it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from raydet.config.optim import OptimConfig
from raydet.contract import ParamGroup
from raydet.errors import CheckpointError
from raydet.learning_rate import lr_at
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.lars import Lars, factors
from raydet.train.launch import launch
from raydet.train.optim import build_optimizer, set_lrs
from tests.helpers import tiny_config

EVERYTHING = [ParamGroup("all", lambda name: True, lambda step: 0.1)]


def parameter(values: list[float], gradient: list[float], shape: tuple[int, ...]) -> nn.Parameter:
    found = nn.Parameter(torch.tensor(values).reshape(shape))
    found.grad = torch.tensor(gradient).reshape(shape)
    return found


def test_the_factor_is_trust_times_the_ratio_of_weight_and_decayed_gradient():
    weight, gradient = torch.full((2, 2), 2.0), torch.full((2, 2), 0.5)
    # |w| = 4, |g| = 1: .001 * 4 / (1 + 1e-5 * 4) = .00399984
    (found,) = factors([weight], [gradient], 1e-5, 0.001)
    assert float(found) == pytest.approx(0.00399984, rel=1e-6)
    # times g + wd w = .5 + 2e-5: .0019999999...
    assert float(found * (0.5 + 1e-5 * 2)) == pytest.approx(0.0020, rel=1e-4)


def test_two_steps_with_momentum_by_hand():
    weight = parameter([2.0] * 4, [0.5] * 4, (2, 2))
    optimizer = Lars([weight], 0.1, momentum=0.9, weight_decay=1e-5)
    optimizer.step()
    assert weight.flatten().tolist() == pytest.approx([2 - 0.1 * 0.002] * 4, rel=1e-7)  # 1.9998
    optimizer.step()  # |w| = 3.9996, |g| = 1: factor .0039994, v = .9 * .002 + .0039994 * .50002 = .0037998
    assert weight.flatten().tolist() == pytest.approx([1.9998 - 0.1 * 0.0037998] * 4, rel=1e-7)


def test_what_has_one_dimension_takes_a_plain_step_also_in_one_group_with_the_rest():
    weight, bias = parameter([2.0] * 4, [0.5] * 4, (2, 2)), parameter([2.0] * 4, [0.5] * 4, (4,))
    optimizer = Lars([weight, bias], 0.1, momentum=0.9, weight_decay=0.01)
    optimizer.step()
    assert bias.tolist() == pytest.approx([1.95] * 4)  # 2 - .1 * .5: neither decayed nor adapted
    assert weight[0, 0].item() == pytest.approx(2 - 0.1 * 0.001 * 4 / 1.04 * 0.52)


def test_a_weight_or_a_gradient_of_zero_has_factor_one():
    some, none = torch.ones(2, 2), torch.zeros(2, 2)
    assert [float(each) for each in factors([none, some], [some, none], 0.0, 0.001)] == [1.0, 1.0]


def test_a_parameter_without_a_gradient_is_left_alone_and_gradients_stay_as_they_are():
    weight, other = parameter([1.0] * 4, [0.5] * 4, (2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lars([weight, other], 0.1, momentum=0.0)
    optimizer.step()
    assert other.tolist() == [[1, 1], [1, 1]] and weight.grad.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert not optimizer.state


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_without_decay_a_step_does_not_depend_on_the_scale_of_the_loss(scale: float, seed: int):
    rng = torch.Generator().manual_seed(seed)
    values, gradient = torch.randn(3, 4, generator=rng), torch.randn(3, 4, generator=rng)
    moved = []
    for factor in (1.0, scale):
        weight = nn.Parameter(values.clone())
        weight.grad = gradient * factor
        Lars([weight], 1.0, momentum=0.9).step()
        moved.append(weight.detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-6)


def test_ten_steps_equal_timms():
    timm = pytest.importorskip("timm.optim", reason="compares with timm's Lars (pip install 'raydet[timm]')")
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    theirs = copy.deepcopy(ours)
    config = OptimConfig(name="lars", lr=0.3, weight_decay=1e-3)
    optimizer = build_optimizer(ours, EVERYTHING, config)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim <= 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]  # timm adapts what it decays
    other = timm.Lars(groups, lr=0.3, momentum=0.9, weight_decay=1e-3)
    before = copy.deepcopy(ours.state_dict())
    for _ in range(10):
        pixels = torch.randn(4, 3, 8, 8)
        for model, each in ((ours, optimizer), (theirs, other)):
            each.zero_grad()
            model(pixels).square().mean().backward()
            each.step()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-6, atol=1e-7)
        assert name.endswith("tracked") or not torch.equal(value, before[name])


def test_two_laws_of_the_learning_rate_hold_and_a_frozen_group_does_not_move():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    groups = [ParamGroup("body", lambda name: name.startswith("0."), lambda step: None), *EVERYTHING]
    optimizer = build_optimizer(model, groups, OptimConfig(name="lars", weight_decay=0.01))
    before = copy.deepcopy(model.state_dict())
    model(torch.ones(1, 2)).sum().backward()
    set_lrs(optimizer, {group.name: group.lr_at(0) for group in groups})
    optimizer.step()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == ["1.weight", "1.bias"]
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        ("body", 0.0, 0.01),
        ("body", 0.0, 0.0),
        ("all", 0.1, 0.01),
        ("all", 0.1, 0.0),
    ]


def test_the_cosine_of_pre_training():
    config = OptimConfig(name="lars", lr=0.1, schedule="cosine", steps=100, warmup_steps=0)
    found = [lr_at(epoch, config) for epoch in (0, 25, 50, 75, 100)]
    assert found == pytest.approx([0.1, 0.085355, 0.05, 0.014645, 0.0], abs=5e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sgd", "lars_trust": 0.01}, "lars_trust is LARS's, name=sgd: set name=lars"),
        ({"name": "lars", "nesterov": True}, "nesterov is SGD's: set name=sgd"),
        ({"name": "lars", "lars_trust": 0}, "greater than 0"),
        ({"name": "lars", "momentum": 1.1}, "less than or equal to 1"),
        ({"name": "larz"}, "'sgd', 'adamw' or 'lars'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        OptimConfig(**settings)


def test_numbers_that_no_step_can_be_made_of_are_refused():
    with pytest.raises(ValueError, match=r"LARS wants lr >= 0.*given are lr=-1"):
        Lars([nn.Parameter(torch.ones(1))], -1.0)


SETTINGS = {"optim__name": "lars", "optim__lr": 0.5, "optim__clip_norm": 1.0, "optim__schedule": "cosine"}


def test_a_run_split_by_a_resume_equals_the_straight_one_and_no_other_optimiser_takes_over(tmp_path: Path):
    straight = launch(tiny_config(tmp_path / "straight", **SETTINGS)).path
    run = launch(tiny_config(tmp_path / "run", **SETTINGS, run__stop_at=5)).path
    launch(tiny_config(run, **SETTINGS), resume=True)
    one, other = (latest_checkpoint(folder / "checkpoints") for folder in (straight, run))
    assert one.step == other.step == 8 and one.state["optimizer"] == "Lars"
    for kind in ("student", "teacher", "optimizer"):
        first, second = one.tensors(kind), other.tensors(kind)
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert all(name.startswith("momentum_buffer/") for name in one.tensors("optimizer"))
    burn_in = straight / "checkpoints" / "step_00000003"
    with pytest.raises(CheckpointError, match="was trained with Lars, optim.name is adamw; use the same"):
        launch(tiny_config(tmp_path / "fork", run__fork_from=str(burn_in)))
