"""Runs on Cascade R-CNN: resumed bit for bit, refused where a method's paper knows nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.config.run import RunConfig
from raydet.errors import ConfigError, NonFiniteLossError
from raydet.families.detection.config import METHODS, detectors_of
from raydet.registry import build_method
from raydet.train.checkpoint import open_checkpoint
from raydet.train.launch import launch
from raydet.train.loop import Trainer
from tests.helpers import tiny_config, tiny_soft

CASCADE = {"model__detector": "cascade_rcnn", "model__cascade_ious": [0.2, 0.25, 0.3], "eval__max_images": 2}


def of(run: Path, **changes: Any) -> RunConfig:
    return tiny_config(run, **CASCADE, **changes)


def test_a_resumed_cascade_is_the_straight_one_bit_for_bit(tmp_path: Path):
    straight = launch(of(tmp_path / "straight"))
    launch(of(tmp_path / "halves", run__stop_at=5))
    halves = launch(of(tmp_path / "halves"), resume=True)
    for part in ("student", "teacher", "optimizer"):
        one, other = (
            open_checkpoint(folder.checkpoints / "step_00000008").tensors(part) for folder in (straight, halves)
        )
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


def test_a_head_that_is_broken_ends_the_run_with_the_names_of_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = Trainer.optimizer_step

    def breaking(self: Trainer, s: int, grad_norm: torch.Tensor) -> None:
        real(self, s, grad_norm)
        if s == 1:
            for parameter in self.state.student.roi_heads.heads[0].parameters():
                torch.nn.init.constant_(parameter, torch.nan)

    monkeypatch.setattr(Trainer, "optimizer_step", breaking)
    config = of(tmp_path / "run", method={"name": "supervised", "burn_in_steps": 0})
    # The first head moves the RoIs of the other two to NaN: they are pooled all the same.
    with pytest.raises(NonFiniteLossError, match="step 2: sup/roi_cls, sup/roi_reg, .*not finite"):
        launch(config)


def test_every_head_has_weights_of_its_losses(tmp_path: Path):
    config = of(tmp_path / "run", model__cascade_loss_weights=[1.0, 0.5, 0.25])
    weights = build_method(config).loss_weights
    # IL-net: alpha 4 on classes, beta 1 on boxes of unlabelled images
    assert [weights[f"unsup/roi_cls{k}"] for k in ("", "_2", "_3")] == [4.0, 2.0, 1.0]
    assert [weights[f"sup/roi_reg{k}"] for k in ("", "_2", "_3")] == [1.0, 0.5, 0.25]
    assert weights["unsup/iou"] == 4.0  # one branch, on the last head
    assert list(weights).count("sup/iou") == 1


def test_supervised_unbiased_teacher_and_il_net_are_the_methods_on_a_cascade():
    able = [each.called() for each in METHODS if "cascade_rcnn" in detectors_of(each)]
    assert able == ["supervised", "unbiased_teacher", "il_net"]
    assert all("faster_rcnn" in detectors_of(each) for each in METHODS)


@pytest.mark.parametrize("name", ["soft_teacher", "eqlv2", "gradient_sampling"])
def test_another_method_is_refused_with_what_to_change(name: str, tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        tiny_soft(tmp_path / "run", method={"name": name}, model__detector="cascade_rcnn")
    assert (
        f"model.detector=cascade_rcnn: method.name={name} is published, and defined, for faster_rcnn alone; set "
        f"model.detector=faster_rcnn, or method.name to one of supervised, unbiased_teacher, il_net"
    ) in str(caught.value)
