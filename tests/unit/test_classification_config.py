"""Settings of classifiers that cannot be meant, and what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydet.config.class_data import ImageSetConfig
from raydet.config.load import read_yaml, resolve_section
from raydet.errors import ConfigError
from raydet.registry import config_classes
from raydet.settings import dump, parse, resolve
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from tests.helpers import TINY, TINY_CLASSES, tiny_classes

BASE = {**TINY_CLASSES, "run": {"dir": "runs/x"}}


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        tiny_classes(Path("runs/x"), **changes)
    return str(error.value)


def test_method_defaults_are_the_papers_setting():
    method = resolve({**BASE, "method": {"name": "r2d2"}}, {"optim.steps": 106_250}).method
    assert (method.class_loss_weight, method.entropy_weight, method.label_lr) == (0.1, 0.03, 4000)
    assert (method.labeled_logit_scale, method.class_loss_type) == (10, "kl_pred_to_pseudo")
    assert (method.burn_in_steps, method.d2_steps, method.finetune_steps) == (30_000, 35_700, 4_850)
    assert (method.reprediction_interval_steps, method.repeat_lrs) == (8_925, (0.12, 0.08, 0.04, 0.004))


def test_a_resolved_config_reads_back_equal():
    config = tiny_classes(Path("runs/x"))
    assert resolve(read_yaml(dump(config), "dump"), {}) == config
    assert parse(config.model_dump_json()) == config


def test_an_entropy_weight_that_is_not_below_the_class_loss_weight_is_refused():
    for weight in (0.1, 0.2):
        assert refused(method__entropy_weight=weight) == (
            f"tiny_classes: method.class_loss_weight=0.1 must be greater than method.entropy_weight={weight:g}: "
            f"otherwise the loss drives every prediction to one class, wherever it starts (R2-D2, section on Theorem "
            f"1), and training fails"
        )
    tiny_classes(Path("runs/x"), method__entropy_weight=0.0999)


def test_a_dropout_is_refused_where_the_network_has_none():
    assert refused(model={"network": "small_conv", "dropout": 0.1}).endswith(
        "network small_conv has no dropout: remove `dropout`, or use conv_large"
    )
    config = tiny_classes(Path("runs/x"), model={"network": "small_conv"})  # saved with every key, and read back
    assert parse(config.model_dump_json()) == config
    tiny_classes(Path("runs/x"), model={"network": "conv_large", "dropout": 0.1})


def test_a_run_too_short_for_its_stages_is_refused():
    assert refused(optim__steps=13) == (
        "tiny_classes: optim.steps=13 is less than method.burn_in_steps + d2_steps + finetune_steps = 4 + 6 + 4 = 14; "
        "raise it, or shorten a stage"
    )
    assert tiny_classes(Path("runs/x"), optim__steps=14).length == 14  # no repetition, then


@pytest.mark.parametrize(
    "changes",
    [
        {"optim__decay_at": [5]},
        {"optim__schedule": "cosine"},
        {"optim__lr_scaling": "linear"},
    ],
)
def test_a_second_law_of_the_learning_rate_is_refused(changes: dict[str, Any]):
    assert refused(**changes) == (
        "tiny_classes: r2d2 has a law of the learning rate of its own (burn_in_lr, optim.lr, repeat_lrs, finetune_lr): "
        "leave optim.decay_at empty, optim.schedule=steps and optim.lr_scaling=none"
    )


def test_an_unknown_method_is_answered_with_all_names():
    every = ", ".join(config_classes())
    assert every.startswith("supervised, unbiased_teacher, il_net, ") and ", r2d2, " in every
    assert refused(method__name="r2d3") == (
        f"tiny_classes: method.name='r2d3': expected one of {every}; did you mean r2d2?"
    )
    assert refused(method__name="zzz") == f"tiny_classes: method.name='zzz': expected one of {every}"


def test_settings_of_the_other_family_are_named_as_such():
    assert refused(model__backbone="small_gn") == (
        "tiny_classes: model.backbone: unknown key: for detectors or pre-trained networks, and method.name=r2d2 trains "
        "a classifier; remove what is not meant"
    )
    with pytest.raises(ConfigError) as error:
        resolve({**TINY, "run": {"dir": "x"}}, {"data.labeled_per_class": 4, "model.network": "small_conv"})
    assert str(error.value) == (
        "config: data.labeled_per_class: unknown key: for classifiers or localizers, and method.name=il_net trains a "
        "detector; remove what is not meant\n"
        "config: model.network: unknown key: for classifiers, and method.name=il_net trains a detector; remove what is "
        "not meant"
    )


def test_settings_of_other_methods_are_named_as_such():
    assert refused(method={"name": "mean_teacher", "d2_steps": 3, "reprediction_interval_steps": 4}).splitlines() == [
        "tiny_classes: method.d2_steps: unknown key: for method.name=r2d2, not for mean_teacher; remove what is not "
        "meant",
        "tiny_classes: method.reprediction_interval_steps: unknown key: for method.name=pseudo_label or r2d2, not for "
        "mean_teacher; remove what is not meant",
    ]


def test_a_data_set_by_itself_is_validated_with_the_same_words():
    with pytest.raises(ConfigError) as error:
        resolve_section(ImageSetConfig, {"path": "x", "label_colum": "y", "subset": 3}, where="x")
    assert str(error.value).splitlines() == [
        "x: subset=3: Input should be a valid string",
        "x: label_colum: unknown key; did you mean label_column?",
    ]
    with pytest.raises(ConfigError, match="zzz: unknown key; there are path, format, subset, image_column"):
        resolve_section(ImageSetConfig, {"path": "x", "zzz": 1}, where="x")


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"method__repeat_lrs": []}, "method.repeat_lrs is empty; give at least one learning rate"),
        (
            {"method__update_labeled": True, "method__labeled_loss": "ce"},
            "which labelled images do not have with method.labeled_loss=ce; switch one of them off",
        ),
        ({"method__class_loss_type": "kl"}, "method.class_loss_type"),
        ({"method__labeled_logit_scale": 0}, "method.labeled_logit_scale=0"),
        (
            {"model__network": "resnet18", "model__norm": "batch", "model__weights": "none"},
            "data.views.size=16 is too small for model.network=resnet18: use 64 or more, or another network",
        ),
        (
            {"model__network": "lenet2d", "model__norm": "batch"},
            "data.views.size=16 is too small for model.network=lenet2d: use 20 or more",
        ),
        ({"labels__publish_every": 5}, "labels.publish_every=5 has no effect with method.name=r2d2"),
        ({"labels__top_k": 5}, "labels.top_k: unknown key"),
        ({"eval__engine": "auto"}, "eval.engine: unknown key"),
        ({"model__network": "shake_shake26"}, "network shake_shake26 has no group norm"),
        ({"data__labeled_count": 6}, "labeled_per_class and labeled_count both choose the labelled images"),
        ({"data__labeled_per_class": None}, "method.name=r2d2 needs unlabelled images"),
    ],
)
def test_contradictions_and_wrong_values_say_what_to_change(changes: dict[str, Any], fragment: str):
    assert fragment in refused(**changes)


def test_every_rank_and_pass_has_an_image_in_every_stage():
    four = {"cluster__backend": "ray", "cluster__workers": 4, "optim__accumulate": 1}
    tiny_classes(Path("runs/x"), **four, method__finetune_batch=8)
    # 7 images may be 3 labelled and 4 unlabelled ones, or 2 and 5; 6 may be 3 and 3: none for the first of 4 ranks.
    assert refused(**four, method__finetune_batch=6) == (
        "tiny_classes: cluster.workers=4 x optim.accumulate=1 needs batches of at least that many images, and twice as "
        "many for fine-tuning, where labelled and unlabelled ones share a batch; method.burn_in_batch=8, "
        "method.finetune_batch=6"
    )
    assert "method.burn_in_batch=3" in refused(**four, method__burn_in_batch=3)


def test_a_started_r2d2_run_cannot_be_made_longer(tmp_path: Path):
    config = tiny_classes(tmp_path / "run", optim__steps=14, run__stop_at=1)
    launch(config)
    folder = RunFolder(tmp_path / "run")
    folder.check(tiny_classes(tmp_path / "run", optim__steps=14, optim__lr=0.01), resume=True)
    with pytest.raises(ConfigError) as error:
        launch(tiny_classes(tmp_path / "run"), resume=True)
    assert str(error.value) == (
        f"--resume: the configuration differs from the one {tmp_path / 'run'} was started with:\n"
        f"  optim.steps: 14 -> 20\n"
        f"set these back, or start a new run in another run.dir"
    )


def test_other_runs_can_be_made_longer(tmp_path: Path):
    method = {"name": "mean_teacher"}
    launch(tiny_classes(tmp_path / "run", method=method, run__stop_at=1))
    RunFolder(tmp_path / "run").check(tiny_classes(tmp_path / "run", method=method, optim__steps=30), resume=True)
