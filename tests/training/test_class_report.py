"""What the report says of classes: groups, weights, thresholds, gradients."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raydet.data.boxes.federated import Federated
from raydet.data.boxes.index import DatasetIndex
from raydet.errors import UserError
from raydet.families.detection.limits.figures import box_figures
from raydet.families.detection.long_tail_config import GradientSamplingConfig
from raydet.families.detection.report import classes, made, own_select
from raydet.labels.snapshots import read_values, remove_after, write_values
from raydet.metrics import read_metrics
from raydet.records import PseudoBoxes, TeacherRef
from raydet.report.write import write_report
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.saved import load_saved
from tests.helpers import tiny_soft
from tests.training.balanced import EARLY


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of gradient-based sampling with minority classes, evaluated three times."""
    folder = tmp_path_factory.mktemp("report") / "run"
    split = {"minority_classes": ["star", "hexagon", "ellipse"]}
    config = tiny_soft(folder, method=EARLY, data__split=split, eval__every=3, model__roi_fg_iou=0.3)
    return launch(config).path


def test_evaluations_tell_minority_and_majority_apart(run: Path):
    judged = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"]
    assert len(judged) == 6 and all("APmaj" in line and "APmin" in line for line in judged)


def test_every_evaluation_leaves_statistics_of_the_classes(run: Path):
    found = classes.read_statistics(run / "diagnostics")
    assert found.steps == [3, 6, 8]
    last = found.values[-1]
    assert last["weights"].shape == (7,) and last["thresholds"].shape == (6,)
    step, matrix = classes.last_matrix(run) or (0, np.zeros(0))
    assert step == 8 and matrix.shape == (7, 7)
    assert last["up"] == pytest.approx(-np.diag(matrix))
    assert last["down"] == pytest.approx(matrix.sum(axis=0) + last["up"], abs=1e-3)
    assert last["listed"].sum() == 14  # unlabelled images
    w = last["weights"]
    assert w.max() > w.min() and last["up_weighted"] == pytest.approx(-w * np.diag(matrix))
    pulled = [sum(w[k] * matrix[k, i] for k in range(7) if k != i) for i in range(7)]
    assert last["down_weighted"] == pytest.approx(pulled, abs=1e-3)


def test_the_page_shows_all_of_it(run: Path):
    page = write_report(run)
    text, plots = page.read_text(), {path.name for path in (run / "plots").iterdir()}
    for name in (
        *("class_weights.png", "class_thresholds.png", "gradients.png", "gradients_of_one.png"),
        *("class_matrix.png", "class_scores.png", "class_logits.png", "repeats.png", "ap_groups.png"),
        *("repeats_over_time.png", "labeled_repeats.png", "gradients_weighted.png"),
    ):
        assert name in plots, name
    assert "minority" in text and "Balance of the classes" in text and "Pseudo-labels of the 10 classes" in text


def test_the_matrix_is_drawn_with_a_row_for_the_rois_of_a_class(run: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[np.ndarray] = []
    draw = classes.surface
    monkeypatch.setattr(classes, "surface", lambda values, **words: drawn.append(values) or draw(values, **words))
    write_report(run)
    _, matrix = classes.last_matrix(run) or (0, np.zeros(0))
    rarest_first = np.argsort(DatasetIndex.open(run / "data" / "labeled.arrow").boxes_per_class(), kind="stable")
    places = [0, *(rarest_first + 1)]  # background first
    assert len(drawn) == 1 and not np.allclose(matrix, matrix.T)
    for row, roi_class in enumerate(places):
        for column, logit in enumerate(places):
            assert drawn[0][row, column] == abs(matrix[roi_class, logit])


def test_a_damaged_checkpoint_costs_the_page_its_matrix_and_nothing_else(run: Path, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("plots"))
    for memory in copy.glob("checkpoints/*/memory.safetensors"):
        memory.write_bytes(b"damaged")
    text = write_report(copy).read_text()
    assert "No class matrix: no usable checkpoint" in text and "memory.safetensors" in text
    assert (copy / "plots" / "gradients_of_one.png").exists()
    assert not (copy / "plots" / "class_matrix.png").exists()
    shutil.rmtree(copy / "checkpoints")
    assert "No class matrix" not in write_report(copy).read_text()


def test_images_that_are_listed_again_are_counted_at_every_snapshot():
    early, late = np.array([0.0, 10, 4]), np.array([0.0, 6, 3, 2, 1, 1, 1])  # [k]: images listed k times
    found = classes.listed_again(classes.Statistics([5.0, 9.0], [{"listed": early}, {"listed": late}]))
    # Late: 3 + 2 + 1 + 1 + 1 twice or more, 2 + 1 + 1 + 1 three times or more, 1 + 1 five times or more.
    assert found == {
        "2 times or more": ([5.0, 9.0], [4.0, 8.0]),
        "3 times or more": ([5.0, 9.0], [0.0, 5.0]),
        "5 times or more": ([5.0, 9.0], [0.0, 2.0]),
    }


class Labeled:
    """Four labelled images; the last class is in one of them."""

    federated = Federated([np.zeros(0, np.int64)] * 4, [np.zeros(0, np.int64)] * 4, ("f", "r", "c", "r"))
    classes = ([0], [0, 1], [0, 2], [0, 3])

    def __len__(self) -> int:
        return len(self.classes)

    def classes_at(self, row: int) -> np.ndarray:
        return np.array(self.classes[row])


def test_labelled_classes_are_listed_by_how_rare_they_are():
    def factors(**method: Any) -> Any:
        config = SimpleNamespace(method=GradientSamplingConfig(rfs_repeat_threshold=0.81, **method))
        run: Any = SimpleNamespace(config=config, labeled=Labeled(), class_names=("a", "b", "c", "d"))
        return classes.labeled_factors(run)

    found = factors()
    # max(1, sqrt(.81 / f)): a is in all images, the others in one of four: sqrt(.81 / .25) = .9 / .5.
    assert found is not None and found.tolist() == pytest.approx([1.0, 1.8, 1.8, 1.8])
    assert factors(labeled_sampling="random") is None


def test_classes_of_a_federated_set_are_grouped_as_it_says():
    split = SimpleNamespace(minority=(), novel=())
    config = SimpleNamespace(data=SimpleNamespace(split=split))
    run: Any = SimpleNamespace(config=config, labeled=Labeled(), class_names=("a", "b", "c", "d"))
    assert classes.group_members(run) == {"rare": [1, 3], "common": [2], "frequent": [0]}
    split.minority = ("b",)
    assert classes.group_members(run)["minority"] == [1]


def test_methods_without_such_statistics_have_no_such_sections(tmp_path: Path):
    other = launch(tiny_soft(tmp_path / "run", optim__steps=2)).path
    inputs, makers = made(other, tiny_soft(other))
    assert classes.makers(inputs) == [] and classes.balance not in makers


def test_labels_are_judged_by_the_thresholds_of_their_time(tmp_path: Path):
    def label(version: int) -> PseudoBoxes:
        scores = torch.tensor([0.9, 0.7, 0.5])
        boxes, numbers = torch.zeros(3, 4), torch.tensor([0, 1, 1])
        return PseudoBoxes("a", TeacherRef(version, ""), boxes, numbers, scores, torch.ones(3), 0.05)

    write_values(tmp_path, 10, {"thresholds": torch.tensor([0.8, 0.6])})
    write_values(tmp_path, 20, {"thresholds": torch.tensor([0.95, 0.4])})
    select = classes.at_the_time(tmp_path, lambda label: label.where(label.scores > 0.85))
    kept = [select(label(version)).scores.tolist() for version in (9, 10, 19, 20)]
    assert kept == [pytest.approx(each) for each in ([0.9], [0.9, 0.7], [0.9, 0.7], [0.7, 0.5])]


def test_snapshots_of_values_are_what_was_written_and_go_with_the_steps_beyond_a_resume(tmp_path: Path):
    write_values(tmp_path, 5, {"a": torch.tensor([1.0, 2.0]), "b": torch.eye(2), "none": torch.zeros(0)})
    found = read_values(tmp_path, 5)
    assert {name: each.tolist() for name, each in found.items()} == {"a": [1, 2], "b": [1, 0, 0, 1], "none": []}
    write_values(tmp_path, 9, {"a": torch.ones(1)})
    remove_after(tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005.values.arrow"]
    (tmp_path / "step_00000005.values.arrow").write_bytes(b"x")
    with pytest.raises(UserError, match="step_00000005.values.arrow: damaged"):
        read_values(tmp_path, 5)


def test_what_limits_a_run_is_concluded_from_what_classes_kept_by_their_own_thresholds(run: Path):
    config = load_saved(run, role=None).config
    assert classes.are_learned(run / "diagnostics", config.method.cls_pseudo_threshold)
    inputs, _ = made(run, config)
    judged = box_figures(inputs).judged
    kept = classes.at_the_time(run / "diagnostics", own_select(config, RunFolder(run)))
    common = own_select(config, RunFolder(run))
    newest = [each.stored for each in inputs.history.newest]
    numbers = [sum(len(select(label).scores) for label in newest) for select in (kept, common)]
    assert judged.now.boxes == sum(each.boxes for each in judged.classes) == numbers[0]
    assert numbers[0] != numbers[1]  # the common threshold keeps others
    assert not judged.at and judged.ungated is None  # nothing is said of a common threshold


def test_thresholds_that_stayed_at_the_common_one_are_not_learned(tmp_path: Path):
    write_values(tmp_path, 3, {"thresholds": np.array([0.7, 0.7], np.float32)})
    assert not classes.are_learned(tmp_path, 0.7)
    write_values(tmp_path, 6, {"thresholds": np.array([0.7, 0.65], np.float32)})
    assert classes.are_learned(tmp_path, 0.7)
