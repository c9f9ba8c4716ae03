"""Thresholds tried on reading: the grid is what a method's own `select` gives point by point."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet import precision
from raydet.cli import main
from raydet.errors import ConfigError
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.families.detection.method import Thresholds
from raydet.families.detection.pseudo_quality import LabelPair, own_truth_iou, pseudo_label_quality
from raydet.families.detection.thresholds import inputs
from raydet.families.detection.thresholds.axes import Axes, read_axes, selections
from raydet.families.detection.thresholds.choice import pareto_front, recommend
from raydet.families.detection.thresholds.count import TrueLabel, threshold_grid
from raydet.families.detection.thresholds.inputs import Evidence, newest_labels
from raydet.families.detection.thresholds.result import ThresholdResult, as_text, try_thresholds
from raydet.families.detection.thresholds.write import write_thresholds
from raydet.labels.convert import to_table
from raydet.labels.store import PseudoLabelStore
from raydet.records import PseudoBoxes, TeacherRef
from raydet.registry import build_method
from raydet.settings import resolve
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from tests.helpers import tiny_config

CLASSES = 3
# Few values, on the grid and beside it, so that ties and equalities happen: 0.3 as float32 lies above 0.3, 0.7 below.
LEVELS = [0.06, 0.1, 0.3, 0.3, 0.45, 0.5, 0.7, 0.7, 0.9]
boxes = st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(2, 6)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
candidates = st.tuples(boxes, st.integers(0, CLASSES - 1), st.sampled_from(LEVELS), st.sampled_from(LEVELS))
truths = st.lists(st.tuples(boxes, st.integers(0, CLASSES - 1)), max_size=4)


def true_label(
    rows: list, truth: list, complete_above: float = 0.05, verified: set[int] | None = None, image_id: str = "a"
) -> TrueLabel:
    """Return a label from (box, class, score, quality) rows beside true (box, class) rows."""
    rows = sorted(rows, key=lambda row: -row[2])
    label = PseudoBoxes(
        image_id,
        TeacherRef(4, "digest"),
        torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.int64),
        torch.tensor([row[2] for row in rows], dtype=torch.float32),
        torch.tensor([row[3] for row in rows], dtype=torch.float32),
        complete_above,
    )
    return TrueLabel(
        label,
        np.array([box for box, _ in truth], dtype=np.float64).reshape(-1, 4),
        np.array([k for _, k in truth], dtype=np.int64),
        None if verified is None else np.array(sorted(verified), dtype=np.int64),
    )


def naive(config: DetectionConfig, axes: Axes, images: list[TrueLabel], score: float, quality: float | None) -> tuple:
    """Return the counts per class, the IoU sum of the hits, the number of incomplete labels: one point by the book."""
    keys = {axes.thresholds.score: score}
    if axes.thresholds.quality:
        keys[axes.thresholds.quality] = quality
    method = build_method(resolve(config.model_dump(mode="json"), keys))
    picked = [method.select(image.label) for image in images]
    pairs = [
        LabelPair(each.kept.boxes.numpy(), each.kept.classes.numpy(), image.boxes, image.classes, image.verified)
        for each, image in zip(picked, images, strict=True)
    ]
    counts = pseudo_label_quality(pairs, CLASSES)
    iou = sum(float(own_truth_iou(pair).sum()) for pair in pairs)
    return counts, iou, sum(not each.is_complete for each in picked)


@pytest.mark.parametrize("name", ["il_net", "unbiased_teacher"])
@settings(max_examples=30)
@given(
    images=st.lists(
        st.tuples(
            st.lists(candidates, max_size=12),
            truths,
            st.sampled_from([0.05, 0.3, 0.4]),
            st.none() | st.sets(st.integers(0, CLASSES - 1)),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_grid_is_what_the_methods_select_gives_at_every_point(name: str, images: list):
    own = {"method": {"name": name, "burn_in_steps": 1, "score_threshold": 0.5}}
    base = tiny_config(Path("never"), **{"model.test_detections": 5}).model_dump(mode="json")
    config = resolve(base | own, {})
    labels = [true_label(*image) for image in images]
    method = build_method(config)
    assert method.thresholds is not None
    words = ["score=0.1,0.3,0.7"] + (["quality=0.3,0.45,0.7"] if name == "il_net" else [])
    axes = read_axes(config, method.thresholds, words)
    grid = threshold_grid(labels, axes.scores, selections(config, axes), CLASSES)
    assert len(axes.scores) == 4  # the run's own 0.5 among them
    for i, score in enumerate(axes.scores):
        for j, quality in enumerate(axes.qualities or (None,)):
            counts, iou, incomplete = naive(config, axes, labels, score, quality)
            assert grid.boxes[i, j].tolist() == counts.boxes.tolist()
            assert grid.hits[i, j].tolist() == counts.hits.tolist()
            assert grid.truths.tolist() == counts.truths.tolist()
            assert grid.iou_sums[i, j].sum() == pytest.approx(iou, abs=1e-12)
            assert grid.incomplete[i] == incomplete
            reading = grid.at(i, j)
            assert (reading.precision, reading.recall) == (counts.precision, counts.recall)


def test_a_box_that_comes_too_late_takes_nothing_away_from_those_behind_it():
    left, right = [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]
    # The second box finds `right` taken by the first, and must leave `left`, which it does not touch, to the third.
    boxes = np.array([right, [50.0, 0.0, 60.0, 8.0], [0.0, 0.0, 10.0, 9.0]])
    pair = LabelPair(boxes, np.zeros(3, int), np.array([left, right]), np.zeros(2, int))
    assert own_truth_iou(pair).tolist() == [1.0, 0.0, 0.9]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score=0.04"], "below labels.score_floor=0.05"),
        (["score=1"], "between 0 and 1, exclusive; 1 does not"),
        (["quality=0.2,nan"], "between 0 and 1"),
        (["score="], "not a list of numbers"),
        (["score=0.1:0.9"], "not a list of numbers"),
        (["score=0.1:0.9:0"], "COUNT must be 1 to 10000"),
        (["score=0.1:0.9:5000", "quality=0.1:0.9:5000"], "at most 10000"),
        (["theta=0.5"], "has the thresholds score (method.score_threshold) and quality (method.iou_filter_threshold)"),
        (["score=0.5", "method.score_threshold=0.6"], "score is given twice"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused_with_what_to_write(words: list, message: str, tmp_path: Path):
    config = tiny_config(tmp_path)
    with pytest.raises(ConfigError) as refused:
        read_axes(config, Thresholds("method.score_threshold", "method.iou_filter_threshold"), words)
    assert message in str(refused.value)


def test_a_grid_holds_what_was_asked_for_and_the_runs_own_setting(tmp_path: Path):
    thresholds = Thresholds("method.score_threshold", "method.iou_filter_threshold")
    axes = read_axes(tiny_config(tmp_path), thresholds, ["score=0.3:0.5:3", "method.iou_filter_threshold=[0.6, 0.2]"])
    assert (axes.scores, axes.qualities) == ((0.16, 0.3, 0.4, 0.5), (0.2, 0.6))
    assert axes.settings(0.3, 0.6) == {"method.score_threshold": 0.3, "method.iou_filter_threshold": 0.6}


def test_of_each_image_the_newest_label_counts(tmp_path: Path):
    def write(writer: str, *keys: tuple[str, int]) -> None:
        store = PseudoLabelStore(tmp_path, writer)
        for image_id, version in keys:
            label = true_label([((0, 0, 4, 4), 0, 0.5, 0.5)] * version, [], image_id=image_id).label
            store.append(to_table([replace(label, teacher=TeacherRef(version, f"d{version}"))]))
            store.flush()  # a segment each

    def found(version: int | None, most: int) -> list[tuple[str, int, int]]:
        labels = newest_labels(tmp_path, version, most)
        return [(label.image_id, label.teacher.version, len(label)) for label in labels]

    write("rank0", ("a", 3), ("b", 4), ("a", 6))
    write("rank1", ("c", 3), ("b", 5))
    assert found(None, 9) == [("a", 6, 6), ("b", 5, 5), ("c", 3, 3)]  # label v has v rows here
    assert found(None, 2) == [("a", 6, 6), ("b", 5, 5)]
    assert found(4, 9) == [("b", 4, 4), ("a", 3, 3), ("c", 3, 3)]
    assert found(2, 9) == []


def test_the_command_judges_stored_labels_checkpoints_and_other_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tiny_config(tmp_path / "run", method__score_threshold=0.1)
    folder = launch(config)
    capsys.readouterr()
    words = ["--grid", "score=0.06,0.1,0.2", "quality=0.2,0.5"]
    assert main(["thresholds", str(folder.path), *words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((folder.path / "thresholds.json").read_text())
    assert (figures["scores"], figures["qualities"]) == ([0.06, 0.1, 0.2], [0.2, 0.5])
    hidden = BOXES.open_hidden(folder.data)
    assert hidden is not None
    labels = newest_labels(folder.labels, None, 1000)
    kept = sum(len(build_method(config).select(label).kept) for label in labels)
    assert sum(figures["boxes"][1][0]) == kept == figures["present"]["boxes"] > 0
    assert sum(figures["true_boxes"]) == sum(
        int((~hidden.truth_at(hidden.position(label.image_id)).crowd).sum()) for label in labels
    )
    page = (folder.path / "thresholds.html").read_text()
    assert "Over the grid" in page
    assert page.count("data:image/png") == 5  # maps: precision, recall, F1, IoU, boxes
    assert main(["thresholds", str(folder.path), "--version", "2"]) == 2
    assert "--version 2: the stored labels are of teachers 3 to 7" in capsys.readouterr().err
    assert main(["thresholds", str(folder.path), "--max-images", "0"]) == 2
    assert "--max-images 0: must be at least 1" in capsys.readouterr().err

    now = try_thresholds(folder.checkpoints / "step_00000008", words[1:])
    assert "the teacher of step 8, run now on 6 images of the run's validation set" in as_text(now)
    sample = try_thresholds(folder.path, words[1:], data=config.data.val, max_images=2)
    assert "run now on 2 images of shapes" in as_text(sample)
    assert "A sample of 2 of 6 images, evenly spaced." in sample.notes
    for segment in folder.labels.glob("*.arrow"):
        segment.unlink()
    instead = try_thresholds(folder.path, words[1:])
    assert "The run's stored labels are not used: there are none yet" in as_text(instead)
    assert instead.grid.boxes.tolist() == now.grid.boxes.tolist()


def test_the_teacher_of_a_checkpoint_rounds_as_its_run_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "has_bf16_hardware", lambda: False)
    folder = launch(tiny_config(tmp_path / "run", optim__precision="auto", run__stop_at=4))
    monkeypatch.setattr(precision, "has_bf16_hardware", lambda: True)
    monkeypatch.setattr(precision, "bf16_over_fp32", lambda: 0.5)
    rounded, real = [], inputs.labelled
    monkeypatch.setattr(inputs, "labelled", lambda *a: rounded.append(torch.is_autocast_enabled("cpu")) or real(*a))
    try_thresholds(folder.checkpoints / "step_00000004", ["score=0.06,0.1", "quality=0.2"])
    assert rounded == [False] * 6  # images of val


def test_without_a_quality_threshold_there_are_curves(tmp_path: Path):
    config = tiny_config(tmp_path, method__iou_filter_enabled=False, method__score_threshold=0.5)
    axes = read_axes(config, Thresholds("method.score_threshold"), ["score=0.3,0.7"])
    box = (0, 0, 4, 4)
    images = [true_label([(box, 0, score, 0.1) for score in (0.6, 0.4)], [(box, 0)])]
    grid = threshold_grid(images, axes.scores, selections(config, axes), 1)
    assert grid.boxes.tolist() == [[[1]], [[1]], [[0]]]  # NMS leaves one of the two
    evidence = Evidence(("<cat>",), images, "one label", ())
    choice = recommend(grid, (1, 0))
    result = ThresholdResult(RunFolder(tmp_path), config, axes, evidence, grid, (1, 0), pareto_front(grid), choice)
    assert result.overrides == "method.score_threshold=0.5"
    write_thresholds(result)
    page = (tmp_path / "thresholds.html").read_text()
    assert page.count("data:image/png") == 2  # rates, boxes
    assert "&lt;cat&gt;" in page
    assert json.loads((tmp_path / "thresholds.json").read_text())["precision"] == [[1.0], [1.0], [None]]


def test_a_method_without_pseudo_labels_has_no_thresholds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "run"
    folder.mkdir()
    method = {"name": "supervised", "burn_in_steps": 1}
    config = resolve(tiny_config(folder).model_dump(mode="json") | {"method": method}, {})
    (folder / "config.json").write_text(config.model_dump_json())
    assert main(["thresholds", str(folder)]) == 2
    assert "method.name=supervised reads no pseudo-labels" in capsys.readouterr().err
    assert main(["thresholds", str(tmp_path)]) == 2
    assert "neither a run folder" in capsys.readouterr().err
