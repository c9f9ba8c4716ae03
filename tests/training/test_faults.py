"""What others say when something fails, in raydet's words; and what is a bug."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import ray.exceptions
import safetensors
import torch
from rich.console import Console
from torch import nn

from raydet import __version__
from raydet.cli import run_guarded
from raydet.errors import CheckpointError, ConfigError, DivergedError, RunError, StorageError, UserError
from raydet.faults import explain
from raydet.label_files.run import LabelOptions, label
from raydet.train import launch as launching
from raydet.train import on_ray
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.status import Status, panel
from raydet.vision.weights import read_tensors
from tests.helpers import tiny_config


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code and what a command says that fails with `error`."""

    def command() -> None:
        raise error

    code = run_guarded(command)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: no permission to write there"),
        (FileNotFoundError(2, "No such file or directory", "/none"), "/none: No such file or directory"),
        (pa.ArrowInvalid("Parquet magic bytes not found"), "Arrow says: Parquet magic bytes not found"),
        (safetensors.SafetensorError("HeaderTooLarge"), "safetensors says: HeaderTooLarge"),
        (ray.exceptions.RayActorError(), "Ray says: "),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "not enough memory (CUDA out of memory.)"),
    ],
)
def test_what_a_user_can_cause_is_one_message(error: BaseException, said: str, capsys: pytest.CaptureFixture[str]):
    code, text = ended(error, capsys)
    assert code == 1
    assert text.startswith("raydet: failed: ")
    assert said in text
    assert "Traceback" not in text


def test_the_innermost_error_is_the_one_that_is_told():
    outer = RuntimeError("something went wrong")
    outer.__cause__ = OSError(28, "No space left on device")
    assert "the disk is full" in str(explain(outer))


def test_a_bug_keeps_its_traceback_and_is_called_one(capsys: pytest.CaptureFixture[str]):
    code, text = ended(KeyError("no such thing"), capsys)
    assert code == 1
    assert "Traceback" in text
    assert f"this is a bug in raydet {__version__}" in text


def test_a_reader_that_goes_away_is_no_error():
    code = "from raydet.cli import run_guarded\nimport sys\nsys.exit(run_guarded(lambda: print('x\\n' * 10**6)))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_what_a_worker_says_is_said_again_in_the_driver(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for error, kind in (
        (ConfigError("a mistake"), UserError),
        (StorageError("no room"), StorageError),
        (DivergedError("gone"), RunError),
    ):
        folder.verdict.write_text(json.dumps(on_ray._told(error)))
        with pytest.raises(kind, match=f"^{error}$"):
            on_ray._raise_verdict(folder)
    try:
        raise KeyError("a bug")
    except KeyError as error:
        assert "Traceback" in on_ray._told(error)["message"]
        assert "this is a bug in raydet" in on_ray._told(error)["message"]


@pytest.mark.parametrize("how", ["model", "plain", "script"])
def test_a_whole_pickled_model_is_refused_without_advice_to_run_it(how: str, tmp_path: Path):
    file = tmp_path / "model.pt"
    if how == "model":
        torch.save(nn.Linear(2, 2), file)
    elif how == "plain":
        file.write_bytes(pickle.dumps(nn.Linear(2, 2)))
    else:
        with pytest.warns(FutureWarning):
            torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(file)
    assert str(caught.value).startswith(f"model.weights: {file} ")
    assert "weights_only" not in str(caught.value)
    assert "safe_globals" not in str(caught.value)


def test_labels_of_another_checkpoint_are_refused_by_step_and_path(tmp_path: Path):
    run = launch(tiny_config(tmp_path / "run", checkpoint__every=1)).path
    steps = run / "checkpoints"
    pictures = str(run / "data" / "generated" / "val")
    older = next(path for path in sorted(steps.iterdir(), reverse=True) if path.name != "step_00000008")
    label(LabelOptions(checkpoint=older, images=pictures, out=tmp_path / "labels", role="teacher", actors=0))
    with pytest.raises(ConfigError) as caught:
        label(LabelOptions(checkpoint=run, images=pictures, out=tmp_path / "labels", role="teacher", actors=0))
    number = int(older.name.removeprefix("step_"))
    assert f"the model: teacher of step {number} ({older}) -> teacher of step 8 ({steps}/step_0" in str(caught.value)
    file = tmp_path / "labels" / "label.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in content.items() if key != "model"}))  # of an older version
    with pytest.raises(ConfigError, match=r"the model: another model -> teacher of step 8"):
        label(LabelOptions(checkpoint=run, images=pictures, out=tmp_path / "labels", role="teacher", actors=0))


def test_figures_are_not_lost_to_a_terminal_without_the_letters(tmp_path: Path):
    run = launch(tiny_config(tmp_path / "run", optim__steps=4)).path
    moved = tmp_path / "läufe ✓"
    shutil.move(run, moved)
    command = [sys.executable, "-m", "raydet", "evaluate", str(moved)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert b"AP " in done.stdout
    assert rb"l\xe4ufe \u2713" in done.stdout


@pytest.mark.parametrize("width", [40, 60, 120])
def test_losses_can_be_read_on_any_terminal(width: int):
    status = Status(10, 3)
    losses = {f"loss/{s}/{n}/{f}": 0.1234 for s in ("sup", "unsup") for n in ("rpn_cls", "rpn_reg", "roi_cls", "iou")
              for f in ("raw", "weighted")}  # fmt: skip
    status.take({"kind": "step", "step": 5, "time": 0.0, "loss": 1.0, **losses})
    console = Console(file=io.StringIO(), width=width)
    console.print(panel("run", status))
    text = console.file.getvalue()
    assert text.count("0.1234") == 16
    assert "…" not in text


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_run_that_is_refused_before_it_trains_is_none_and_one_that_has_begun_is_kept(
    has_begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = tiny_config(tmp_path / "run")

    def refused(*_: object) -> None:  # as a worker, or the places of a cluster, may
        if has_begun:
            (tmp_path / "run" / "metrics.jsonl").write_text('{"kind": "start", "step": 0}\n')
        raise ConfigError("cluster.workers=9: there are 2 CPUs")

    monkeypatch.setattr(launching, "train_rank", refused)
    with pytest.raises(ConfigError, match="there are 2 CPUs"):
        launch(config)
    assert (tmp_path / "run" / "config.json").exists() == has_begun
    assert (tmp_path / "run").exists() == has_begun
