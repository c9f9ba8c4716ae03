"""Learning-rate law and optimiser groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from raydet.config.run import OptimConfig, RunConfig
from raydet.contract import ParamGroup
from raydet.learning_rate import base_lr, lr_at
from raydet.registry import build_method
from raydet.train.optim import build_optimizer, set_frozen, set_lrs
from tests.helpers import TINY, tiny_classes, tiny_config, tiny_views

EVERYTHING = [ParamGroup("all", lambda name: True, lambda step: 0.1)]


def test_warm_up_starts_at_a_thousandth_and_ends_at_the_full_rate():
    config = OptimConfig(lr=0.0075, warmup_steps=1000)
    assert lr_at(0, config, uses_unlabeled=True) == pytest.approx(7.5e-6)  # 0.0075 / 1000
    assert lr_at(500, config, uses_unlabeled=True) == pytest.approx(0.0075 * (0.0005 + 0.5))  # half way from 0.001
    assert lr_at(1000, config, uses_unlabeled=True) == 0.0075


def test_each_boundary_divides_the_rate_by_ten():
    config = OptimConfig(lr=0.0075, warmup_steps=0, decay_at=(179_990, 179_995))
    assert lr_at(179_989, config, uses_unlabeled=True) == 0.0075
    assert lr_at(179_990, config, uses_unlabeled=True) == pytest.approx(0.00075)
    assert lr_at(179_995, config, uses_unlabeled=True) == pytest.approx(0.000075)


def test_linear_scaling_follows_the_global_batch():
    config = OptimConfig(lr=0.0075, lr_scaling="linear", labeled_batch=4, unlabeled_batch=8, reference_batch=24)
    assert base_lr(config, uses_unlabeled=True) == pytest.approx(0.0075 * 12 / 24)


def test_linear_scaling_counts_no_unlabelled_images_where_none_are_used():
    # unlabeled_batch stays at its default of 12: (256 + 12) / 256 = 1.046875
    config = OptimConfig(lr=1.0, lr_scaling="linear", labeled_batch=256, reference_batch=256, warmup_steps=0)
    assert base_lr(config, uses_unlabeled=True) == 1.046875
    assert base_lr(config, uses_unlabeled=False) == 1.0
    assert lr_at(0, config, uses_unlabeled=False) == 1.0


def test_a_method_scales_its_rate_by_the_images_that_it_reads():
    law = {
        "optim__lr": 0.24,
        "optim__lr_scaling": "linear",
        "optim__labeled_batch": 4,
        "optim__unlabeled_batch": 8,
        "optim__reference_batch": 24,
    }

    def rate(config: RunConfig) -> float:
        return build_method(config).lr_at(0)

    both, labeled_alone = pytest.approx(0.12), pytest.approx(0.04)  # .24 * (4 + 8) / 24, .24 * 4 / 24
    supervised = {"name": "supervised", "burn_in_steps": 0}
    assert rate(tiny_config(Path("a"), method=TINY["method"], **law)) == both
    assert rate(tiny_config(Path("a"), method=supervised, **law)) == labeled_alone
    assert rate(tiny_classes(Path("a"), method={"name": "pseudo_label", "burn_in_steps": 2}, **law)) == both
    assert rate(tiny_classes(Path("a"), method={"name": "supervised_classifier"}, **law)) == labeled_alone
    assert rate(tiny_views(Path("a"), **law)) == labeled_alone


def test_norms_and_biases_are_not_decayed_and_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 3), nn.GroupNorm(1, 3), nn.Linear(3, 1))
    model[2].weight.requires_grad_(False)
    decayed, exempt = build_optimizer(model, EVERYTHING, OptimConfig(weight_decay=0.01)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 2)]
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.01, 0.0)
    assert len(exempt["params"]) == 4  # two biases, norm weight and bias


def two_laws() -> list[ParamGroup]:
    """The body learns at .1 and is frozen from step 5 on; the rest (the last layer) learns at .01."""
    body = ParamGroup("body", lambda name: name.startswith("0."), lambda step: 0.1 if step < 5 else None)
    return [body, ParamGroup("rest", lambda name: True, lambda step: 0.01)]


def test_each_group_of_parameters_has_its_own_law_of_the_learning_rate():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = build_optimizer(model, two_laws(), OptimConfig(weight_decay=0.01))
    set_lrs(optimizer, {group.name: group.lr_at(4) for group in two_laws()})
    found = [
        (g["name"], g["lr"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in optimizer.param_groups
    ]
    assert found == [
        ("body", 0.1, 0.01, [(3, 2)]),
        ("body", 0.1, 0.0, [(3,)]),
        ("rest", 0.01, 0.01, [(1, 3)]),
        ("rest", 0.01, 0.0, [(1,)]),
    ]
    with pytest.raises(ValueError, match="parameter 1.weight matches none of the groups"):
        build_optimizer(model, two_laws()[:1], OptimConfig())


def test_a_group_without_a_rate_is_frozen_and_what_the_model_froze_stays_so():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[1].bias.requires_grad_(False)  # by the model itself
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)

    def trained() -> list[str]:
        return [name for name, p in model.named_parameters() if p.requires_grad]

    assert not set_frozen(model, two_laws(), 4, trainable)  # nothing changes
    assert set_frozen(model, two_laws(), 5, trainable) and trained() == ["1.weight"]
    assert set_frozen(model, two_laws(), 0, trainable) and trained() == ["0.weight", "0.bias", "1.weight"]
