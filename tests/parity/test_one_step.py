"""One step of the engine against `plain_step`, which shares none of raydet's losses, views or NMS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.data.order import BatchOrder
from raydet.families.detection.data import BOXES
from raydet.registry import build_method
from raydet.train.checkpoint import open_checkpoint
from raydet.train.launch import launch
from tests.helpers import tiny_config
from tests.parity import plain_step

BURN_IN, STEP = 3, 6  # the step that is looked at, counted from 0
SHAPES = {"num_images": 24, "height": 48, "width": 72, "max_objects": 3}
SETTINGS: dict[str, Any] = {
    **plain_step.SURE,
    "data.labeled.shapes": SHAPES,
    "model.roi_fg_iou": 0.1,
    "model.rpn_post_nms_test": 7,  # were they used for labels, the pseudo-boxes would be others
    "method.burn_in_steps": BURN_IN,
    "method.ema_keep_rate": 0.5,
    "method.score_threshold": 0.16,
    "method.iou_target_threshold": 0.3,
    "method.iou_filter_threshold": 0.515,
    "method.unsup_reg_weight": 0.5,
    "method.sup_iou_weight": 1.5,
    "optim.lr": 5e-3,
    "optim.steps": STEP + 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 100,
}


def weights(folder: Any, step: int, part: str) -> dict[str, torch.Tensor]:
    return open_checkpoint(folder.checkpoints / f"step_{step:08d}").tensors(part)


def model_of(config: Any, folder: Any, step: int, part: str, num_classes: int) -> Any:
    model = build_method(config).build_model(num_classes)
    model.load_state_dict(weights(folder, step, part))
    return model.eval()


@pytest.mark.parametrize("name", ["il_net", "unbiased_teacher"])
def test_a_step_is_the_papers_without_any_of_our_losses_views_or_nms(name: str, tmp_path: Path) -> None:
    settings = dict(SETTINGS)
    if name == "unbiased_teacher":
        settings = {key: value for key, value in SETTINGS.items() if not key.startswith("method.")}
        settings["method"] = {"name": name, "burn_in_steps": BURN_IN, "ema_keep_rate": 0.5, "score_threshold": 0.16}
    config = tiny_config(tmp_path / "run", **{key.replace(".", "__"): value for key, value in settings.items()})
    folder, step = launch(config), STEP
    data = BOXES.open(folder.data)
    orders = {
        name: BatchOrder(len(index), 4, config.seed, name).positions(step).tolist()
        for name, index in (("labeled", data.labeled), ("unlabeled", data.unlabeled))
    }
    labeled = []
    for row in orders["labeled"]:
        target = data.labeled.target_at(row)
        boxes = plain_step.flipped(target.boxes, *data.labeled.size_at(row))
        labeled.append((plain_step.weak(data.labeled.file_at(row)), plain_step.Boxes(boxes, target.classes + 1)))
    unlabeled = [plain_step.weak(data.unlabeled.file_at(row)) for row in orders["unlabeled"]]

    student = model_of(config, folder, step, "student", len(data.class_names))
    teacher = model_of(config, folder, step, "teacher", len(data.class_names))
    found = plain_step.one_step(student, teacher, labeled, unlabeled, config.method)
    if name == "il_net":
        assert found.dropped > 0 and found.kept > 0, "the test needs a gate that drops boxes and keeps some"
    assert sum(len(each.boxes) for each in found.pseudo) > 0, "the test needs pseudo-boxes"

    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    (said,) = [line for line in lines if line["kind"] == "step" and line["step"] == step + 1]
    for name, value in found.terms.items():
        assert said[f"loss/{name}/raw"] == pytest.approx(value.item(), rel=2e-5, abs=1e-7), name
    assert said["pseudo/boxes_per_image"] == sum(len(each.boxes) for each in found.pseudo) / 4

    found.loss.backward()
    before, after = weights(folder, step, "optimizer"), weights(folder, step + 1, "optimizer")
    for name, parameter in student.named_parameters():
        # Adam: average <- 0.9 * average + 0.1 * gradient, so the gradient that the engine took can be read back.
        average, next_average = (state[f"exp_avg/{name}"] for state in (before, after))
        taken = (next_average - 0.9 * average) / 0.1
        torch.testing.assert_close(taken, parameter.grad, rtol=1e-3, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
