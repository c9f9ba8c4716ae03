"""Runs of LCHP: labels that it may not see, stages, resuming, forks, ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from raydet.data.located.index import LocatedIndex, write_located
from raydet.data.located.table import LocatedTable
from raydet.families.localization import data as family_data
from raydet.families.localization.loader import LocationLoader
from raydet.families.localization.method import localization_method
from raydet.families.localization.methods.lchp import Lchp
from raydet.metrics import read_metrics
from raydet.train.checkpoint import latest_checkpoint, open_checkpoint
from raydet.train.launch import launch
from tests.helpers import tiny_places
from tests.integration.runs import assert_same_bits, losses

# --- what it may not see ----------------------------------------------------------------------------------------------


def test_boxes_of_nan_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clean = launch(tiny_places(tmp_path / "clean", data__val=None))

    def poisoned(path: Path, table: LocatedTable) -> None:
        write_located(path, LocatedTable(table.images, table.first, np.full_like(table.boxes, np.nan)))

    monkeypatch.setattr(family_data, "write_located", poisoned)
    spoilt = launch(tiny_places(tmp_path / "spoilt", data__val=None))
    hidden = family_data.LOCATED.open_hidden(spoilt.data)
    assert hidden is not None and np.isnan(hidden.boxes_at(0)).all()  # there they are
    assert LocatedIndex.open(spoilt.data / "labeled.arrow").num_boxes == 0  # and here they are not
    assert_same_bits(clean.path, spoilt.path)
    assert json.loads((spoilt.data / "mean_box.json").read_text()) == {"mean_box": None}


# --- stages, resuming, ranks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [2, 4, 6])  # in the first stage, at its end, in the second
def test_a_resumed_run_ends_with_the_same_bits(stop: int, tmp_path: Path):
    whole = launch(tiny_places(tmp_path / "whole")).path
    launch(tiny_places(tmp_path / "halved", run__stop_at=stop))
    halved = launch(tiny_places(tmp_path / "halved"), resume=True).path
    assert_same_bits(whole, halved)
    assert losses(whole) == losses(halved)


def test_the_classifier_stays_as_it_is_from_the_stages_end_on(tmp_path: Path):
    run = launch(tiny_places(tmp_path / "run", method__crop_confidence_threshold=0.0)).path
    at_4, at_8 = (open_checkpoint(run / "checkpoints" / f"step_{step:08d}").tensors("student") for step in (4, 8))
    moved = {name.split(".")[0] for name in at_4 if not torch.equal(at_4[name], at_8[name])}
    assert moved == {"localizer"}
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["stage"] for line in lines] == ["init"] * 4 + ["refine"] * 4
    assert all(line["loss/refine/reg/raw"] == 0 for line in lines[:4])
    assert all(line["loss/init/cls/raw"] == 0 for line in lines[4:])
    optimizer = latest_checkpoint(run / "checkpoints").tensors("optimizer")
    assert {name.split("/")[1].split(".")[0] for name in optimizer} == {"localizer"}  # no stale momentum is kept


def test_a_run_forked_at_the_stages_end_is_the_run_that_went_on(tmp_path: Path):
    whole = launch(tiny_places(tmp_path / "whole")).path
    fork = whole / "checkpoints" / "step_00000004"
    forked = launch(tiny_places(tmp_path / "forked", run__fork_from=str(fork))).path
    assert_same_bits(whole, forked)


@pytest.mark.parametrize("target", ["frozen_init", "ema"])
def test_a_fork_with_a_copy_of_the_localizer_is_the_run_that_had_it_all_along(tmp_path: Path, target: str):
    online = launch(tiny_places(tmp_path / "online")).path
    fork = str(online / "checkpoints" / "step_00000004")  # has no copy: it starts as one of the localizer
    forked = launch(tiny_places(tmp_path / "forked", run__fork_from=fork, method__refine_target=target)).path
    whole = launch(tiny_places(tmp_path / "whole", method__refine_target=target)).path
    assert_same_bits(whole, forked)


def test_two_ranks_see_the_views_and_make_the_boxes_of_one(tmp_path: Path):
    config = tiny_places(tmp_path / "run")
    method, data = localization_method(config), family_data.LOCATED.prepare(config.data, tmp_path / "data")
    assert isinstance(method, Lchp)
    model = method.build_model(len(data.class_names)).eval()

    def step(s: int, rank: int, world: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
        loader = LocationLoader(data.labeled, config, method.stage_at, method.strong, rank=rank, world=world)
        views = loader.take(s)
        boxes = method.algorithm_1(model, views.pixels.float() / 255).boxes
        return views.ids, views.pixels, views.strong, boxes

    for s in (0, 3, 4, 7):
        ids, pixels, strong, boxes = step(s, 0, 1)
        halves = [step(s, rank, 2) for rank in range(2)]
        assert ids == [each for half in halves for each in half[0]]
        for number, whole in enumerate((pixels, strong, boxes), start=1):
            assert torch.equal(whole, torch.cat([half[number] for half in halves]))


def test_stages_shuffle_anew(tmp_path: Path):
    config = tiny_places(tmp_path / "run")
    method, data = localization_method(config), family_data.LOCATED.prepare(config.data, tmp_path / "data")
    loader = LocationLoader(data.labeled, config, method.stage_at, method.strong, rank=0, world=1)
    assert loader.take(0).ids != loader.take(4).ids
    first_epoch = [image_id for s in range(4) for image_id in loader.take(s).ids]
    assert sorted(first_epoch) == sorted(data.labeled.ids())  # 4 steps of 6 are the 24 images, each once
