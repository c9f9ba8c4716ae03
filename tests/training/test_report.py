from __future__ import annotations

import html
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from raydet.errors import ConfigError, UserError
from raydet.families.detection import report as detection_report
from raydet.families.detection.data import BOXES
from raydet.families.detection.report import sections as detection_sections
from raydet.families.detection.report.history import read_history
from raydet.families.detection.report.inputs import read_inputs
from raydet.families.detection.tide import KINDS, NAMES
from raydet.labels.convert import to_table
from raydet.labels.store import PseudoLabelStore
from raydet.metrics import MetricsWriter
from raydet.records import PseudoBoxes, TeacherRef
from raydet.report.page import Pictures
from raydet.report.write import write_report
from raydet.settings import resolve
from raydet.train.rundir import RunFolder

BOX = [10.0, 10.0, 30.0, 40.0]
HOSTILE = '<script>alert("x")</script>'
ERRORS = {"gains": dict.fromkeys(NAMES, 0.125), "counts": dict.fromkeys(KINDS, 1234)}


def write_images(folder, number, names=("cat", HOSTILE)):
    """Write a COCO set: every image has BOX of class 0 and its right half of class 1."""
    folder.mkdir(parents=True)
    images, annotations = [], []
    for i in range(number):
        Image.new("RGB", (64, 48), (i * 20, 90, 120)).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 48, "width": 64})
        for k, box in enumerate(([10, 10, 20, 30], [40, 10, 10, 10])):
            annotation = {"id": len(annotations), "image_id": i, "category_id": k, "bbox": box, "area": box[2] * box[3]}
            annotations.append({**annotation, "iscrowd": 0})
    categories = [{"id": k, "name": name} for k, name in enumerate(names)]
    path = folder / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture(autouse=True)
def by_score(monkeypatch):
    """The method of every run here keeps what scores above a half."""
    monkeypatch.setattr(detection_report, "own_select", lambda config, folder: above_half)


def prepare(tmp_path, number):
    """Return a prepared run folder of `number` images, two of them labelled; no metrics, no labels yet."""
    tree = {
        "run": {"dir": str(tmp_path / "run")},
        "data": {"labeled": str(write_images(tmp_path / "images", number)), "labeled_count": 2},
        "method": {"name": "il_net", "burn_in_steps": 10},
        "optim": {"steps": 100, "labeled_batch": 1, "unlabeled_batch": 1},
    }
    config = resolve(tree, {})
    folder = RunFolder(tmp_path / "run")
    folder.prepare(config, resume=False)
    BOXES.prepare(config.data, folder.data)
    return folder


@pytest.fixture
def run(tmp_path):
    return prepare(tmp_path, 6)


def label(image_id, version, rows):
    """Return a label from (box, class, score) rows."""
    boxes, classes, scores = zip(*rows, strict=True)
    return PseudoBoxes(
        image_id,
        TeacherRef(version, f"digest-{version}"),
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(classes),
        torch.tensor(scores),
        torch.tensor(scores),
        0.05,
    )


def add_labels(folder, versions, rows=((BOX, 0, 0.9), ([0.0, 0.0, 5.0, 5.0], 1, 0.3))):
    """Store the same boxes for each hidden image and version: by default a right one, and a wrong one of low score."""
    hidden = BOXES.open_hidden(folder.data)
    store = PseudoLabelStore(folder.labels, writer="rank0")
    for version in versions:
        store.append(to_table([label(image_id, version, rows) for image_id in hidden.ids()]))
    store.flush()
    return hidden


def above_half(stored):
    return stored.where(stored.scores > 0.5)


def add_metrics(folder):
    writer = MetricsWriter(folder.path, tensorboard=False)
    writer.write({"kind": "start", "step": 0, "time": 0.0, "attempt": 0, "world": 1, "num_params": 2_500_000})
    for step in (10, 20, 30):
        values = {"loss": 1.0 if step < 30 else float("nan"), "lr": 0.1, "images_per_s": 3.0, "step_s": 0.5}
        if step > 10:
            values |= {
                "pseudo/boxes_per_image": 1.5, "gate/score/dropped": 1.0, "labels/age_max": 1, "labels/age_mean": 1.0,
                "gate/quality/dropped": 4.0, "gate/quality/mean_dropped": 0.2, "gate/quality/background": 0.5,
                "loss/unsup/roi_cls/raw": 0.1, "loss/unsup/roi_cls/weighted": 0.4, "loss/unsup/roi_cls/share": 0.4,
            }  # fmt: skip
        writer.write({"kind": "step", "step": step, "time": float(step), **values})
    for model, ap in (("student", 0.25), ("teacher", 0.375)):
        per_class = {"cat": {"AP": ap, "AP50": 0.5}, HOSTILE: {"AP": None, "AP50": None}}
        figures = {"AP": ap, "AP50": 0.5, "AP75": 0.2, "APs": None, "APm": 0.1, "APl": None}
        writer.write(
            {"kind": "eval", "step": 30, "time": 31.0, "split": "val", "model": model, **figures}
            | {"per_class": per_class, "tide": ERRORS}
        )
    writer.write({"kind": "alarm", "step": 20, "time": 20.0, "name": "x", "message": "no pseudo-box <survives>"})
    writer.write({"kind": "end", "step": 30, "time": 60.0, "reason": "done"})
    writer.close()


def sections_of(path):
    """Return title -> visible text of each section."""
    page = path.read_text(encoding="utf-8")
    found = re.findall(r"<section[^>]*><h2>(.*?)</h2>(.*?)</section>", page, flags=re.S)
    return {title: html.unescape(re.sub(r"<[^>]+>", " ", body)) for title, body in found}


def test_a_whole_run_makes_a_page_with_every_section(run):
    add_metrics(run)
    add_labels(run, [10, 20, 30])
    path = write_report(run.path)
    shown = sections_of(path)
    assert path == run.path / "report.html"
    assert list(shown) == [
        "The answer",
        "Summary",
        "Learning curves",
        "AP per class",
        "Errors by kind",
        "Unsupervised losses",
        "Localisation of the pseudo-boxes",
        "What the gates drop",
        "Precision and recall of the pseudo-labels",
        "Speed, waits and label age",
        "Newest labels",
    ]
    for figure in ("37.5", "25.0", "no pseudo-box <survives>", "Step 30: not finite: loss", "0.4", "2.5 M", "1.0 min"):
        assert figure in shown["Summary"]
    assert "12.5" in shown["Errors by kind"]
    assert "1,234" in shown["Errors by kind"]
    assert "absent" not in re.sub(r"<style>.*?</style>", "", path.read_text(), flags=re.S)
    # 3 versions x 4 hidden images = 12 labels; the true cat of each is found.
    table = shown["Precision and recall of the pseudo-labels"].split()
    assert table[table.index("cat") + 1 : table.index("cat") + 5] == ["12", "12", "100.0", "100.0"]


def test_what_limits_the_run_is_read_from_its_labels_and_stands_in_the_answer(tmp_path):
    folder = prepare(tmp_path, 26)
    add_metrics(folder)
    assert "What limits it" not in sections_of(write_report(folder.path))["The answer"]
    # 24 hidden images with two true boxes each: the cats are found, at a score that the threshold of 0.7 is above.
    add_labels(folder, [30], [(BOX, 0, 0.68)])
    shown = " ".join(sections_of(write_report(folder.path))["The answer"].split())
    assert "What limits it The teacher is unsure: it keeps 0 % of the true boxes at method.score_thr" in shown
    assert "Lower it: at 0.65 it keeps 50 %, and 100 % is right." in shown
    assert "What is right and wrong was counted with the hidden truth" in shown


def test_a_picture_of_the_gates_shows_what_they_drop_and_nothing_else(run, monkeypatch):
    drawn = {}

    def plot(run, pictures, name, series, *rest, **options):
        drawn[name] = {label: values for label, (_, values) in series.items()}
        return ""

    monkeypatch.setattr(detection_sections, "plot", plot)
    add_metrics(run)
    detection_sections.gates(read_inputs(run.path, above_half), Pictures())
    assert drawn == {
        "gates.png": {"quality": [4.0, 4.0], "score": [1.0, 1.0]},
        "gate_background.png": {"passed as background": [0.5, 0.5]},
        "kept.png": {"kept": [1.5, 1.5]},
        "kept_scores.png": {"quality, dropped": [0.2, 0.2]},
    }


def test_the_page_needs_nothing_else_and_the_pictures_are_saved_beside_it(run):
    add_metrics(run)
    add_labels(run, [10])
    page = write_report(run.path).read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    pictures = {path.name for path in (run.path / "plots").iterdir()}
    assert {"loss.png", "ap.png", "loss_shares.png", "iou.png", "gates.png", "labels_0.jpg"} <= pictures
    assert page.count("<img ") == len(pictures)
    with Image.open(run.path / "plots" / "loss.png") as image:
        assert image.width > 600


def test_class_names_and_messages_cannot_become_markup(run):
    add_metrics(run)
    add_labels(run, [10])
    page = write_report(run.path).read_text()
    assert "<script" not in page and "&lt;script&gt;alert(&quot;x&quot;)" in page


def test_an_empty_run_folder_says_what_is_missing_in_every_section(run):
    shown = sections_of(write_report(run.path))
    assert "not started" in shown["Summary"]
    assert "No figures were written yet" in shown["Learning curves"]
    assert "no evaluation" in shown["AP per class"]
    for title in ("Localisation of the pseudo-boxes", "What the gates drop", "Newest labels"):
        assert "No pseudo-labels are stored yet" in shown[title]


def test_missing_data_and_images_do_not_stop_the_report(run, tmp_path):
    add_metrics(run)
    add_labels(run, [10])
    for path in (tmp_path / "images").glob("*.png"):
        path.unlink()
    assert "images" in sections_of(write_report(run.path))["Newest labels"]
    (run.data / "hidden.arrow").write_bytes(b"damaged")
    shown = sections_of(write_report(run.path))
    assert "hidden.arrow: damaged" in shown["Localisation of the pseudo-boxes"]
    assert "37.5" in shown["Summary"]


def test_a_damaged_label_store_is_named(run):
    add_labels(run, [10])
    (segment,) = run.labels.glob("*.arrow")
    segment.write_bytes(segment.read_bytes()[:-9])
    shown = sections_of(write_report(run.path))
    assert f"cannot be read: {segment}" in shown["What the gates drop"]


def test_a_supervised_run_has_no_pseudo_label_sections(run, monkeypatch):
    monkeypatch.setattr(
        detection_report, "own_select", lambda config, folder: lambda stored: pytest.fail("nothing to select")
    )
    tree = json.loads(run.config_json.read_text())
    run.config_json.write_text(json.dumps(tree | {"method": {"name": "supervised"}}))
    shown = sections_of(write_report(run.path))
    assert "A supervised run has none" in shown["Unsupervised losses"]
    assert "A supervised run has no pseudo-labels" in shown["Newest labels"]


def test_a_folder_without_a_run_and_a_missing_library_are_users_mistakes(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"no config\.json"):
        write_report(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'raydet\[plots\]'"):
        write_report(tmp_path)


def test_damaged_figures_are_a_users_error(run):
    run.metrics.write_text("nonsense\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: not a JSON object: .*; mend or delete that line"):
        write_report(run.path)


def test_importing_the_report_does_not_import_matplotlib():
    import subprocess

    check = "import raydet.report, sys; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_history_judges_what_the_method_keeps(run):
    hidden = add_labels(run, range(10, 40))
    history = read_history(run.labels, hidden, above_half)
    # 30 versions x 4 images = 120 labels; stretches of at least 60 labels make 2 of 15 versions each.
    assert [(w.first, w.last, w.labels, w.sampled) for w in history.windows] == [(10, 24, 60, 60), (25, 39, 60, 60)]
    first = history.windows[0]
    assert first.quality.precision == 1.0 and first.quality.recall == 0.5
    assert first.quality.iou_histogram.tolist() == [0] * 9 + [60]
    assert sorted(each.stored.image_id for each in history.newest) == sorted(hidden.ids())
    assert {each.stored.teacher.version for each in history.newest} == {39}


def test_the_history_without_truth_has_no_quality(run):
    add_labels(run, [10])
    (window,) = read_history(run.labels, None, above_half).windows
    assert window.quality is None and window.middle == 10


def test_smoothing_does_not_reach_across_the_burn_in():
    from raydet.report.figures import _smooth

    x = np.arange(200.0)
    y = np.where(x <= 99, 0.0, 1.0)
    assert np.array_equal(_smooth(x, y, (99.0,)), y)
    assert not np.array_equal(_smooth(x, y, ()), y)
