"""Pictures where runs differ: which are chosen, and what they say."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydet.cli import main
from raydet.families.classification.report.compare import agreement
from raydet.families.detection.judged_boxes import Detections
from raydet.families.detection.report.compare import Judged, best_threshold, judged_by_truth, most_different
from raydet.families.detection.report.gallery import FoundBox
from raydet.settings import resolve
from raydet.train.launch import launch
from tests.helpers import tiny_classes, tiny_config

BOX = np.zeros(4)


def found(right: int, wrong: int, truths: int) -> Judged:
    boxes = [FoundBox(BOX, 0, 0.5, place < right) for place in range(right + wrong)]
    return Judged(tuple(boxes), truths)


def test_f1_counts_what_is_found_and_what_is_wrong():
    # 2 right of 3 boxes, 4 true ones: 2 * 2 / (3 + 4)
    assert found(2, 1, 4).f1 == pytest.approx(4 / 7)
    assert found(2, 1, 4).caption == "finds 2 of 4, 1 wrong"
    assert found(0, 0, 0).f1 == 1.0 and found(0, 1, 0).f1 == 0.0


def test_the_images_that_differ_most_come_first_and_equal_ones_never():
    a = [found(1, 0, 1), found(0, 1, 1), found(1, 1, 1), found(0, 0, 1)]
    b = [found(1, 0, 1), found(1, 0, 1), found(1, 0, 1), found(0, 0, 1)]
    assert most_different([a, b], 8) == [1, 2]  # differences 0, 1, 1/3, 0
    assert most_different([a, b], 1) == [1]
    assert most_different([a, a], 8) == []


def test_the_threshold_is_where_f1_is_highest():
    # 4 true boxes. Cut after 1, 2, 3, 4 boxes: 2 / 5, 4 / 6, 4 / 7, 6 / 8 = .75; after 5: 6 / 9.
    scores, hits = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, True, False, True, False])
    assert best_threshold(scores, hits, 4) == 0.6
    assert best_threshold(np.zeros(0), np.zeros(0, bool), 4) == 1.0
    # The one right box shares its score with two wrong ones: all three are kept, 2 / 4, or none.
    assert best_threshold(np.array([0.5, 0.5, 0.5, 0.4]), np.array([True, False, False, False]), 1) == 0.5


levels = st.sampled_from([0.2, 0.4, 0.4, 0.7, 0.9])


@given(st.lists(st.tuples(levels, st.booleans()), min_size=1, max_size=12), st.integers(0, 4))
def test_no_other_threshold_has_a_higher_f1(rows: list[tuple[float, bool]], missed: int):
    scores, hits = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    truths = int(hits.sum()) + missed

    def f1(least: float) -> float:
        kept = scores >= least
        return float(2 * hits[kept].sum() / (kept.sum() + truths))

    assert f1(best_threshold(scores, hits, truths)) == pytest.approx(max(f1(score) for score in scores))


def test_detections_are_judged_best_score_first_and_cut_at_one_threshold():
    truth = (np.array([[0.0, 0, 10, 10]]), np.array([0]))
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 10], [0, 0, 10, 10]])
    # The best takes the true box (IoU .8), the second comes too late; the third has another class.
    first = Detections("a", boxes, torch.tensor([0, 0, 1]), torch.tensor([0.9, 0.8, 0.7]))
    second = Detections("b", boxes[1:2], torch.tensor([0]), torch.tensor([0.6]))
    judged, least = judged_by_truth([first, second], [(*truth, None), (*truth, None)])
    # 2 true boxes; cut at .9: 2 / 3, .8: 2 / 4, .7: 2 / 5, .6: 4 / 6, no better than the first.
    assert least == pytest.approx(0.9)
    assert [[box.is_right for box in each.boxes] for each in judged] == [[True], []]
    assert [each.truths for each in judged] == [1, 1]
    # Where nobody looked for class 1, the third is no mistake: cut at .6, 4 / 5.
    judged, least = judged_by_truth([first, second], [(*truth, np.array([0])), (*truth, None)])
    assert least == pytest.approx(0.6)
    assert [[box.is_right for box in each.boxes] for each in judged] == [[True, False], [True]]


def test_classifiers_are_compared_image_by_image():
    right = np.array([[True, True, False, False], [True, False, True, False], [True, True, True, False]])
    assert agreement(right) == [["–", "1", "0"], ["1", "–", "0"], ["1", "1", "–"]]


def section_of(page: Path, title: str) -> str:
    (body,) = re.findall(rf"<section[^>]*><h2>{title}</h2>(.*?)</section>", page.read_text(), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_trained_detectors_are_shown_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    launch(tiny_config(tmp_path / "run"))
    method = {"name": "supervised", "burn_in_steps": 3, "ema_keep_rate": 0.5}
    tree = {**tiny_config(tmp_path / "control").model_dump(mode="json"), "method": method}
    fork = str(tmp_path / "run" / "checkpoints" / "step_00000003")
    launch(resolve(tree, {"run.fork_from": fork}))
    # Eight steps teach nothing: an evaluation of both, and nothing more, is what can be asked of the pictures.
    assert main(["compare", str(tmp_path / "control"), str(tmp_path / "run"), "--max-images", "3"]) == 0
    said = capsys.readouterr()
    assert "the same checkpoint" in section_of(tmp_path / "compare" / "compare.html", "Pairs")
    assert "2 models on 3 images" in said.err
    shown = section_of(tmp_path / "compare" / "compare.html", "Where they differ most")
    assert shown.startswith("Of 3 validation images")
    assert "control: teacher of step 8, run: teacher of step 8" in shown
    pictures = {path.name for path in (tmp_path / "compare" / "plots").glob("*.jpg")}
    expected = shown.count("Image ")
    assert len(pictures) == 3 * expected and (expected or "They find the same" in shown)
    for file in (tmp_path / "run" / "data" / "generated").rglob("*.png"):
        file.unlink()
    for file in (tmp_path / "control" / "data" / "generated").rglob("*.png"):
        file.unlink()
    assert main(["compare", str(tmp_path / "control"), str(tmp_path / "run")]) == 0
    assert "No pictures: " in section_of(tmp_path / "compare" / "compare.html", "Where they differ most")


def test_trained_classifiers_are_shown_side_by_side(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 2)):
        method = {"name": "supervised_classifier", "burn_in_steps": 4, "ema_keep_rate": 0.5}
        launch(tiny_classes(tmp_path / name, method=method, seed=seed, optim__steps=8))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--max-images", "9"]) == 0
    page = tmp_path / "compare" / "compare.html"
    shown = section_of(page, "Where they differ")
    assert shown.startswith("The newest models (a: teacher of step 8, b: teacher of step 8) on 9 validation images.")
    assert "Only a is right" in shown and "Only b is right" in shown
    assert "No two of these runs are a pair" in section_of(page, "The answer")
