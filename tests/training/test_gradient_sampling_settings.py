"""Gradient-based sampling's settings: the paper's, and what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydet.contract import DataSizes
from raydet.errors import CheckpointError, ConfigError, UserError
from raydet.families.detection.hosts import UnbiasedHost
from raydet.registry import build_method
from raydet.train.launch import launch
from raydet.vision.losses import cross_entropy, focal_cross_entropy
from raydet.window import Window
from tests.helpers import tiny_config, tiny_soft
from tests.integration.runs import saved
from tests.training.balanced import built, sampled, state_of, sums_of, updated


def test_the_defaults_are_the_papers():
    config = tiny_soft(Path("unused"), method={"name": "gradient_sampling"}).method
    assert (config.labeled_weight_exponent, config.crs_repeat_threshold_max) == (0.5, 0.5)
    assert (config.gbr_warmup_steps, config.gbt_warmup_steps, config.crs_warmup_steps) == (4000, 4000, 4000)
    assert (config.gbr_solver, config.gbr_ema, config.cls_focal_exponent) == ("jacobi", 0.999, 1.0)
    assert (config.labeled_sampling, config.unlabeled_sampling, config.rfs_repeat_threshold) == ("rfs", "crs", 0.1)


def test_what_is_left_out_follows_the_host():
    ut = {"name": "gradient_sampling", "host": "unbiased_teacher"}
    config = tiny_config(Path("unused"), method=ut, optim__steps=3000).method
    assert (config.burn_in_steps, config.ema_keep_rate) == (2000, 0.9996)
    assert (config.cls_pseudo_threshold, config.cls_focal_exponent) == (0.7, 1.5)
    method = build_method(tiny_config(Path("unused"), method=ut, optim__steps=3000))
    assert isinstance(method.host, UnbiasedHost) and method.recipe.roles == ("labeled-strong", "labeled-weak")
    given = tiny_config(Path("unused"), method={**ut, "burn_in_steps": 2}).method
    assert given.burn_in_steps == 2
    plain = tiny_soft(Path("unused"), method={"name": "gradient_sampling", "gbr_enabled": False}).method
    assert plain.cls_focal_exponent == 0


def test_thresholds_follow_the_teachers_scores_only_where_that_is_asked_for():
    # theta .19, floor .17; w = 4 softmax(a) = (1.2, .95, .6, 1.25), background first: theta / w = .2 .317 .152 of the
    # classes; scores .8 .4 .6, mean .6: theta s / mean = .253 .127 .19
    state = state_of()
    state.matrix, state.weight_logits = -torch.eye(4), torch.tensor([1.2, 0.95, 0.6, 1.25]).log()
    state.class_scores = torch.tensor([0.8, 0.4, 0.6])
    with_scores, without = built(gbt_warmup_steps=0), built(gbt_warmup_steps=0, gbt_use_class_score=False)
    assert with_scores.thresholds_at(state, 0).tolist() == pytest.approx([0.19, 0.17, 0.17])
    assert without.thresholds_at(state, 0).tolist() == pytest.approx([0.19, 0.19, 0.17])


@pytest.mark.parametrize("solver", ["jacobi", "direct"])
def test_class_weights_stay_inside_the_bounds_that_are_set(solver: str):
    w, state = torch.tensor([1.2, 0.3, 1.6, 0.9]), state_of()
    state.matrix, state.weight_logits, state.solved = -torch.eye(4), w.log(), w  # w = 4 softmax(ln w): they add up to 4
    narrow = built(gbr_solver=solver, class_weight_min=0.5, class_weight_max=1.5)
    assert narrow.class_weights(state).tolist() == pytest.approx([1.0, 0.5, 1.5, 0.9])  # background never above 1
    wide = built(gbr_solver=solver, class_weight_min=0.1, class_weight_max=9.0)
    assert wide.class_weights(state).tolist() == pytest.approx([1.0, 0.3, 1.6, 0.9])
    assert built(gbr_solver=solver).class_weights(state).tolist() == pytest.approx([1.0, 1 / 3, 1.6, 0.9])


def test_what_the_weight_logits_move_to_stays_inside_the_bounds_that_are_set():
    # C = [[-1, 1], [.25, -.25]], w = 1: targets (2 - 4, 4), of which the bounds leave (.5, 2): ln = -.693, .693;
    # a = -.1 * 2 / 2 * (0 - ln target) * (1 + 4)
    c = torch.tensor([[-1.0, 1.0], [0.25, -0.25]])
    settings: dict[str, object] = {"gbr_warmup_steps": 0, "weight_logits_lr": 0.1, "unsup_weight": 4.0}
    method, state = built(**settings, class_weight_min=0.5, class_weight_max=2.0), state_of(1)
    state.matrix = c
    updated(method, state, 0, sums_of(c))
    assert state.weight_logits.tolist() == pytest.approx([-0.5 * 0.693147, 0.5 * 0.693147], rel=1e-4)


def test_boxes_that_only_class_thresholds_let_through_are_no_alarm_and_none_at_all_are_one():
    window = Window(steps=1)
    window.increase({"images": 4, "candidates": 10, "kept": 3})
    window.raise_to("best_score", 0.7)
    settings: dict[str, object] = {"pseudo_score_floor": 0.5, "cls_pseudo_threshold": 0.9, "rpn_pseudo_threshold": 0.9}
    assert built(**settings).explain_barren(window) is None
    barren = Window(steps=1)
    barren.increase({"images": 4, "candidates": 10})
    barren.raise_to("best_score", 0.7)
    for is_on in (True, False):
        alarm = built(**settings, gbt_enabled=is_on).explain_barren(barren)
        assert alarm is not None and "best score is 0.70, method.cls_pseudo_threshold is 0.9" in alarm.message


def notes_of(steps: int, *, stop_at: int | None = None, **method: object) -> list[str]:
    """What is said at the start of a run whose weights begin at step 7, thresholds at 6, listings at 1 + 2 + 4 + 1."""
    warm_ups = {"gbr_warmup_steps": 6, "gbt_warmup_steps": 5, "crs_warmup_steps": 2, "crs_rebuild_steps": 4}
    settings = {"burn_in_steps": 1, **warm_ups, **method}
    config = sampled(Path("x"), method=settings, labels__lookahead=1, optim__steps=steps, run__stop_at=stop_at)
    return build_method(config).notes(DataSizes(5, 4, 3))[1:]


def test_parts_that_the_run_is_too_short_for_are_told_at_the_start():
    listed = "unlabelled images are listed anew at step 7 and every 4 steps, from 1 step later on"
    assert notes_of(9) == [listed]
    assert notes_of(9, stop_at=3) == [listed]  # the rest of the run is to come
    ends = ", but the run ends at step 6: lower what comes before, or raise optim.steps"
    by_boxes = "listings of unlabelled images by their pseudo-boxes (method.crs_warmup_steps, method.crs_rebuild_steps)"
    assert notes_of(6) == [
        f"warning: class weights (GbR, method.gbr_warmup_steps) would begin at step 7{ends}",
        f"warning: class thresholds (GbT, method.gbt_warmup_steps) would begin at step 6{ends}",
        f"warning: {by_boxes} would begin at step 8{ends}",
    ]
    assert [len(notes_of(steps)) for steps in (7, 8)] == [2, 1]  # thresholds begin, then weights too
    assert notes_of(6, gbr_enabled=False, gbt_enabled=False, unlabeled_sampling="random") == []


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ({"crs_rebuild_steps": 2}, {"labels__lookahead": 2}, "crs_rebuild_steps=2 must exceed labels.lookahead=2"),
        (
            {"crs_rebuild_steps": 50},
            {"labels__keep_versions": 100, "checkpoint__every": 60},
            "labels.keep_versions=100 deletes labels that method.crs_rebuild_steps=50 counts.*at least 111",
        ),
        (
            {"class_weight_min": 2.0},
            {},
            "method.class_weight_min=2.*1, the weight of balanced classes, must lie between",
        ),
        ({"labeled_sampling": "crs"}, {}, "method.labeled_sampling=.crs.: Input should be"),
        (
            {"pseudo_score_floor": 0.5, "cls_pseudo_threshold": 0.4, "rpn_pseudo_threshold": 0.9},
            {},
            "method.cls_pseudo_threshold=0.4 is below method.pseudo_score_floor=0.5",
        ),
        (
            {"pseudo_score_floor": 0.92, "cls_pseudo_threshold": 0.95, "rpn_pseudo_threshold": 0.9},
            {},
            "method.rpn_pseudo_threshold=0.9 is below method.pseudo_score_floor=0.92",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(method: dict[str, object], changes: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        sampled(Path("unused"), method=method, **changes)


def test_soft_teachers_gates_are_not_for_unbiased_teacher():
    with pytest.raises(ConfigError, match="method.jitter_times: for method.host=soft_teacher alone"):
        tiny_config(
            Path("unused"),
            method={"name": "gradient_sampling", "host": "unbiased_teacher", "burn_in_steps": 2, "jitter_times": 5},
        )


def test_the_floor_on_unbiased_teacher_may_exceed_a_threshold_that_is_soft_teachers_alone():
    ut = {"name": "gradient_sampling", "host": "unbiased_teacher", "burn_in_steps": 2, "pseudo_score_floor": 0.92}
    config = tiny_config(Path("unused"), method={**ut, "cls_pseudo_threshold": 0.95}).method
    assert (config.pseudo_score_floor, config.rpn_pseudo_threshold) == (0.92, 0.9)  # .9 < .92, and nobody reads the .9
    with pytest.raises(ConfigError) as error:
        tiny_config(Path("unused"), method={**ut, "cls_pseudo_threshold": 0.91})
    said = str(error.value)
    assert "method.cls_pseudo_threshold=0.91 is below method.pseudo_score_floor=0.92" in said and "rpn" not in said


def test_without_unlabelled_images_the_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="needs unlabelled images"):
        launch(sampled(tmp_path / "run", data__labeled_count=None))
    with pytest.raises(UserError, match="needs unlabelled images"):
        launch(sampled(tmp_path / "run", data__labeled_count=24))


def test_one_class_is_trained_too_and_balanced_against_background_alone(tmp_path: Path):
    names = ("circle", "square", "triangle", "ellipse", "hexagon", "star")
    shapes = {"num_images": 24, "height": 64, "width": 96, "max_objects": 3}
    one = {"path": "shapes", "class_map": dict.fromkeys(names, "thing"), "shapes": shapes}
    run = launch(sampled(tmp_path / "run", data__labeled=one, data__val=None, optim__steps=6)).path
    learned = saved(run)
    assert learned["memory.matrix"].shape == (2, 2) and learned["memory.class_scores"].shape == (1,)
    assert all(bool(torch.isfinite(value).all()) for value in learned.values())
    up, down = learned["memory.matrix"].diagonal(), learned["memory.matrix"].sum(dim=1)
    assert bool((up < 0).all()) and down.tolist() == pytest.approx([0, 0], abs=1e-2)


def test_statistics_of_other_images_are_refused(tmp_path: Path):
    launch(sampled(tmp_path / "run", optim__steps=4, run__stop_at=3))
    data = tmp_path / "run" / "data"
    other = launch(sampled(tmp_path / "other", optim__steps=1, data__labeled_count=12)).path / "data"
    for file in [*data.glob("*.arrow"), data / "sources.json"]:
        file.write_bytes((other / file.name).read_bytes())
    with pytest.raises(CheckpointError, match="what it has learned is about other images"):
        launch(sampled(tmp_path / "run", optim__steps=4), resume=True)


def test_cross_entropy_is_the_focal_loss_of_exponent_zero():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(focal_cross_entropy(logits, labels, 0.0), cross_entropy(logits, labels))
