"""The page about a classifier's run."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest
import torch

from raydet.families.classification.data import IMAGES
from raydet.families.classification.methods.pseudo_label import PseudoLabel
from raydet.families.classification.report.inputs import read_classification_inputs, softmax
from raydet.families.classification.report.labels import _changes, _groups, correctness, gallery, repredictions
from raydet.families.classification.report.r2d2 import _moments, _newest_learned, features, theorem
from raydet.families.classification.report.sections import stages, summary
from raydet.families.classification.snapshot import Sample, write_labels, write_sample
from raydet.metrics import MetricsWriter
from raydet.report import write_report
from raydet.report.page import Pictures
from raydet.settings import resolve
from raydet.train.rundir import RunFolder

R2D2 = {
    "name": "r2d2", "burn_in_steps": 20, "burn_in_batch": 4, "d2_steps": 20, "reprediction_interval_steps": 10,
    "finetune_steps": 20, "finetune_batch": 8, "repeat_lrs": [0.1, 0.05],
}  # fmt: skip


def make_run(path, method=R2D2, *, network="lenet2d", num_images=60):
    """Return a prepared run folder of the generated patterns, without metrics and snapshots."""
    tree = {
        "run": {"dir": str(path)},
        "data": {
            "labeled": {"path": "patterns", "patterns": {"num_images": num_images}},
            "labeled_per_class": 2,
            "views": {"size": 32},
        },
        "model": {"network": network},
        "method": method,
        "optim": {"steps": 80, "labeled_batch": 4, "unlabeled_batch": 8},
    }
    config = resolve(tree, {})
    folder = RunFolder(path)
    folder.prepare(config, resume=False)
    IMAGES.prepare(config.data, folder.data)
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def add_metrics(folder, *, models=("student",), end=80):
    """Write a line every 5 steps and an evaluation every 20; the error falls by 5 points each time."""
    writer = MetricsWriter(folder.path, tensorboard=False)
    start = {"attempt": 0, "world": 1, "num_params": 1_500_000, "stage_ends": [20, 40, 60], "judged": models[0]}
    writer.write({"kind": "start", "step": 0, "time": 0.0, "steps": 80, "burn_in_steps": 20, **start})
    for step in range(5, end + 1, 5):
        stage = "supervised" if step <= 20 else "D2" if step <= 60 else "fine-tuning"
        values = {"loss": 1.0, "lr": 0.1, "images_per_s": 3.0, "step_s": 0.5, "stage": stage}
        parts = {"sup/ce": 1.0 if step <= 20 else 0.0, "d2/class": 0.5 if 20 < step <= 60 else 0.0}
        values |= {f"loss/{name}/raw": value for name, value in parts.items()}
        values |= {f"loss/{name}/weighted": value for name, value in parts.items()}
        if step > 20:
            for name in ("pseudo", "student"):
                values |= {f"{name}/entropy": 1.0, f"{name}/confidence": 0.5}
                values |= {f"{name}/logit_sum": -2.0, f"{name}/logit_sum_std": 0.5}
            # 8 labels start at 25; those of the first reprediction (40) are 6 and 2, of which 1/2 and none change.
            # (took a new prediction, had a label before, share of these that changed)
            labels = {25: (8, 0, 0.0), 45: (6, 6, 0.5), 50: (2, 2, 0.0), 75: (5, 5, 1.0)}.get(step)
            if labels is not None:  # the last ones are asked for again by fine-tuning, and belong to no reprediction
                names = ("pseudo/repredicted", "pseudo/had_a_label", "pseudo/changed")
                values |= dict(zip(names[: 3 if labels[1] else 1], labels, strict=False))
        writer.write({"kind": "step", "step": step, "time": float(step), **values})
        if step % 20 == 0:
            for model in models:
                writer.write(evaluated(step, 0.5 - step / 400, model))
    writer.write({"kind": "alarm", "step": 20, "time": 20.0, "name": "x", "message": "all labels are <one class>"})
    writer.write({"kind": "end", "step": end, "time": 90.0, "reason": "done"})
    writer.close()


def evaluated(step, error, model):
    per_class = {"circle": {"accuracy": 1 - error, "images": 7}, "<b>": {"accuracy": None, "images": 0}}
    figures = {"accuracy": 1 - error, "error": error, "top5_error": 0.0625, "images": 7, "per_class": per_class}
    return {"kind": "eval", "step": step, "time": float(step), "split": "val", "model": model, **figures}


def add_snapshots(folder, steps=(20, 40, 60), *, wrong=8, learned=True, with_features=True):
    """Write snapshots in which all but the first `wrong` of the unlabelled images have their true class.

    The image in row i has its label with the probability 0.5 + i / 200.
    """
    truth = IMAGES.open_hidden(folder.data).labels()
    rows = np.arange(len(truth))
    classes = np.where(rows < wrong, (truth + 1) % 6, truth)
    logits = torch.nn.functional.one_hot(torch.from_numpy(classes), 6).float()
    for step in steps:
        if learned and step > 20:
            write_labels(folder.diagnostics, step, rows, classes, 0.5 + rows / 200, np.ones(len(rows)))
        pseudo = logits.clone() if step > 20 else torch.full_like(logits, float("nan"))
        pseudo[::2] = float("nan")
        seen = {"features": np.ones((len(rows), 2))} if with_features else {}
        own = Sample.of(rows, logits, pseudo_logits=pseudo if learned else None, **seen)
        labeled = Sample.of([0, 1], torch.zeros(2, 6), **({"features": np.zeros((2, 2))} if with_features else {}))
        write_sample(folder.diagnostics, step, labeled, own)
    return truth


def sections_of(path):
    """Return title -> visible text of each section, with single spaces."""
    found = re.findall(r"<section[^>]*><h2>(.*?)</h2>(.*?)</section>", path.read_text(encoding="utf-8"), flags=re.S)
    return {title: " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split()) for title, body in found}


def text_of(maker, run):
    """Return the visible text of one section, with single spaces."""
    body = maker(read_classification_inputs(run.path), Pictures()).body
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", "".join(body))).split())


def test_a_whole_run_makes_a_page_with_every_section(run):
    add_metrics(run)
    add_snapshots(run)
    page = write_report(run.path)
    shown = sections_of(page)
    assert list(shown) == [
        "The answer",
        "Summary",
        "Learning curves",
        "Error at the end of each stage",
        "Accuracy per class",
        "Parts of the loss",
        "Entropy, confidence and logit sums",
        "Labels changed by repredictions",
        "Accuracy of pseudo-labels and predictions",
        "Theorem 1",
        "Features",
        "Speed, waits and label age",
        "Labels on their images",
    ]
    tiles = ("70.0 % student accuracy", "30.0 % student error", "6.2 % student top-5 error", "fine-tuning stage")
    others = ("all labels are <one class>", "83.3 % label accuracy", "1.5 min", "1.5 M", "unlabelled images 48")
    for figure in (*tiles, *others):
        assert figure in shown["Summary"]
    text = page.read_text(encoding="utf-8")
    assert "absent" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S) and "<b>" not in shown
    assert "&lt;one class&gt;" in text and not re.search(r'(src|href)="(?!data:|#)', text)


def test_each_stage_has_the_error_of_its_last_evaluation(run):
    add_metrics(run)
    add_snapshots(run, steps=(30, 40, 60))
    text = text_of(stages, run)
    # 0.5 - step / 400; wrong labels: 8 of 48.
    assert text.endswith(
        "supervised 0 to 20 20 45.0 - D2 20 to 40 40 40.0 16.7 D2, with repredictions 40 to 60 60 35.0 16.7 "
        "fine-tuning 60 to 80 80 30.0 -"
    )


def test_labels_are_judged_by_class(run):
    add_metrics(run)
    truth = add_snapshots(run)
    found = read_classification_inputs(run.path)
    (first, last) = found.learned
    assert (first.step, last.step) == (40, 60)
    assert len(truth) == 48 and last.accuracy == 40 / 48  # 60 images less 2 of each of 6 classes
    assert last.truths.tolist() == [8] * 6
    right = np.bincount(truth[8:], minlength=6)
    called = right + np.bincount((truth[:8] + 1) % 6, minlength=6)
    assert last.recall_of(0) == right[0] / 8 and last.precision_of(0) == right[0] / called[0]
    assert [each.step for each in found.predicted] == [20, 40, 60] and found.newest.step == 60


def test_the_gallery_shows_the_sure_and_the_unsure(run):
    truth = add_snapshots(run)
    found = read_classification_inputs(run.path)
    groups = dict(_groups(found.newest, found.truth))
    assert groups["Most confident, right"] == [47, 46, 45, 44, 43, 42, 41, 40]
    assert groups["Most confident, wrong"] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert groups["Least confident"] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [name for name, _ in _groups(found.newest, None)] == ["Most confident", "Least confident"]
    names = found.class_names
    text = text_of(gallery, run)
    assert f"{names[(truth[6] + 1) % 6]} (0.53), truly {names[truth[6]]}" in text  # 0.5 + 6 / 200


def test_the_share_that_a_reprediction_changes_is_over_all_of_its_windows(run):
    add_metrics(run)
    # Repredictions at 40 and 50. Of the first: 6 labels at half, 2 at none: 3 of 8. Step 50 still belongs to it.
    assert list(_changes(read_classification_inputs(run.path))) == [(40.0, 8, 3 / 8)]
    assert "step 40 8 37.5" in text_of(repredictions, run)


def test_theorem_1_is_looked_at_where_labels_are_learned(run):
    add_metrics(run)
    add_snapshots(run, steps=(20, 40, 60, 80))
    step, sample = _newest_learned(read_classification_inputs(run.path))
    assert step == 60 and len(sample.rows) == 24  # not the fine-tuned network; every second image has a label
    # Label and prediction are equal: L = beta * entropy, and a label at rest would be flatter than that.
    text = text_of(theorem, run)
    assert "1 − β/α = 0.7:" in text and "labels are flatter than predictions, as here for 100.0 %" in text


def test_features_are_shown_first_before_the_labels_and_last(run):
    add_snapshots(run, steps=(10, 20, 40, 60))
    assert _moments(read_classification_inputs(run.path)) == [10, 20, 60]
    text = text_of(features, run)
    assert "Step 10: labelled images. Step 10: all images. Step 20" in text


def test_probabilities_of_huge_logits_are_finite():
    shares = softmax(np.array([[1000.0, 0.0], [0.0, 0.0]], dtype=np.float32))
    assert shares.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_a_run_that_has_just_begun_says_what_is_missing(run):
    shown = sections_of(write_report(run.path))
    assert "not started" in shown["Summary"] and "of 80 steps" in shown["Summary"]
    assert "No figures were written yet" in shown["Learning curves"]
    for title in ("Error at the end of each stage", "Accuracy per class"):
        assert "There was no evaluation" in shown[title]
    for title in ("Accuracy of pseudo-labels and predictions", "Labels on their images"):
        assert "No labels or predictions were put aside yet" in shown[title]
    assert "No sample with learned labels" in shown["Theorem 1"]


def test_damage_and_missing_data_cost_their_own_sections_only(run):
    add_metrics(run)
    add_snapshots(run)
    file = run.diagnostics / "step_00000060.labels.arrow"
    file.write_bytes(b"damaged")
    assert f"cannot be read: {file}: damaged" in text_of(correctness, run)
    assert "70.0 % student accuracy" in text_of(summary, run)
    file.unlink()
    (run.data / "hidden.arrow").unlink()
    assert "The run's data cannot be read" in text_of(gallery, run)


def test_snapshots_of_other_data_are_refused(run):
    add_snapshots(run)
    write_labels(run.diagnostics, 60, [48], [0], [0.5], [0.5])
    text = text_of(correctness, run)
    assert "step 60 is about row 48, and the set has 48 images: it belongs to other data" in text


@pytest.mark.parametrize("name", ["supervised_classifier", "mean_teacher", "pseudo_label"])
def test_other_methods_have_a_page_without_what_is_r2d2s(tmp_path, name):
    run = make_run(tmp_path / "run", {"name": name, "burn_in_steps": 20}, network="small_conv")
    models = ("student",) if name == "pseudo_label" else ("teacher", "student")
    add_metrics(run, models=models)
    add_snapshots(run, learned=False, with_features=False)
    shown = sections_of(write_report(run.path))
    assert not {"Theorem 1", "Features", "Labels changed by repredictions"} & shown.keys()
    assert "The dotted line marks the end of a stage (step 20)." in shown["Learning curves"]
    assert f"70.0 % {models[0]} accuracy" in shown["Summary"]
    assert "learns no labels of its own" in shown["Accuracy of pseudo-labels and predictions"]
    assert "Predictions of a sample of step 60" in shown["Labels on their images"]


def test_any_method_that_learns_labels_shows_how_they_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(PseudoLabel, "learns_labels_until", 60)
    method = {"name": "pseudo_label", "burn_in_steps": 20, "reprediction_interval_steps": 20}
    run = make_run(tmp_path / "run", method)
    add_metrics(run)
    add_snapshots(run)
    shown = sections_of(write_report(run.path))
    assert "step 40 8 37.5" in shown["Labels changed by repredictions"] and "Theorem 1" not in shown


def test_another_loss_has_no_theorem(tmp_path):
    run = make_run(tmp_path / "run", R2D2 | {"class_loss_type": "mse"})
    add_snapshots(run)
    assert "method.class_loss_type=mse" in text_of(theorem, run)


def test_images_without_hidden_labels_are_not_judged(run):
    add_metrics(run)
    add_snapshots(run)
    manifest = run.data / "prepared.json"
    content = json.loads(manifest.read_text())
    content["sets"].remove("hidden")
    manifest.write_text(json.dumps(content))
    assert "came without labels" in text_of(correctness, run)
    assert "Most confident Least confident" in re.sub(r" \w+ \(0\.\d\d\)", "", text_of(gallery, run))
