"""The command line as users of classifiers meet it; in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from raydet.cli import main
from raydet.config.classifier import ClassifierConfig
from raydet.families.classification.data import IMAGES
from raydet.settings import dump
from raydet.vision.classifier import Classifier
from tests.helpers import tiny_classes
from tests.integration.test_cli import refused
from tests.tiny_images import write_class_folders, write_idx, write_parquet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A valid YAML file for a run in its folder."""
    folder = tmp_path_factory.mktemp("classes")
    (folder / "config.yaml").write_text(dump(tiny_classes(folder / "run", optim__steps=14)))
    return str(folder / "config.yaml")


@pytest.fixture(scope="module")
def run(config: str) -> str:
    """A finished run."""
    assert main(["train", config]) == 0
    return str(Path(config).parent / "run")


# check-data


def test_a_bare_path_with_classes_is_checked_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for path, format in (
        (write_parquet(tmp_path / "a.parquet"), "parquet"),
        (write_class_folders(tmp_path / "pets", {"cat": 2, "dog": 2}), "folder"),
        (write_idx(tmp_path / "idx"), "idx"),
    ):
        assert main(["check-data", str(path)]) == 0
        said = capsys.readouterr().out
        assert "taken for a classification data set" in said and f"(read as {format})" in said and "no errors" in said
    folder = str(tmp_path / "pets")
    assert main(["check-data", folder, "--task", "detection"]) == 0
    assert "4 of them without boxes" in capsys.readouterr().out


def test_settings_of_a_bare_data_set_are_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = str(write_parquet(tmp_path / "a.parquet", labels=(0, 1, 9, 2, 0, 1)))
    assert main(["check-data", file]) == 1
    assert "label 9 of image id 2: there are 3 classes" in capsys.readouterr().out
    assert main(["check-data", file, "label_column=image", "--no-decode"]) == 1
    assert "column 'image' holds" in capsys.readouterr().out
    assert "label_colum: unknown key; did you mean label_column?" in refused(
        capsys, "check-data", file, "label_colum=x"
    )
    assert "one data set at a time; quote a glob" in refused(capsys, "check-data", file, "b.parquet")


def test_a_part_of_a_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for part in ("train", "val"):
        write_class_folders(tmp_path / "pets" / part, {"cat": 1, "dog": 1})
    assert main(["check-data", str(tmp_path / "pets")]) == 1
    assert "holds the subsets train, val" in capsys.readouterr().out
    assert main(["check-data", str(tmp_path / "pets"), "--subset", "val"]) == 0


def test_images_are_checked_as_those_of_a_pretraining_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_class_folders(tmp_path / "pets", {"cat": 2, "dog": 2})
    assert main(["check-data", str(folder), "--task", "pretraining"]) == 0
    assert "4 images, 4 of them without boxes" in capsys.readouterr().out
    (folder / "cat" / "0.png").write_bytes(b"no image")
    assert main(["check-data", str(folder), "--task", "pretraining"]) == 1
    assert "not an image that can be read" in capsys.readouterr().out


def test_fix_is_for_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, out = str(write_parquet(tmp_path / "a.parquet")), str(tmp_path / "b.json")
    for task in ("classification", "localization"):
        assert f"--fix is for boxes, {file} has classes" in refused(
            capsys, "check-data", file, "--task", task, "--fix", "drop", "--out", out
        )
    assert "add --fix drop or --fix clip" in refused(capsys, "check-data", file, "--out", out)
    assert not Path(out).exists()


def test_a_configs_data_is_checked_with_overrides(config: str, capsys: pytest.CaptureFixture[str]):
    assert main(["check-data", config, "--no-decode"]) == 0
    assert main(["check-data", config, "data.val=/nowhere"]) == 1
    assert "val: /nowhere: no such file or folder" in capsys.readouterr().out
    assert "--subset is for a data set by itself" in refused(capsys, "check-data", config, "--subset", "train")


# evaluate


def test_a_saved_classifier_is_evaluated(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert main(["evaluate", run, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["model"], figures["images"], len(figures["per_class"])) == ("student", 12, 3)
    other = write_class_folders(tmp_path / "pets" / "test", {"circle": 2, "square": 1}).parent
    assert main(["evaluate", run, "--data", str(other), "--subset", "test"]) == 0
    assert "3 images" in capsys.readouterr().out


def test_what_only_describes_other_data_is_refused_without_it(run: str, capsys: pytest.CaptureFixture[str]):
    for option in ("--images", "--subset"):
        assert "describe the data set of --data" in refused(capsys, "evaluate", run, option, "x")
    assert "method.name=r2d2 trains a classifier" in refused(
        capsys, "evaluate", run, "--data", "patterns", "--images", "x"
    )


def test_an_exported_classifier_says_what_the_run_says(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "model.safetensors"
    assert main(["export", run, "--out", str(file)]) == 0
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    names = json.loads(about["class_names"])
    model = Classifier(ClassifierConfig.model_validate_json(about["raydet_model_config"]), len(names)).eval()
    model.load_exported(load_file(file))
    val = IMAGES.open(Path(run) / "data").val
    assert val is not None
    said = model(torch.stack([val.pixels_at(row) for row in range(len(val))])).logits.argmax(dim=1)
    capsys.readouterr()
    assert main(["evaluate", run, "--json"]) == 0
    assert float((said.numpy() == val.labels()).mean()) == json.loads(capsys.readouterr().out)["accuracy"]


# what is for detectors


def test_commands_for_detectors_refuse_classifiers(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "out")
    for words in (
        ("label", run, str(tmp_path), "--out", out),
        ("thresholds", run),
        ("export", run, "--out", f"{out}.onnx"),
    ):
        message = refused(capsys, *words)
        assert "is for detectors" in message and "; method.name=r2d2 trains a classifier" in message
    assert not Path(out).exists() and not Path(f"{out}.onnx").exists()
