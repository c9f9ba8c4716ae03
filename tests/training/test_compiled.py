"""A run whose network is compiled: the same names, and the same losses but for rounding."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.contract import Method
from raydet.metrics import read_metrics
from raydet.registry import build_method
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.vision.detector import Detector
from tests.helpers import tiny_classes, tiny_config

pytestmark = pytest.mark.timeout(600)


def steps(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in steps(run)]


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile wants a C++ compiler")
def test_a_compiled_run_has_the_losses_of_one_that_is_not_and_goes_on_to_the_bit(tmp_path: Path):
    torch.compiler.reset()
    # One size of views, and no evaluation: every kind of forward is compiled by itself, for a minute.
    change = {"data__views__max_long_side": 64, "data__val": None, "optim__steps": 3, "checkpoint__every": 2}
    change |= {"method": {"name": "unbiased_teacher", "burn_in_steps": 0, "score_threshold": 0.16}}
    launch(tiny_config(tmp_path / "plain", **change))
    launch(tiny_config(tmp_path / "whole", **change, model__compile=True))
    plain, whole = losses(tmp_path / "plain"), losses(tmp_path / "whole")
    assert whole[0] == pytest.approx(plain[0], rel=1e-4)  # later steps drift apart with borderline samples
    assert whole == pytest.approx(plain, rel=0.05)
    assert all(line["pseudo/boxes_per_image"] > 0 for line in steps(tmp_path / "whole"))  # a compiled teacher's
    launch(tiny_config(tmp_path / "two", **change, model__compile=True, run__stop_at=2))
    launch(tiny_config(tmp_path / "two", **change, model__compile=True), resume=True)
    assert losses(tmp_path / "two") == whole
    weights = [
        latest_checkpoint(RunFolder(tmp_path / run).checkpoints).tensors("student") for run in ("plain", "whole", "two")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])


def test_what_is_compiled_is_the_network_before_there_are_boxes():
    method = build_method(tiny_config(Path("unused"), model__compile=True))
    model = method.build_model(3)
    assert isinstance(model, Detector)
    assert method.compiled(model) == (model.backbone, model.rpn.head)


@pytest.mark.parametrize("config", [tiny_config(Path("unused")), tiny_classes(Path("unused"))], ids=["box", "class"])
def test_nothing_is_compiled_unless_that_is_asked_for(config):
    method: Method = build_method(config)
    assert method.compiled(method.build_model(3)) == ()
