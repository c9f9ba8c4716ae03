"""The weight of every term of every method, as the papers have it, and the steps at which a run changes its nature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydet.config.run import RunConfig
from raydet.registry import build_method, config_classes
from tests.helpers import tiny_classes, tiny_config, tiny_places, tiny_soft, tiny_views

SUP = {"sup/rpn_cls": 1.0, "sup/rpn_reg": 1.0, "sup/roi_cls": 1.0, "sup/roi_reg": 1.0}
SOFT = SUP | {"unsup/rpn_cls": 5.0, "unsup/rpn_reg": 5.0, "unsup/roi_cls": 5.0, "unsup/roi_reg": 5.0}
SOFT |= {"unsup/boxes_rpn": 0.0, "unsup/boxes_cls": 0.0, "unsup/boxes_reg": 0.0}  # counts, for the log
UNBIASED = SUP | {"unsup/rpn_cls": 3.0, "unsup/rpn_reg": 0.0, "unsup/roi_cls": 3.0, "unsup/roi_reg": 0.0}
IOU = {"sup/iou": 1.0, "unsup/iou": 6.0, "sup/iou_positive": 0.0, "unsup/iou_positive": 0.0}


def detector(**method: Any) -> RunConfig:
    return tiny_config(Path("unused"), method={"burn_in_steps": 2, **method})


def soft(**method: Any) -> RunConfig:
    return tiny_soft(Path("unused"), method={"unsup_weight": 5.0, "burn_in_steps": 2, **method})


def classifier(steps: int = 20, **method: Any) -> RunConfig:
    return tiny_classes(Path("unused"), optim__steps=steps, method={"burn_in_steps": 2, **method})


def localizer(**method: Any) -> RunConfig:
    return tiny_places(Path("unused"), method={"burn_in_steps": 2, **method})


def pretrained(**method: Any) -> RunConfig:
    return tiny_views(Path("unused"), method=method)


R2D2 = {"d2_steps": 2, "reprediction_interval_steps": 1, "repeat_lrs": [0.05], "finetune_steps": 2, "burn_in_batch": 8}
CASES: dict[str, tuple[RunConfig, dict[str, float], tuple[int, ...]]] = {
    "supervised": (detector(name="supervised"), SUP, (2,)),
    "unbiased_teacher": (detector(name="unbiased_teacher", unsup_cls_weight=3.0), UNBIASED, (2,)),
    "il_net": (
        detector(name="il_net", unsup_cls_weight=3.0, unsup_reg_weight=7.0, unsup_iou_weight=6.0),
        UNBIASED | {"unsup/rpn_reg": 7.0, "unsup/roi_reg": 7.0} | IOU,
        (2,),
    ),
    "soft_teacher": (soft(), SOFT, (2,)),
    "gradient_sampling": (soft(name="gradient_sampling"), SOFT, (2,)),
    "logit_adjustment": (soft(name="logit_adjustment"), SOFT, (2,)),
    "eqlv2": (soft(name="eqlv2"), SOFT, (2,)),
    "classifier_retraining": (soft(name="classifier_retraining", retrain_from_step=4), SOFT, (2, 4)),
    "supervised_classifier": (classifier(name="supervised_classifier"), {"sup/ce": 1.0}, (2,)),
    "mean_teacher": (
        classifier(name="mean_teacher", consistency_weight=9.0),
        {"sup/ce": 1.0, "unsup/consistency": 9.0},
        (2,),
    ),
    "pseudo_label": (
        classifier(name="pseudo_label", unsup_weight=9.0, reprediction_interval_steps=2),
        {"sup/ce": 1.0, "unsup/ce": 9.0},
        (2,),
    ),
    "r2d2": (
        classifier(8, name="r2d2", **R2D2, class_loss_weight=0.5, entropy_weight=0.25, labeled_loss="ce"),
        {"sup/ce": 1.0, "d2/ce": 1.0, "d2/class": 0.5, "d2/entropy": 0.25, "finetune/ce": 1.0},
        (2, 4, 6),
    ),
    "lchp": (
        localizer(name="lchp", init_reg_weight=9.0),
        {"init/cls": 1.0, "init/reg": 9.0, "refine/reg": 1.0},
        (2,),
    ),
    "psol": (localizer(name="psol"), {"init/cls": 1.0, "boxes/reg": 1.0}, (2,)),
    "cam": (localizer(name="cam", burn_in_steps=0), {"init/cls": 1.0}, ()),
    "soco": (pretrained(name="soco"), {"det/sim": 1.0, "det/swapped": 1.0}, ()),
    "adept": (
        pretrained(name="adept", rpn_reg_weight=9.0),
        {"det/sim": 1.0, "det/swapped": 1.0, "rpn/cls": 1.0, "rpn/reg": 9.0},
        (),
    ),
}


def test_every_method_has_its_weights_here():
    missing, gone = sorted(config_classes().keys() - CASES.keys()), sorted(CASES.keys() - config_classes().keys())
    assert not missing, f"methods whose weights nobody wrote down: add {missing} to CASES of {Path(__file__).name}"
    assert not gone, f"CASES of {Path(__file__).name} names methods that do not exist: {gone}"


@pytest.mark.parametrize("name", CASES)
def test_terms_have_the_weights_that_are_set(name: str):
    config, weights, stage_ends = CASES[name]
    method = build_method(config)
    assert method.loss_weights == weights
    assert method.stage_ends == stage_ends


def test_the_heads_of_a_cascade_share_a_weight_as_they_are_told_to():
    config = tiny_config(
        Path("unused"),
        model__detector="cascade_rcnn",
        model__cascade_loss_weights=[1.0, 0.5, 0.25],
        method={"name": "unbiased_teacher", "burn_in_steps": 2, "unsup_cls_weight": 3.0},
    )
    found = build_method(config).loss_weights
    assert [found[f"sup/roi_cls{head}"] for head in ("", "_2", "_3")] == [1.0, 0.5, 0.25]
    assert [found[f"unsup/roi_cls{head}"] for head in ("", "_2", "_3")] == [3.0, 1.5, 0.75]
    assert [found[f"sup/roi_reg{head}"] for head in ("", "_2", "_3")] == [1.0, 0.5, 0.25]
    assert (found["sup/rpn_cls"], found["unsup/rpn_cls"]) == (1.0, 3.0)


def test_a_method_has_the_terms_of_its_stages():
    assert build_method(localizer(name="lchp", stage="init")).loss_weights == {"init/cls": 1.0, "init/reg": 20.0}
    assert build_method(localizer(name="lchp", stage="init")).stage_ends == ()
    assert build_method(localizer(name="lchp", stage="pseudo_label_only")).loss_weights == {"init/cls": 1.0}


def test_the_threshold_of_cam_comes_first_and_once():
    def of(threshold: float) -> tuple[float, ...]:
        return build_method(localizer(name="cam", burn_in_steps=0, cam_threshold=threshold)).thresholds

    assert of(0.2) == (0.2, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert of(0.15) == (0.15, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
