"""What a burn-in depends on, and that a trial forked from a shared one equals the trial run alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.learning_rate import lr_at
from raydet.sweep.burn_in import burn_in_config, burn_in_key, sees
from tests.helpers import tiny_config, tiny_soft


@pytest.mark.parametrize(
    "changes",
    [
        {"method__score_threshold": 0.5},
        {"method__unsup_cls_weight": 2.0},
        {"method__unsup_reg_weight": 2.0},
        {"method__unsup_iou_weight": 2.0},
        {"method__iou_filter_threshold": 0.5},
        {"method__iou_filter_enabled": False},
        {"method__ema_keep_rate": 0.9},
        {"optim__steps": 20},
        {"optim__unlabeled_batch": 2},
        {"optim__decay_at": [5]},  # after the burn-in's 3 steps
        {"labels__lookahead": 2},
        {"eval__every": 1},
        {"run__dir": "elsewhere"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_act_later_leave_the_burn_in_as_it_is(changes: dict[str, object]):
    assert burn_in_key(tiny_config(Path("a"), **changes)) == burn_in_key(tiny_config(Path("a")))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"data__split_seed": 1},
        {"data__labeled_count": 9},
        {"method__burn_in_steps": 2},
        {"method__iou_target_threshold": 0.6},
        {"method__sup_iou_weight": 0.5},
        {"method__iou_branch__inputs": ["roi_features"]},
        {"method__iou_branch_enabled": False},
        {"optim__lr": 2e-3},
        {"optim__decay_at": [2]},  # within the burn-in
        {"optim__decay_at": [6, 1]},
        {"optim__labeled_batch": 2},
        {"model__roi_batch": 8},
        {"data__views__blur": 0.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_the_burn_in_sees_change_its_key(changes: dict[str, object]):
    assert burn_in_key(tiny_config(Path("a"), **changes)) != burn_in_key(tiny_config(Path("a")))


def test_with_linear_scaling_the_unlabelled_batch_is_part_of_the_learning_rate():
    def key(batch: int) -> str:
        return burn_in_key(tiny_config(Path("a"), optim__lr_scaling="linear", optim__unlabeled_batch=batch))

    assert key(2) != key(4)


def test_with_a_cosine_the_length_of_the_run_is_part_of_the_learning_rate(tmp_path: Path):
    base, longer = (tiny_config(tmp_path, optim__schedule="cosine", optim__steps=steps) for steps in (8, 20))
    assert burn_in_key(longer) != burn_in_key(base)
    made = burn_in_config(longer, base, tmp_path / "shared")
    assert made.optim.steps == 20 and made.last_step == 3
    # 0.001 x (1 + cos(2 pi / 20)) / 2; in a run of 8 steps it would be 0.00085
    assert lr_at(2, made.optim, uses_unlabeled=True) == pytest.approx(0.000975528, rel=1e-6)
    assert burn_in_key(made) == burn_in_key(longer)


def test_with_a_cosine_settings_that_act_later_still_leave_the_burn_in_as_it_is():
    one, other = (tiny_config(Path("a"), optim__schedule="cosine", method__unsup_reg_weight=w) for w in (1.0, 2.0))
    assert burn_in_key(one) == burn_in_key(other)


def test_a_burn_in_sees_a_key_unless_all_that_it_may_change_acts_later():
    config = tiny_config(Path("a"))
    assert not sees(config, ["method.score_threshold", "labels.lookahead", "optim.steps", "optim.unlabeled_batch"])
    for key in ("seed", "optim.lr", "optim.decay_at", "method.iou_target_threshold", "method.name"):
        assert sees(config, ["method.score_threshold", key])
    assert sees(tiny_config(Path("a"), optim__schedule="cosine"), ["optim.steps"])


def test_every_trial_of_a_group_means_the_same_burn_in(tmp_path: Path):
    base = tiny_config(tmp_path / "base")
    one = tiny_config(tmp_path / "one", method__unsup_reg_weight=2.0, optim__decay_at=[6], optim__unlabeled_batch=2)
    other = tiny_config(tmp_path / "other", method__score_threshold=0.5, optim__steps=20)
    folder = tmp_path / "shared"
    made = burn_in_config(one, base, folder)
    assert made == burn_in_config(other, base, folder)
    assert made.last_step == 3 and made.run.dir == str(folder)
    assert burn_in_key(made) == burn_in_key(one)


def test_the_burn_in_of_another_method_than_the_bases_has_a_length_that_its_settings_allow(tmp_path: Path):
    retraining = {"name": "classifier_retraining", "burn_in_steps": 3, "retrain_from_step": 30}
    trial = tiny_soft(tmp_path / "trial", method=retraining, optim__steps=40)
    burn_in = burn_in_config(trial, tiny_config(tmp_path / "base"), tmp_path / "shared")  # which has 8 steps
    assert (burn_in.optim.steps, burn_in.last_step) == (40, 3)
