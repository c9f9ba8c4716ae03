"""Runs that list labelled images otherwise than what they are measured against: which methods do, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydet.contract import sizes_of
from raydet.families.detection.data import BOXES
from raydet.registry import build_method
from raydet.report.compare.runs import read_runs
from raydet.report.compare.table import as_text
from raydet.report.gain import Control
from raydet.report.inputs import read_records
from raydet.report.lineage import FORKED
from tests.helpers import SOFT_VIEWS, tiny_config, tiny_soft
from tests.run_folders import write_run
from tests.training.test_answer import said

RFS = {"labeled_sampling": "rfs", "rfs_repeat_threshold": 0.1, "repeat_rounding": "ceil"}
RETRAINED = {"name": "classifier_retraining", "burn_in_steps": 2, "retrain_from_step": 4}
AT_THE_END = {"retrain_from_step": 4, "most_repeats": 100.0, "repeat_rounding": "ceil"}


@pytest.mark.parametrize(
    ("method", "listing"),
    [
        ({}, {}),
        ({"name": "gradient_sampling"}, RFS),
        ({"name": "gradient_sampling", "rfs_repeat_threshold": 0.5}, {**RFS, "rfs_repeat_threshold": 0.5}),
        ({"name": "gradient_sampling", "labeled_sampling": "random"}, {}),
        ({"name": "gradient_sampling", "labeled_sampling": "random", "rfs_repeat_threshold": 0.5}, {}),
        ({"name": "logit_adjustment", "repeat_rounding": "stochastic"}, {**RFS, "repeat_rounding": "stochastic"}),
        ({"name": "eqlv2"}, RFS),
        (RETRAINED, AT_THE_END),
        ({**RETRAINED, "labeled_sampling": "rfs"}, {**RFS, **AT_THE_END}),
    ],
)
def test_a_method_says_by_which_settings_it_lists_labelled_images(
    method: dict[str, Any], listing: dict[str, Any], tmp_path: Path
):
    config = tiny_soft(tmp_path, method=method)
    assert config.method.labeled_listing == listing
    built, data = build_method(config), BOXES.prepare(config.data, tmp_path / "data")
    sizes = sizes_of(data)
    listings = built.listings(built.build_state(sizes), sizes)
    assert any(each.set_name == "labeled" for each in listings) == bool(listing)


def test_a_method_without_such_settings_lists_each_image_once(tmp_path: Path):
    assert tiny_config(tmp_path).method.labeled_listing == {}


def write_runs(folder: Path) -> list[Path]:
    """Write one by repeat factor sampling, one that lists each image once, and a control; from the same checkpoint."""
    views = {"data__views": SOFT_VIEWS}
    fork = f"{folder}/rfs/checkpoints/step_00000003"
    write_run(folder / "rfs", "gradient_sampling", **views)
    write_run(folder / "once", "gradient_sampling", method__labeled_sampling="random", run__fork_from=fork, **views)
    write_run(folder / "control", "supervised", {8: ("teacher", 0.25)}, run__fork_from=fork)
    return [folder / name for name in ("rfs", "once", "control")]


def test_a_control_that_lists_labelled_images_otherwise_is_said(tmp_path: Path):
    text = as_text(read_runs(write_runs(tmp_path)))
    assert (
        "note: rfs: the control lists labelled images once each, the run by method.labeled_sampling=rfs, "
        "method.rfs_repeat_threshold=0.1, method.repeat_rounding=ceil: that alone changes AP, and how much of the "
        "difference is due to the unlabelled ones cannot be said."
    ) in text
    assert text.count("lists labelled images") == 1 and "note: rfs, once: the control sees" in text


def test_without_a_control_the_first_arms_listing_is_what_others_are_compared_with(tmp_path: Path):
    rfs, once, _ = write_runs(tmp_path)
    text = as_text(read_runs([once, rfs]))
    assert (
        "note: rfs: gradient_sampling (labeled_sampling=random), which was given first, lists labelled images once "
        "each, the run by method.labeled_sampling=rfs, method.rfs_repeat_threshold=0.1, method.repeat_rounding=ceil: "
        "that alone changes AP, and how much of the difference is due to anything else cannot be said."
    ) in text
    assert "repeat_rounding=ceil, the run once each: that alone changes AP" in as_text(read_runs([rfs, once]))
    write_run(tmp_path / "again", "gradient_sampling", data__views=SOFT_VIEWS, method__gbr_enabled=False)
    assert "lists" not in as_text(read_runs([rfs, tmp_path / "again"]))


def test_another_listing_than_the_controls_shares_what_was_gained(tmp_path: Path):
    rfs, once, control = (read_records(folder) for folder in write_runs(tmp_path))
    text = said(rfs, Control(control, FORKED))
    assert (
        "The unlabelled images and other views and another listing of the labelled ones gave 5.0 points of AP more"
    ) in text
    assert (
        "The control lists labelled images once each, the run by method.labeled_sampling=rfs, "
        "method.rfs_repeat_threshold=0.1, method.repeat_rounding=ceil: that alone changes AP, and how much of the "
        "difference is due to the unlabelled ones cannot be said."
    ) in text
    assert "The unlabelled images and other views of the labelled ones gave 5.0" in said(once, Control(control, FORKED))
    assert "The unlabelled images and another listing of the labelled ones gave nothing that" in said(
        rfs, Control(once, FORKED)
    )
    assert "gradient_sampling lists labelled images by settings of its own (method.labeled_sampling, " in said(
        rfs, None
    )
    assert "settings of its own" not in said(once, None)
