"""What `raydet doctor` says about the model of a run: the weights that it starts from, of which none are fetched."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from raydet.cli import main
from raydet.settings import dump
from raydet.train.rundir import RunFolder
from raydet.vision.pretrained import TORCHVISION
from tests.helpers import tiny_config


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The address of ResNet-18's weights, that of a local file of 5,000,000 bytes, which the cache has not."""
    source = tmp_path / "resnet18-01234567.pth"
    source.write_bytes(b"x" * 5_000_000)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setitem(TORCHVISION, "resnet18", SimpleNamespace(url=source.as_uri()))
    return source


RESNET = {"backbone": "resnet18_fpn", "weights": "imagenet", "fpn_channels": 16}


def model_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], **model: object) -> tuple[int, dict[str, str]]:
    """Return the exit code of doctor, and what it says of the model."""
    config = tmp_path / "config.yaml"
    config.write_text(dump(tiny_config(tmp_path / "run", model={**RESNET, **model})))
    code = main(["doctor", str(config), "--json"])
    (found,) = [each for each in json.loads(capsys.readouterr().out) if each["topic"] == "model"]
    return code, found


def test_weights_that_a_start_would_fetch_are_asked_for_and_not_fetched(
    away: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, found = model_of(tmp_path, capsys)
    cached = tmp_path / "torch" / "hub" / "checkpoints" / away.name
    assert (code, found["level"]) == (0, "ok")
    assert found["text"] == (
        f"a start fetches 5.0 MB of weights from {away.as_uri()}, once a node; without a network, fetch it elsewhere "
        f"and put it at {cached}, on every node"
    )
    assert not cached.parent.exists()


def test_weights_that_cannot_be_fetched_are_named_with_the_place_to_put_them(
    away: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    away.unlink()
    code, found = model_of(tmp_path, capsys)
    assert (code, found["level"]) == (1, "fail")
    assert f"{away.as_uri()} is not on this machine and cannot be fetched from here (" in found["text"]
    assert f"put it at {tmp_path / 'torch' / 'hub' / 'checkpoints' / away.name}" in found["advice"]


def test_a_file_of_weights_that_is_not_there_is_a_finding(
    away: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, found = model_of(tmp_path, capsys, weights="/nowhere/w.pth")
    assert (code, found["level"], found["advice"]) == (1, "fail", "raydet train would refuse this")
    assert found["text"].startswith("model.weights: no file /nowhere/w.pth; give a local file")


def test_a_cached_file_is_read_as_a_start_reads_it(away: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cached = tmp_path / "torch" / "hub" / "checkpoints" / away.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut off")
    code, found = model_of(tmp_path, capsys)
    assert (code, found["level"]) == (1, "fail")
    assert f"{cached} is damaged" in found["text"]


def test_a_run_that_is_to_be_resumed_needs_no_weights(away: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    away.unlink()
    config = tiny_config(tmp_path / "run", model=RESNET)
    RunFolder(tmp_path / "run").prepare(config, resume=False)
    (tmp_path / "config.yaml").write_text(dump(config))
    assert main(["doctor", str(tmp_path / "config.yaml"), "--json"]) == 0
    assert "model" not in [each["topic"] for each in json.loads(capsys.readouterr().out)]


def test_a_checkpoint_to_fork_from_that_is_not_there_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config, gone = tmp_path / "config.yaml", tmp_path / "gone" / "checkpoints" / "step_00000003"
    config.write_text(dump(tiny_config(tmp_path / "run", run__fork_from=str(gone))))
    code = main(["doctor", str(config), "--json"])
    (found,) = [each for each in json.loads(capsys.readouterr().out) if each["topic"] == "model"]
    assert (code, found["level"], found["advice"]) == (1, "fail", "raydet train would refuse this")
    assert found["text"] == f"run.fork_from: {gone}: no such checkpoint folder"
