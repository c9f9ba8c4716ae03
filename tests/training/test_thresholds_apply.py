"""`raydet thresholds RUN --apply CONFIG.yaml`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet.cli import main
from raydet.data.boxes.synthetic import materialise
from raydet.errors import ConfigError
from raydet.families.detection.data import BOXES
from raydet.families.detection.method import detection_method
from raydet.families.detection.report.history import true_boxes
from raydet.families.detection.thresholds import result
from raydet.families.detection.thresholds.inputs import newest_labels
from raydet.labels.convert import to_table
from raydet.labels.store import PseudoLabelStore
from raydet.records import PseudoBoxes, TeacherRef
from raydet.settings import dump, load, resolve
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from tests.helpers import tiny_config, tiny_soft


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with stored labels."""
    folder = tmp_path_factory.mktemp("apply") / "run"
    launch(tiny_config(folder, method__score_threshold=0.06, method__iou_filter_threshold=0.05))
    store_good_labels(folder)
    return folder


def store_good_labels(run: Path) -> None:
    """Store labels of a later teacher, which finds every object, each class more surely than the one before, and beside
    each object something else, less surely: nothing can be recommended of a network that has seen 8 steps."""
    hidden = BOXES.open_hidden(run / "data")
    store = PseudoLabelStore(run / "labels", "later")
    for image_id in hidden.ids():
        boxes, classes = true_boxes(hidden, image_id)
        sure = np.array([0.07, 0.09, 0.12, 0.2, 0.4, 0.5])[classes]
        order = np.argsort(-np.concatenate([sure, 0.8 * sure]), kind="stable")
        label = PseudoBoxes(
            image_id,
            TeacherRef(8, "later"),
            torch.tensor(np.concatenate([boxes, boxes * 0 + [0, 0, 3, 3]])[order], dtype=torch.float32),
            torch.tensor(np.concatenate([classes, classes])[order]),
            torch.tensor(np.concatenate([sure, 0.8 * sure])[order], dtype=torch.float32),
            torch.full((2 * len(sure),), 0.8),
            0.05,
        )
        store.append(to_table([label]))
    store.flush()


def config_file(folder: Path, **changes: object) -> Path:
    """Write a config of the same method, with a comment in it."""
    file = folder / "mine.yaml"
    text = dump(tiny_config(folder / "new", **changes))
    file.write_text(text.replace("  score_threshold:", "  # how sure\n  score_threshold:"))
    return file


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["thresholds", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("raydet: error: ") == 1 and "Traceback" not in said
    return said


def test_the_recommendation_lands_in_the_file_and_nothing_else_changes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = config_file(tmp_path, method__score_threshold=0.9, method__iou_filter_threshold=0.9)
    before, text = load(file), file.read_text()
    assert main(["thresholds", str(run), "--apply", str(file)]) == 0
    said = capsys.readouterr().out
    found = json.loads((run / "thresholds.json").read_text())["recommended"]
    after = load(file)
    changed = {"score_threshold": found["score"], "iou_filter_threshold": found["quality"]}
    assert after == before.model_copy(update={"method": before.method.model_copy(update=changed)})
    assert "-  score_threshold: 0.9" in said and f"+  score_threshold: {found['score']}" in said
    assert f"written: {file}" in said
    different = [(a, b) for a, b in zip(text.splitlines(), file.read_text().splitlines(), strict=True) if a != b]
    assert len(different) == 2
    assert main(["thresholds", str(run), "--apply", str(file)]) == 0
    assert "has the recommended thresholds already" in capsys.readouterr().out


def test_thresholds_of_classes_are_written_trained_with_and_taken_away_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(result, "FEW_TRUTHS", 1)  # of a small set
    monkeypatch.setattr(result, "HALF", 0.0)
    labels = {"method__score_threshold": 0.3, "method__iou_filter_enabled": False}
    own = {"circle": 0.06, "square": 0.1}
    folder = launch(tiny_config(tmp_path / "run", method__class_thresholds=own, **labels)).path
    store_good_labels(folder)
    method = detection_method(RunFolder(folder).load_config(), "a test")
    method.know_classes(BOXES.open(folder / "data").class_names)
    kept = sum(len(method.select(label).kept) for label in newest_labels(folder / "labels", None, 1000))
    words = ["--grid", "score=0.06,0.08,0.1,0.15", "--apply"]
    assert refused(capsys, folder, "--per-class").endswith("says what --apply CONFIG.yaml writes; give both\n")

    file = config_file(tmp_path, method__class_thresholds={"star": 0.5}, **labels)
    assert main(["thresholds", str(folder), *words, str(file), "--per-class"]) == 0
    found = json.loads((folder / "thresholds.json").read_text())
    assert found["present"]["boxes"] == kept > 0
    assert (found["present"]["score"], found["present"]["highest_score"]) == (0.06, 0.3)
    own = {name: each["recommended_for_it"] for name, each in found["per_class"].items()}
    common = found["recommended"]["score"]
    expected = {name: each["score"] for name, each in own.items() if each and each["score"] != common}
    assert load(file).method.class_thresholds == expected and expected
    by_class = found["recommended_by_class"]
    assert by_class["boxes"] == sum(
        (each["recommended_for_it"] or each["recommended_for_all"])["boxes"] for each in found["per_class"].values()
    )
    monkeypatch.setattr(result, "FEW_TRUTHS", 1000)  # nothing can be said of any class
    kept_file = config_file(tmp_path, method__class_thresholds={"star": 0.5, "circle": 0.4}, **labels)
    capsys.readouterr()
    assert main(["thresholds", str(folder), *words, str(kept_file), "--per-class"]) == 0
    assert load(kept_file).method.class_thresholds == {"star": 0.5, "circle": 0.4}
    assert (
        "No threshold of its own for circle, square, triangle, ellipse, hexagon and 1 more" in capsys.readouterr().out
    )
    assert main(["thresholds", str(folder), *words, str(file)]) == 0
    assert (load(file).method.score_threshold, load(file).method.class_thresholds) == (common, {})
    assert main(["report", str(folder)]) == 0
    shutil.rmtree(folder / "data")
    assert main(["report", str(folder)]) == 0  # what it cannot say, it says
    page = (folder / "report.html").read_text()
    assert "cannot be read: method.class_thresholds are given, and which classes the data has is not known" in page


def test_a_threshold_for_a_class_that_is_not_there_is_refused_before_there_is_a_run(tmp_path: Path):
    config = tiny_config(tmp_path / "run", method__class_thresholds={"stars": 0.5})
    with pytest.raises(ConfigError, match="the data has no class 'stars'; did you mean 'star'"):
        launch(config)
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(ConfigError, match=r"method.class_thresholds.star is below labels.score_floor=0.05"):
        tiny_config(tmp_path, method__class_thresholds={"star": 0.04})


def test_a_method_with_one_threshold_for_all_classes_takes_none_of_single_ones(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    soft = tiny_soft(tmp_path / "soft")
    (tmp_path / "soft").mkdir()
    (tmp_path / "soft" / "config.json").write_text(soft.model_dump_json())
    file = tmp_path / "soft.yaml"
    file.write_text(dump(soft))
    said = refused(capsys, tmp_path / "soft", "--apply", file, "--per-class")
    assert "--per-class: method.name=soft_teacher has no score thresholds of single classes to set" in said


def test_a_misspelt_class_is_found_by_check_data_doctor_and_a_search_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = config_file(tmp_path, method__class_thresholds={"stars": 0.5})
    said = "method.class_thresholds: the data has no class 'stars'; did you mean 'star'"
    assert main(["check-data", str(file)]) == 1
    assert said in capsys.readouterr().out
    assert main(["doctor", str(file)]) == 1
    assert said in capsys.readouterr().out


def test_a_new_file_leaves_the_old_one_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, new = config_file(tmp_path, method__score_threshold=0.9), tmp_path / "new.yaml"
    text = file.read_bytes()
    assert main(["thresholds", str(run), "--json", "--apply", str(file), "--out", str(new)]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)["recommended"]  # figures alone on stdout
    assert f"+++ {new}" in said.err
    assert file.read_bytes() == text
    assert load(new).method.score_threshold == found["score"]
    assert "exists already" in refused(capsys, run, "--apply", file, "--out", new)


def test_what_cannot_take_the_thresholds_is_refused_and_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = config_file(tmp_path)
    other = tmp_path / "other.yaml"
    tree = {**tiny_config(tmp_path / "x").model_dump(mode="json"), "method": {"name": "unbiased_teacher"}}
    tree["optim"]["steps"] = 3000
    other.write_text(dump(resolve(tree, {})))
    said = refused(capsys, run, "--apply", other)
    assert "method.name=unbiased_teacher, but" in said and "trained with method.name=il_net" in said
    ungated = config_file(tmp_path, method__iou_filter_enabled=False)
    assert "its method has the thresholds method.score_threshold, that of" in refused(capsys, run, "--apply", ungated)
    high = config_file(tmp_path, labels__score_floor=0.85, method__score_threshold=0.9)
    text = high.read_text()
    assert "below labels.score_floor=0.85" in refused(capsys, run, "--apply", high, "--grid", "score=0.06,0.07")
    assert high.read_text() == text
    assert "no such config file" in refused(capsys, run, "--apply", tmp_path / "nowhere.yaml")
    record = run / "config.yaml"
    assert "record of what a run was trained with" in refused(capsys, run, "--apply", record)
    assert "--out names the file" in refused(capsys, run, "--out", tmp_path / "y.yaml")
    assert main(["thresholds", str(run), "--apply", str(record), "--out", str(tmp_path / "z.yaml")]) == 0
    assert load(tmp_path / "z.yaml").method.name == "il_net" and file.exists()


def test_a_run_that_cannot_be_written_to_costs_neither_the_figures_nor_the_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "thresholds.json").unlink(missing_ok=True)
    (copy / "thresholds.json" / "in the way").mkdir(parents=True)
    file = config_file(tmp_path, method__score_threshold=0.9)
    capsys.readouterr()
    assert main(["thresholds", str(copy), "--apply", str(file)]) == 2
    said = capsys.readouterr()
    assert "recommended: method.score_threshold=" in said.out and f"written: {file}" in said.out
    assert load(file).method.score_threshold < 0.9
    assert said.err == f"raydet: error: {copy}: the results cannot be written there: Is a directory\n"


def test_a_part_of_a_data_set_is_named_with_subset(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shapes = tiny_config(tmp_path).data.val.shapes
    for part, images in (("train", 3), ("valid", 2)):
        made = materialise(shapes.model_copy(update={"num_images": images}), tmp_path)
        shutil.move(made.parent, tmp_path / "set" / part)
    words = ["--data", tmp_path / "set", "--grid", "score=0.06,0.1", "quality=0.05"]
    assert "or set `subset` (train, valid)" in refused(capsys, run, *words)
    assert main(["thresholds", str(run), *map(str, words), "--subset", "valid"]) == 0
    assert "run now on 2 images of" in capsys.readouterr().out
    said = refused(capsys, run, "--subset", "valid")
    assert said.endswith("--images and --subset describe the labelled images of --data; give both\n")


def test_a_link_stays_a_link_and_a_byte_order_mark_stays(run: Path, tmp_path: Path):
    file = config_file(tmp_path, method__score_threshold=0.9)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    assert main(["thresholds", str(run), "--apply", str(link)]) == 0
    assert link.is_symlink() and file.read_bytes().startswith(b"\xef\xbb\xbf") and load(file).method.name == "il_net"
    assert load(file).method.score_threshold < 0.9
