"""LARS: facts 6 and 7 of ADePT, against timm's, and goings-on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raydet.config.optim import OptimConfig
from raydet.contract import ParamGroup
from raydet.learning_rate import lr_at
from raydet.train.lars import Lars
from raydet.train.optim import build_optimizer, set_lrs

EVERYTHING = [ParamGroup("all", lambda name: True, lambda step: 0.1)]
LARS = OptimConfig(name="lars", lr=0.1, momentum=0.9, weight_decay=1e-5, warmup_steps=0)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(pixels).square().mean().backward()
        optimizer.step()


def test_a_layers_step_is_a_share_of_its_weights():
    weight = nn.Parameter(torch.full((4,), 2.0))  # |w| = sqrt(4 * 2^2) = 4
    weight.grad = torch.full((4,), 0.5)  # |g| = sqrt(4 * .5^2) = 1
    groups = [{"params": [weight], "weight_decay": 1e-5}]
    Lars(groups, lr=1.0, momentum=0.0, trust=0.001).step()
    # .001 * 4 / (1 + 1e-5 * 4) = .0039998; times g + decay * w = .50002: .0020
    assert weight.tolist() == pytest.approx([2 - 0.0039998 * 0.50002] * 4, abs=1e-7)


def test_decay_counts_in_the_share_too():
    weight = nn.Parameter(torch.full((4,), 2.0))
    weight.grad = torch.full((4,), 0.5)
    Lars([{"params": [weight], "weight_decay": 0.25}], lr=1.0, momentum=0.0, trust=0.1).step()
    # .1 * 4 / (1 + .25 * 4) = .2; times .5 + .25 * 2 = 1
    assert weight.tolist() == pytest.approx([1.8] * 4)


def test_momentum_gathers_what_was_scaled():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = Lars([{"params": [weight]}], lr=1.0, momentum=0.5, trust=0.1)
    weight.grad = torch.tensor([4.0])
    optimizer.step()
    assert weight.item() == pytest.approx(0.9)  # .1 * 1 / 4 * 4 = .1
    weight.grad = torch.tensor([-3.0])
    optimizer.step()
    assert weight.item() == pytest.approx(0.94)  # .1 * .9 / 3 * -3 = -.09; v = .5 * .1 - .09 = -.04


def test_biases_and_norms_take_plain_steps_without_decay():
    model = network()
    optimizer = build_optimizer(model, EVERYTHING, LARS)
    bias, before = model[3].bias, model[3].bias.detach().clone()
    train(model, optimizer, range(1))
    assert torch.equal(bias, before - 0.1 * bias.grad)
    weight, was = model[3].weight, network()[3].weight
    step = (weight.detach() - was.detach()).norm() / was.detach().norm()
    assert float(step) == pytest.approx(0.1 * 0.001, rel=1e-3)  # lr * trust


def test_a_layer_of_zeros_or_without_a_gradient_moves_as_sgd_would():
    zeros, still = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    zeros.grad, still.grad = torch.ones(2), torch.zeros(2)
    Lars([{"params": [zeros, still], "weight_decay": 0.5}], lr=0.1, momentum=0.0, trust=0.001).step()
    assert zeros.tolist() == pytest.approx([-0.1, -0.1])
    assert still.tolist() == pytest.approx([1 - 0.1 * 0.5] * 2)


def test_it_steps_as_timms_does():
    timm = pytest.importorskip("timm.optim", reason="timm is an extra")
    ours, theirs = network(), network()
    build = build_optimizer(ours, EVERYTHING, LARS)
    weights = [[p for p in theirs.parameters() if p.ndim > 1], [p for p in theirs.parameters() if p.ndim <= 1]]
    groups = [{"params": weights[0], "weight_decay": 1e-5}, {"params": weights[1], "weight_decay": 0.0}]
    train(ours, build, range(5))
    train(theirs, timm.Lars(groups, lr=0.1, momentum=0.9, trust_coeff=0.001, eps=0.0), range(5))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_what_it_has_gathered_is_all_that_it_needs_to_go_on():
    straight, model = network(), network()
    train(straight, build_optimizer(straight, EVERYTHING, LARS), range(6))
    first = build_optimizer(model, EVERYTHING, LARS)
    train(model, first, range(3))
    second = build_optimizer(model, EVERYTHING, LARS)
    for parameter, gathered in first.state.items():
        second.state[parameter] = {name: value.clone() for name, value in gathered.items()}
    train(model, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), model.parameters(), strict=True))


def test_a_frozen_group_stays_and_gathers_nothing():
    model = network()
    groups = [ParamGroup("head", lambda name: name.startswith("3"), lambda step: 0.1), *EVERYTHING]
    optimizer = build_optimizer(model, groups, LARS)
    model[0].weight.requires_grad_(False)
    set_lrs(optimizer, {"head": 0.1, "all": None})
    before = model[0].weight.clone()
    train(model, optimizer, range(2))
    assert torch.equal(model[0].weight, before)
    assert model[0].weight not in optimizer.state


def test_the_rate_falls_along_half_a_cosine():
    config = OptimConfig(name="lars", lr=0.1, warmup_steps=0, schedule="cosine", steps=100)
    at = [lr_at(step, config, uses_unlabeled=False) for step in (0, 25, 50, 75, 100)]
    assert at == pytest.approx([0.1, 0.085355, 0.05, 0.014645, 0.0], abs=1e-6)


def test_nesterovs_momentum_is_not_for_it():
    with pytest.raises(ValueError, match="nesterov is SGD's"):
        OptimConfig(name="lars", nesterov=True)


def test_its_trust_is_no_other_optimisers():
    with pytest.raises(ValueError, match="lars_trust is for name=lars, and name=sgd: remove it, or set name=lars"):
        OptimConfig(name="sgd", lars_trust=0.01)


def test_a_step_does_not_depend_on_the_scale_of_the_loss():
    moved = []
    for scale in (1e-3, 1.0, 1e3):
        weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
        weight.grad = scale * torch.tensor([[0.1, 0.4], [-0.2, 0.3]])
        Lars([{"params": [weight]}], lr=1.0, momentum=0.9, trust=0.001).step()
        moved.append(weight.detach())
    torch.testing.assert_close(moved[0], moved[1])
    torch.testing.assert_close(moved[2], moved[1])


def test_biases_among_matrices_are_refused():
    layer = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match="group 0 of LARS has both matrices and vectors"):
        Lars([{"params": list(layer.parameters())}], lr=0.1, momentum=0.9, trust=0.001, weight_decay=1e-5)
    apart = [{"params": [layer.weight]}, {"params": [layer.bias], "adapts": False, "weight_decay": 0.0}]
    Lars(apart, lr=0.1, momentum=0.9, trust=0.001, weight_decay=1e-5)
