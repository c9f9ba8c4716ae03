"""`raydet init --task localization`: every file that it writes loads, passes check-data, and trains."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from raydet.cli import main
from raydet.metrics import read_metrics
from raydet.settings import load
from tests.integration.test_init import pictures, refused, tree, written

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PLACES = ("shapes", "shapes={num_images: 40, height: 64, width: 96, max_objects: 1}", "--task", "localization")


@pytest.mark.parametrize("method", ["lchp", "psol", "cam"])
def test_every_localizer_has_a_file_that_loads_and_passes_check_data(tmp_path: Path, method: str):
    out = written(tmp_path, *PLACES, "--method", method)
    config = load(out)
    assert config.method.name == method and config.data.has_val
    assert main(["check-data", str(out)]) == 0


def test_a_localizers_file_trains_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # run.dir is relative
    out = written(tmp_path, *PLACES)
    made = tree(out)
    # 32 of 40 images are left to train on: 2 batches of 16 an epoch; 450 x sqrt(32 / 720) = 95 steps, and half as many
    assert made["data"]["val_count"] == 8 and made["method"]["classifier_decay_steps"] == 2
    assert (made["method"]["name"], made["method"]["burn_in_steps"], made["optim"]["steps"]) == ("lchp", 95, 142)
    assert main(["train", str(out), "run.stop_at=1", "log.every=1"]) == 0
    steps = [line["step"] for line in read_metrics(tmp_path / "runs/made/metrics.jsonl") if line["kind"] == "step"]
    assert steps == [1]


def test_the_head_of_the_file_says_how_to_write_it_again(tmp_path: Path):
    out = written(tmp_path, *PLACES)
    (command,) = [line for line in out.read_text().splitlines() if line.startswith("#   raydet init ")]
    assert shlex.split(command[4:]) == ["raydet", "init", *PLACES, "--out", str(out), "--no-measure"]


def test_what_a_localizer_cannot_use_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = refused(capsys, tmp_path, *PLACES, "--unlabeled", "shapes")
    assert said == "--unlabeled: a localizer learns from images with class labels alone; leave it out\n"
    said = refused(capsys, tmp_path, *PLACES, "--method", "il_net")
    assert "--method il_net" in said and "lchp, psol, cam" in said
    one = pictures(tmp_path / "one", "cat")
    assert "two classes or more" in refused(capsys, tmp_path, one, "--task", "localization")
