"""Paths that people write: the home folder and variables, wherever a path may stand; places that do not last."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel

from raydet.cli import COMMANDS, main
from raydet.config.explain import _models
from raydet.config.paths import PathText, check_lasts, path_argument
from raydet.errors import ConfigError
from raydet.label_files.run import LabelOptions, label
from raydet.registry import config_classes
from raydet.settings import dump_file, load, resolve
from raydet.train.launch import launch
from raydet.train.saved import export
from tests.helpers import TINY, tiny_config
from tests.tiny_data import write_coco

COPY = Path("/tmp/ray/session_x/runtime_resources/working_dir_files/_ray_pkg_46b4")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_run_is_written_below_the_home_folder_and_nothing_is_called_tilde(home: Path, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(dump_file(tiny_config(tmp_path / "run", optim__steps=4)))
    assert main(["train", "config.yaml", "run.dir=~/runs/x"]) == 0
    assert (home / "runs" / "x" / "checkpoints").is_dir()
    assert main(["train", "config.yaml", "run.dir=${SCRATCH}/x"]) == 0
    assert (tmp_path / "scratch" / "x" / "checkpoints").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "home", "scratch"]
    assert main(["evaluate", "~/runs/x"]) == 0
    assert main(["export", "${SCRATCH}/x", "--out", "~/out/m.safetensors"]) == 0
    assert (home / "out" / "m.safetensors").is_file()


def test_weights_and_data_are_found_in_the_home_folder(home: Path):
    torch.save({}, home / "w.pth")
    write_coco(home / "set")
    config = resolve(TINY, {"run.dir": "r", "data.val": "~/set/data.json"})
    assert config.data.val.path == str(home / "set" / "data.json")
    model = {"backbone": "resnet18_fpn", "weights": "~/w.pth"}
    config = resolve({**TINY, "model": model}, {"run.dir": "r", "run.fork_from": "${SCRATCH}/step_1"})
    assert config.model.weights == str(home / "w.pth")
    assert config.run.fork_from == str(home.parent / "scratch" / "step_1")


def test_what_is_not_set_is_named_with_its_key(home: Path):
    with pytest.raises(ConfigError, match=r"run\.dir: environment variable NOWHERE in '\$\{NOWHERE\}/x' is not set"):
        resolve(TINY, {"run.dir": "${NOWHERE}/x"})
    with pytest.raises(ConfigError, match=r"run\.dir: '~nobody-here/x': no home folder is known for ~nobody-here"):
        resolve(TINY, {"run.dir": "~nobody-here/x"})
    assert resolve(TINY, {"run.dir": "${NOWHERE:-/data}/x"}).run.dir == "/data/x"
    with pytest.raises(argparse.ArgumentTypeError, match="NOWHERE"):
        path_argument("${NOWHERE}")


def test_an_empty_path_is_refused_and_is_not_the_working_directory(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NOTHING", "")
    said = "'' is empty; write a path, or leave it out (is a variable of the shell not set?)"
    for key in ("run.dir", "run.fork_from", "data.labeled.path", "data.labeled.images", "model.weights"):
        with pytest.raises(ConfigError) as error:
            resolve(TINY, {"run.dir": "r", key: ""})
        assert str(error.value).endswith(f"{key}: {said}")
    with pytest.raises(ConfigError, match=r"run\.dir: '\$\{NOTHING:-\}' is empty"):
        resolve(TINY, {"run.dir": "${NOTHING:-}"})
    with pytest.raises(SystemExit):
        main(["thresholds", "run", "--apply", ""])
    assert f"argument --apply: {said}" in capsys.readouterr().err
    (home.parent / "config.yaml").write_text(dump_file(tiny_config(home.parent / "run")))
    assert main(["tune", "--config", "config.yaml", ""]) == 2
    assert capsys.readouterr().err == f"raydet: error: space file: {said}\n"


def test_words_that_are_no_paths_stay(home: Path):
    weights = resolve({**TINY, "model": {}}, {"run.dir": "r", "model.weights": "imagenet"}).model.weights
    assert weights == "imagenet"
    assert path_argument("s3://bucket/~/x") == "s3://bucket/~/x"


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every text setting of a model by its dotted key, and whether it has the type of paths."""
    mark = typing.get_args(PathText)[1]
    for name, field in model.model_fields.items():
        parts = [field.metadata, *(typing.get_args(part)[1:] for part in typing.get_args(field.annotation))]
        yield f"{prefix}{name}", any(each is mark for part in parts for each in part)
        for child in _models(field.annotation):
            yield from fields(child, f"{prefix}{name}.")


def test_every_setting_that_is_a_path_has_the_type_of_paths():
    of_paths = {"dir", "fork_from", "path", "images", "weights", "labeled_ids", "class_names"}
    of_paths |= {"class_map", "classifier_weights", "localizer_weights", "proposals", "soco_checkpoint", "init_from"}
    found = {key: is_path for model in config_classes().values() for key, is_path in fields(model)}
    del found["data.images"]  # a whole set, which has a path; `images` of a set is one
    wrong = {key for key, is_path in found.items() if (key.rsplit(".", 1)[-1] in of_paths) != is_path}
    assert wrong == set()
    assert sum(found.values()) > 10


def test_every_argument_that_is_a_path_has_the_type_of_paths():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for command in COMMANDS:
        command.add(commands)
    of_paths = {"config", "space", "run_or_checkpoint", "checkpoint", "images", "folder", "config_or_dataset"}
    of_paths |= {"out", "root", "data", "boxes", "control", "dataset", "unlabeled", "val", "runs", "apply"}
    for name, command in commands.choices.items():
        for action in command._actions:
            is_path = action.type is path_argument
            assert is_path == (action.dest in of_paths), f"raydet {name}: {action.dest}"


@pytest.mark.parametrize("path", [COPY / "runs/mine", COPY / "runs" / ".." / "x"])
def test_results_in_ray_s_copy_of_the_working_directory_are_refused(path: Path):
    with pytest.raises(ConfigError, match=r"^run\.dir=.*Ray's temporary copy .*e\.g\. run\.dir=/shared/"):
        check_lasts(path, "run.dir")
    check_lasts("/shared/working_dir_files/runs", "run.dir")


def test_a_job_with_a_relative_folder_is_told_what_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy = tmp_path / COPY.relative_to("/")
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match=r"run\.dir=runs/mine lies in .*run\.dir=/shared/runs/mine"):
        launch(tiny_config(Path("runs/mine")))
    with pytest.raises(ConfigError, match="--out=labels lies in"):
        label(LabelOptions(checkpoint=tmp_path, images="images", out=Path("labels"), actors=0))
    with pytest.raises(ConfigError, match="--out=m.safetensors lies in"):
        export(tmp_path, Path("m.safetensors"))
    assert list(copy.iterdir()) == []


def test_a_config_file_may_lie_in_the_home_folder(home: Path):
    (home / "c.yaml").write_text(dump_file(tiny_config(Path("run"))))
    assert load(path_argument("~/c.yaml")).run.dir == "run"
