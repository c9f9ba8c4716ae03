from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from raydet.data.prepared import PreparedSets
from raydet.families.detection.assemble import LabelStats
from raydet.families.detection.coco import EvalResult
from raydet.families.detection.methods.il_net import IlNet
from raydet.families.detection.run import DetectionRun
from raydet.group import Group
from raydet.metrics import read_metrics
from raydet.train.journal import Journal
from raydet.train.step import StepLosses
from tests.helpers import tiny_config

NAMES = ("sup/roi_cls", "unsup/roi_cls")


class Told(Group):
    """A group of two whose other rank answers what it is told."""

    def all_gather(self, value: Any) -> list[Any]:
        return [value, value]


def journal(run: Path, group: Group | None = None, **changes: object) -> Journal:
    run.mkdir(exist_ok=True)
    config = tiny_config(run, **changes)
    data = PreparedSets(run, ("cat", "dog"), cast(Any, None), None, None, None)
    method, group = TwoTerms(config), group or Group()
    found = Journal(config, DetectionRun(data, method, group), method, group)
    found.start(0, attempt=1, num_params=10)
    return found


class TwoTerms(IlNet):
    """A method with fewer losses."""

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"sup/roi_cls": 1.0, "unsup/roi_cls": 4.0}


def stats(**changes: Any) -> LabelStats:
    """Two images with ten candidates, of which three are kept."""
    usual = {
        "labeled": 4,
        "images": 2,
        "candidates": 10,
        "kept": 3,
        "score_sum": 2.4,
        "quality_sum": 1.5,
        "best_score": 0.9,
    }
    usual |= {"best_score": 0.9, "ages": [1, 3], "dropped": {"quality": 4, "nms": 3}, "per_class": [1, 2]}
    return LabelStats(**{**usual, **changes})


def step(of: Journal, number: int, given: LabelStats, raw: tuple[float, float] = (2.0, 0.5)) -> None:
    times = {"step_s": 0.5, "label_wait_s": 0.1, "data_wait_s": 0.2}
    losses = StepLosses(NAMES, torch.tensor(raw), torch.zeros(1))
    about = {"rates": {"all": 0.01}, "source": {"queue": 3.0}, "stage": "early", "extras": {"share": 0.5}}
    of.step(number, losses, given, grad_norm=None, times=times, **about)


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == kind]


def test_a_line_holds_means_over_the_steps_since_the_last_one(tmp_path: Path):
    one = journal(tmp_path, log__every=2)
    step(one, 1, stats(), raw=(2.0, 0.5))
    assert lines(tmp_path, "step") == []
    step(one, 2, stats(kept=1, ages=[0, 0], score_sum=0.6), raw=(4.0, 1.5))
    (line,) = lines(tmp_path, "step")
    assert line["step"] == 2
    assert line["loss/sup/roi_cls/raw"] == 3.0  # (2 + 4) / 2
    assert line["loss/unsup/roi_cls/weighted"] == 4.0  # 4 * (.5 + 1.5) / 2
    assert line["loss"] == 7.0
    assert line["loss/unsup/roi_cls/share"] == pytest.approx(4 / 7)
    assert line["images_per_s"] == 12.0  # 2 * 4 labelled (the global batch) + 4 unlabelled in 2 * .5 s
    assert (line["step_s"], line["label_wait_s"], line["data_wait_s"]) == pytest.approx((0.5, 0.1, 0.2))
    assert (line["labels/age_max"], line["labels/age_mean"]) == (3, 1.0)  # (1 + 3 + 0 + 0) / 4
    assert line["pseudo/boxes_per_image"] == 1.0  # 4 / 4
    assert line["pseudo/candidates_per_image"] == 5.0
    assert line["pseudo/mean_score"] == pytest.approx(0.75)  # (2.4 + .6) / 4
    assert line["pseudo/per_class"] == [0.5, 1.0]
    assert (line["gate/quality/dropped"], line["gate/nms/dropped"]) == (2.0, 1.5)
    assert (line["lr"], line["source/queue"], line["stage"], line["share"]) == (0.01, 3.0, "early", 0.5)
    step(one, 3, stats())
    step(one, 4, stats())
    assert lines(tmp_path, "step")[1]["loss/sup/roi_cls/raw"] == 2.0  # nothing is left of the first line


def test_figures_of_the_quality_gate_are_means_over_what_it_saw(tmp_path: Path):
    one = journal(tmp_path, log__every=2)
    step(one, 1, stats(dropped_quality=1.5, background=3))
    step(one, 2, stats(dropped={"quality": 1}, dropped_quality=0.25, background=0))
    (line,) = lines(tmp_path, "step")
    assert line["gate/quality/dropped"] == 1.25  # (4 + 1) boxes / 4 images
    assert line["gate/quality/mean_dropped"] == pytest.approx(0.35)  # (1.5 + .25) / 5 boxes
    assert line["gate/quality/background"] == 0.75  # 3 / 4 images
    assert line["pseudo/mean_quality"] == pytest.approx(0.5)  # (1.5 + 1.5) / (3 + 3)
    step(one, 3, stats(dropped={"score": 4}))
    step(one, 4, stats(dropped={"score": 4}))
    line = lines(tmp_path, "step")[1]  # of a method without that gate
    assert {name for name in line if name.startswith("gate/")} == {"gate/score/dropped"}


def test_the_figures_of_all_ranks_are_joined(tmp_path: Path):
    two = journal(tmp_path, Told(world=2))
    step(two, 1, stats(labeled=2))
    (line,) = lines(tmp_path, "step")
    assert line["images_per_s"] == 16.0  # both ranks' 2 labelled and 2 unlabelled in the same half second
    assert line["step_s"] == 0.5
    assert line["pseudo/boxes_per_image"] == 1.5  # 6 / 4: a mean over images does not grow with the ranks
    assert line["labels/age_max"] == 3


def test_only_the_lead_writes(tmp_path: Path):
    step(journal(tmp_path, Told(rank=1, world=2)), 1, stats())
    assert list(tmp_path.iterdir()) == []


def test_a_step_without_pseudo_labels_has_no_figures_about_them(tmp_path: Path):
    step(journal(tmp_path), 1, LabelStats())
    (line,) = lines(tmp_path, "step")
    assert not any(name.startswith(("pseudo/", "labels/", "gate/")) for name in line)
    assert lines(tmp_path, "alarm") == []


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"candidates": 0, "best_score": 0.0, "dropped": {}}, "the teacher finds nothing at all"),
        ({"best_score": 0.12}, r"best score is 0\.12, method\.score_threshold is 0\.16: lower the threshold"),
        ({"best_score": 0.9}, r"the quality gate drops them all: lower method\.iou_filter_threshold \(theta\)"),
    ],
)
def test_the_alarm_names_the_likely_cause(given: dict[str, Any], cause: str, tmp_path: Path):
    one = journal(tmp_path, method__alarm_after_steps=3)
    barren = stats(**{"kept": 0, "score_sum": 0.0, "quality_sum": 0.0, "per_class": [0, 0], **given})
    step(one, 1, barren)
    step(one, 2, barren)
    assert lines(tmp_path, "alarm") == []
    step(one, 3, barren)
    (alarm,) = lines(tmp_path, "alarm")
    assert (alarm["step"], alarm["name"]) == (3, "no_pseudo_boxes")
    with pytest.raises(AssertionError, match=cause):
        raise AssertionError(alarm["message"])


def test_one_pseudo_box_resets_the_alarm(tmp_path: Path):
    one = journal(tmp_path, method__alarm_after_steps=3)
    barren = stats(kept=0)
    for number, given in enumerate([barren, barren, stats(), barren, barren], start=1):
        step(one, number, given)
    assert lines(tmp_path, "alarm") == []
    step(one, 6, barren)
    assert len(lines(tmp_path, "alarm")) == 1


def test_start_evaluation_checkpoint_note_and_end_are_lines_too(tmp_path: Path):
    one = journal(tmp_path)
    result = EvalResult(0.5, 0.75, None, None, None, None, {}, images=2, boxes=3, detections=4, engine="pycocotools")
    one.evaluation(4, "val", "teacher", result)
    one.checkpoint(4, tmp_path / "c", is_best=True)
    one.note(4, "so it is")
    one.end(4, "done")
    kinds = [line["kind"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert kinds == ["start", "eval", "checkpoint", "note", "end"]
    (start,) = lines(tmp_path, "start")
    assert (start["attempt"], start["world"], start["method"], start["class_names"]) == (1, 1, "il_net", ["cat", "dog"])
    (found,) = lines(tmp_path, "eval")
    assert (found["model"], found["AP"], found["AP75"]) == ("teacher", 0.5, None)
