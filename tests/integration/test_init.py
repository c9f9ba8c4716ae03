"""`raydet init` as users meet it: every file that it writes loads, passes check-data, and trains untouched."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raydet.cli import main
from raydet.config.box_data import ShapesConfig
from raydet.config.load import read_yaml
from raydet.data.boxes.synthetic import materialise
from raydet.metrics import read_metrics
from raydet.settings import load
from tests.helpers import data_folder
from tests.tiny_images import noise

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SHAPES = "shapes={num_images: 40, height: 64, width: 96, max_objects: 3}"
PATTERNS = "patterns={num_images: 60, size: 32, num_classes: 3}"


def written(folder: Path, *arguments: str) -> Path:
    out = folder / "made.yaml"
    assert main(["init", *arguments, "--no-measure", "--out", str(out)]) == 0
    return out


def tree(out: Path) -> Any:
    return read_yaml(out.read_text(), str(out))


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """Run an init that is the user's mistake; return the one message. Nothing is written."""
    out = folder / "not.yaml"
    capsys.readouterr()
    assert main(["init", *arguments, "--no-measure", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("raydet: error: ") and said.count("raydet: error") == 1 and not out.exists()
    return said.removeprefix("raydet: error: ")


@pytest.mark.parametrize(
    ("dataset", "settings", "method"),
    [
        ("shapes", SHAPES, "il_net"),
        ("shapes", SHAPES, "unbiased_teacher"),
        ("shapes", SHAPES, "supervised"),
        ("shapes", SHAPES, "soft_teacher"),
        ("shapes", SHAPES, "gradient_sampling"),
        ("shapes", SHAPES, "logit_adjustment"),
        ("shapes", SHAPES, "classifier_retraining"),
        ("shapes", SHAPES, "eqlv2"),
        ("patterns", PATTERNS, "pseudo_label"),
        ("patterns", PATTERNS, "mean_teacher"),
        ("patterns", PATTERNS, "r2d2"),
        ("patterns", PATTERNS, "supervised_classifier"),
    ],
)
def test_every_method_has_a_file_that_loads_and_passes_check_data(
    tmp_path: Path, dataset: str, settings: str, method: str
):
    out = written(tmp_path, dataset, settings, "--labels", "12", "--method", method)
    config = load(out)
    assert config.method.name == method and config.data.has_val
    assert main(["check-data", str(out)]) == 0


@pytest.mark.parametrize(("dataset", "settings"), [("shapes", SHAPES), ("patterns", PATTERNS)])
def test_a_written_file_trains(tmp_path: Path, dataset: str, settings: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # run.dir is relative
    out = written(tmp_path, dataset, settings, "--labels", "12")
    assert main(["train", str(out), "run.stop_at=1", "log.every=1"]) == 0  # the file's own length takes too long here
    assert [line["step"] for line in read_metrics(tmp_path / "runs/made/metrics.jsonl") if line["kind"] == "step"] == [
        1
    ]


def test_a_few_steps_are_measured_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "made.yaml"
    assert main(["init", "patterns", PATTERNS, "--labels", "12", "--out", str(out)]) == 0
    measured = re.compile(r"\d s per burn-in step, \d+\.\d\d s per [a-z-]+ step.* for 160 steps without evaluations")
    assert measured.search(capsys.readouterr().out)
    assert measured.search(" ".join(out.read_text().split("\nrun:")[0].replace("\n# ", " ").split()))


def test_pretraining_has_a_file_that_says_how_its_proposals_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = materialise(ShapesConfig(num_images=24, height=64, width=96), tmp_path / "made")
    monkeypatch.chdir(made.parent)
    assert main(["init", str(made), "--task", "pretraining", "--out", "made.yaml"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\d s per training step", said)  # measured, with the same boxes in every image
    assert "raydet proposals images --out runs/made-proposals" in said
    config = load("made.yaml")
    assert (config.method.name, config.data.proposals) == ("adept", "runs/made-proposals")
    assert config.model.rpn_batch == 16  # small views: of more, nearly all are background
    assert main(["check-data", "made.yaml"]) == 1  # they are not there yet
    assert main(["proposals", "images", "--out", "runs/made-proposals", "--source", "grid"]) == 0
    assert main(["check-data", "made.yaml"]) == 0
    assert main(["train", "made.yaml", "run.stop_at=1", "log.every=1"]) == 0
    said = refused(capsys, tmp_path, str(made), "--task", "pretraining", "--labels", "3")
    assert said.startswith("--labels: pre-training learns from images without labels")


def test_all_labels_and_no_other_image_make_a_supervised_run(tmp_path: Path):
    made = tree(written(tmp_path, "shapes", SHAPES))
    assert made["method"]["name"] == "supervised" and "unlabeled_batch" not in made["optim"]
    assert made["data"]["val_count"] == 8  # a fifth of 40


def test_hidden_boxes_decide_nothing(tmp_path: Path):
    """Of the images that are to be unlabelled, boxes are not looked at: anchors are judged by one labelled image."""
    few = written(tmp_path / "a", "shapes", SHAPES, "--labels", "1").read_text()
    all_of_them = written(tmp_path / "b", "shapes", SHAPES).read_text()
    recalls = [re.findall(r"recall of the best anchor ([^;]*)", text.replace("\n", " ")) for text in (few, all_of_them)]
    assert recalls[0] and recalls[0] != recalls[1]


def test_every_value_has_its_reason_near(tmp_path: Path):
    lines = written(tmp_path, "shapes", SHAPES, "--labels", "12").read_text().splitlines()
    bare = ("dir:", "weights:", "rpn_pre_nms_test:", "rpn_post", "every:", "val:", "labeled:")
    silent = [
        line
        for before, line in zip(lines, lines[1:], strict=False)
        if line.startswith("  ") and not line.strip().startswith("#") and not line.endswith(":")
        if "  # " not in line and not before.strip().startswith("#") and not line.strip().startswith(bare)
    ]
    assert silent == []


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    assert main(["init", "shapes", SHAPES, "--no-measure", "--out", str(out)]) == 2
    assert "is there already, and is not overwritten" in capsys.readouterr().err and out.read_text() == "mine"


def test_the_file_is_named_after_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = materialise(ShapesConfig(num_images=12, height=64, width=96), tmp_path / "made").parent
    train = Path(shutil.copytree(made, tmp_path / "cells" / "annotations")) / "train.json"
    (train.parent / "annotations.json").rename(train)
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(train), "--no-measure"]) == 0
    assert tree(tmp_path / "cells.yaml")["run"]["dir"] == "runs/cells"


def test_a_validation_file_is_taken_as_it_is_and_of_a_folder_its_part_for_that(tmp_path: Path):
    train = materialise(ShapesConfig(num_images=12, height=64, width=96), tmp_path / "made")
    folder = tmp_path / "other"
    for name in ("train", "val"):
        shutil.copytree(train.parent / "images", folder / "images", dirs_exist_ok=True)
        shutil.copy(train, folder / f"{name}.json")
    file = tree(written(tmp_path / "a", str(train), "--val", str(folder / "train.json")))
    assert file["data"]["val"] == str(folder / "train.json")
    assert tree(written(tmp_path / "b", str(train), "--val", str(folder)))["data"]["val"] == str(folder / "val.json")


def test_warnings_about_the_data_are_counted_and_stand_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The unlabelled images hold those of training and of validation, which is a leak."""
    made = materialise(ShapesConfig(num_images=12, height=64, width=96), tmp_path / "made")
    out = written(tmp_path, str(made), "--unlabeled", str(made.parent / "images"))
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNINGS")]
    assert said.startswith(f"WARNINGS, listed by `raydet check-data {out}`: ")
    assert said.endswith("12 image-in-two-sets (9 in labeled and unlabeled, 3 in unlabeled and val)")
    assert said in out.read_text().split("\nrun:")[0].replace("\n# ", " ")


def pictures(folder: Path, *classes: str, count: int = 4) -> str:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for each in range(count):
            Image.fromarray(noise(number, each, 40, 40)).save(folder / name / f"{each}.png")
    return str(folder)


def test_class_folders_make_a_classifier_and_a_handful_of_images_is_not_evaluated(tmp_path: Path):
    out = written(tmp_path, pictures(tmp_path / "d", "cat", "dog", count=2))
    assert "NOTHING IS EVALUATED" in out.read_text() and tree(out)["model"]["network"] == "efficientnet_lite0"
    assert "val_count" not in tree(out)["data"] and main(["check-data", str(out)]) == 0


def test_folders_of_parts_are_found_and_plain_images_are_unlabelled(tmp_path: Path):
    parts = tmp_path / "d"
    pictures(parts / "train", "cat", "dog")
    pictures(parts / "val", "dog", "cat")
    more = pictures(tmp_path / "more", "", count=9)
    made = tree(written(tmp_path, str(parts), "--unlabeled", more, "--task", "classification"))
    assert made["data"]["val"] == {"path": str(parts), "subset": "val"} and made["method"]["name"] == "pseudo_label"
    assert made["optim"]["unlabeled_batch"] == 9  # no more than there are


def test_the_file_holds_the_command_that_wrote_it(tmp_path: Path):
    folder = tmp_path / "my set"
    pictures(folder / "train", "cat", "dog")
    more = pictures(tmp_path / "more one", "", count=3)
    options = ["--unlabeled", more, "--labels", "6", "--method", "pseudo_label", "--subset", "train"]
    command = [str(folder), "format=folder", *options, "--task", "classification"]
    text = written(tmp_path / "out of it", *command).read_text()
    first, check, train = [line[4:] for line in text.splitlines() if line.startswith("#   raydet ")]
    out = str(tmp_path / "out of it" / "made.yaml")
    assert shlex.split(first) == ["raydet", "init", *command, "--out", out, "--no-measure"]
    assert shlex.split(check) == ["raydet", "check-data", out] and shlex.split(train) == ["raydet", "train", out]


def test_one_class_is_enough_for_a_detector_and_too_few_for_a_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one = pictures(tmp_path / "d", "cat")
    said = refused(capsys, tmp_path, one, "--task", "classification")
    assert "needs two classes or more, found 'cat'" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ABSENT"], "no such file or folder"),
        (["EMPTY"], "no data set found there"),
        (["PICTURES"], "images, but no annotations there; looked for"),
        (["shapes", SHAPES, "--unlabeled", "EMPTY"], "--unlabeled EMPTY: no data set found there"),
        (["shapes", SHAPES, "--unlabeled", "ABSENT"], "--unlabeled ABSENT: no such file or folder"),
        (["shapes", SHAPES, "--labels", "33"], "has 32 images beside the 8 that are withheld"),
        (["shapes", SHAPES, "--labels", "0"], "give a number of images, at least 1"),
        (["shapes", SHAPES, "--method", "il_net"], "needs unlabelled images: give --unlabeled DIR, or --labels N"),
        (["shapes", SHAPES, "--method", "r2d2"], "a detector is trained by supervised, unbiased_teacher, il_net"),
        (["shapes", SHAPES, "--val", "ABSENT"], "no such file or folder"),
        (["patterns", "patterns={num_images: 0}"], "num_images"),
    ],
)
def test_what_cannot_be_is_one_message(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    pictures(tmp_path / "PICTURES", "")
    assert message in refused(capsys, tmp_path, *arguments)


def test_broken_boxes_are_listed_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "a.json"
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    images = [{"id": 1, "file_name": "a.png", "width": 50, "height": 40}]
    boxes = [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [30, 0, 90, 20]}]
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}))
    said = refused(capsys, tmp_path, str(file))
    assert "annotation id 7" in said and f"`raydet check-data {file}` lists everything" in said


@pytest.mark.parametrize("name", ["bccd", "cards", "foda_lt", "coco_cc", "signdigits", "clothing"])
def test_real_sets(tmp_path: Path, name: str):
    out = written(tmp_path, str(data_folder(name)), "--labels", "40")
    made = tree(out)
    assert made["data"]["val"] and made["data"]["labeled_count"] == 40
    assert main(["check-data", str(out), "--no-decode"]) == 0
