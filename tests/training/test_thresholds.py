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

from raydet.cli import main
from raydet.errors import ConfigError, UserError
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.families.detection.method import Thresholds
from raydet.families.detection.pseudo_quality import LabelPair, own_truth_iou, pseudo_label_quality
from raydet.families.detection.thresholds.apply import Target, apply
from raydet.families.detection.thresholds.axes import Axes, read_axes, selections
from raydet.families.detection.thresholds.choice import pareto_front, recommend
from raydet.families.detection.thresholds.count import ThresholdGrid, TrueLabel, threshold_grid
from raydet.families.detection.thresholds.inputs import Evidence, newest_labels
from raydet.families.detection.thresholds.result import ThresholdResult, as_json, as_text, try_thresholds
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


def hand_made(boxes: list, hits: list, *, truths: int = 200, qualities: tuple = (None,)) -> ThresholdGrid:
    """Return a grid of 100 images and one class from counts `[S][T]`."""
    counted = [np.array(rows, dtype=np.int64)[..., None] for rows in (boxes, hits)]
    scores = (0.3, 0.5, 0.7, 0.9)[: len(boxes)]
    ious = counted[1] * 0.75
    return ThresholdGrid(scores, qualities, 100, *counted, ious, np.array([truths]), np.zeros(len(boxes), np.int64))


def test_the_most_precise_of_the_settings_near_the_true_density_is_recommended():
    # Boxes per true box 2.0, 1.2, 0.9, 0.3: the middle two are close. Precision .475, .75, .889 +- .023, .967.
    choice = recommend(hand_made([[400], [240], [180], [60]], [[190], [180], [160], [58]]), (3, 0))
    assert choice is not None
    assert choice.point == (2, 0)
    assert choice.reason.startswith("1.80 pseudo-boxes per image against 2.00 true ones (within a factor of 1.25)")
    assert (choice.reading.recall, choice.reading.f1, choice.reading.mean_iou) == (0.8, 2 * 160 / 380, 0.75)
    assert choice.cautions == ()


def test_where_precision_is_the_same_up_to_noise_recall_decides():
    # Precision 190/214 = .888 and 160/180 = .889 +- .023; recall .95 and .80.
    choice = recommend(hand_made([[400], [214], [180], [60]], [[190], [190], [160], [58]]), (2, 0))
    assert choice is not None
    assert choice.point == (1, 0)


def test_where_nothing_decides_the_present_setting_stays():
    plateau = hand_made([[200, 200, 201]], [[180, 180, 180]], qualities=(0.2, 0.4, 0.6))
    for column in range(3):
        choice = recommend(plateau, (0, column))
        assert choice is not None
        assert choice.point == (0, column)


def test_where_no_setting_is_near_the_true_density_the_nearest_is_taken_and_said():
    # 2.0 and 0.55 boxes per true box: |ln| .69 and .60.
    choice = recommend(hand_made([[400], [110]], [[190], [40]]), (0, 0))
    assert choice is not None
    assert choice.point == (1, 0)
    assert "no setting that finds a true box comes closer" in choice.reason
    assert len(choice.cautions) == 3  # precision below one half, far from the density, at the edge of the grid
    assert recommend(hand_made([[400]], [[0]], truths=0), (0, 0)) is None
    assert recommend(hand_made([[0]], [[0]]), (0, 0)) is None


def test_a_setting_that_finds_nothing_is_not_recommended(tmp_path: Path):
    # The first keeps as many boxes as there are, none of them right; the second is far from that, and finds some.
    choice = recommend(hand_made([[200], [60]], [[0], [30]]), (0, 0))
    assert choice is not None and choice.point == (1, 0)
    assert "No setting that finds a true box keeps as many boxes as there are objects" in " ".join(choice.cautions)
    none = hand_made([[200], [60]], [[0], [0]])
    assert recommend(none, (0, 0)) is None
    assert recommend(replace(hand_made([[200], [60]], [[90], [0]]), incomplete=np.array([1, 0])), (0, 0)) is None
    config = tiny_config(tmp_path, method__iou_filter_enabled=False, method__score_threshold=0.3)
    axes = Axes(Thresholds("method.score_threshold"), none.scores, (), 0.3, None)
    evidence = Evidence(("cat",), [], "counts", ())
    result = ThresholdResult(RunFolder(tmp_path), config, axes, evidence, none, (0, 0), pareto_front(none), None)
    said = "No recommendation: at no setting with complete labels does a pseudo-box find a true one"
    assert said in as_text(result) and as_json(result)["recommended"] is None
    write_thresholds(result)
    assert said in (tmp_path / "thresholds.html").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text("as it was")
    with pytest.raises(UserError, match="there is no recommendation to write, so it was left as it is"):
        apply(result, Target(file, file))
    assert file.read_text() == "as it was"


def test_a_class_that_no_setting_finds_has_no_threshold_of_its_own(tmp_path: Path):
    # All keep 210 and 65 boxes, of 150: the first row. Of b alone the second has as many as there are, none right.
    counts = np.array([[[110, 100]], [[20, 45]]]), np.array([[[90, 0]], [[15, 0]]])
    grid = ThresholdGrid((0.3, 0.5), (None,), 100, *counts, counts[1] * 0.8, np.array([100, 50]), np.zeros(2, np.int64))
    keys = Thresholds("method.score_threshold", by_class="method.class_thresholds")
    axes = Axes(keys, grid.scores, (), 0.3, None)
    config, evidence = tiny_config(tmp_path, method__iou_filter_enabled=False), Evidence(("a", "b"), [], "counts", ())
    result = ThresholdResult(RunFolder(tmp_path), config, axes, evidence, grid, (0, 0), [], recommend(grid, (0, 0)))
    assert (result.own_rows, result.undecided) == ({0: 0}, ["b"])
    assert "No threshold of its own for b: fewer than 20 true boxes here, none of them found, or " in as_text(result)


@pytest.mark.parametrize(("hits", "said"), [(110, True), (139, True), (140, False), (180, False)])
def test_labels_that_are_right_too_seldom_to_pay_are_said_to_be(hits: int, said: bool):
    # of 200 boxes; .7 is the least that paid
    choice = recommend(hand_made([[200]], [[hits]]), (0, 0))
    assert any("from 70% on they paid in most runs" in caution for caution in choice.cautions) == said


def test_settings_at_which_labels_are_cut_off_are_neither_recommended_nor_on_the_front():
    grid = replace(hand_made([[210], [180]], [[200], [160]]), incomplete=np.array([1, 0]))
    choice = recommend(grid, (0, 0))
    assert choice is not None
    assert choice.point == (1, 0)
    assert pareto_front(grid) == [(1, 0)]
    assert not grid.at(0, 0).is_complete


def test_the_front_holds_what_nothing_else_beats():
    # Recall .9, .8, .8, .4 at precision .5, .8, .64, .8: the third loses to the second, and so does the fourth.
    grid = hand_made([[360], [200], [250], [100]], [[180], [160], [160], [80]])
    assert pareto_front(grid) == [(0, 0), (1, 0)]
    assert pareto_front(hand_made([[9]], [[0]])) == []


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
