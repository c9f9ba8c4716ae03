"""Asking a run to stop: the file, the signal, the thread."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.cli import main, run_guarded
from raydet.commands import check_data, train
from raydet.config.run import RunConfig
from raydet.data.prepared import PreparedSets
from raydet.errors import ConfigError, RunError, RunStopped, Terminated
from raydet.metrics import read_metrics
from raydet.registry import family_of
from raydet.train import loop, on_ray
from raydet.train.checkpoint import clean_checkpoints, latest_checkpoint, open_checkpoint, steps_of
from raydet.train.launch import _check_reached, describe, launch
from raydet.train.stop import ask_to_stop, sigterm_asks, watching
from tests.helpers import tiny_config


def wait_for(asked: object) -> bool:
    deadline = time.monotonic() + 60
    while not asked() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)
    return asked()  # type: ignore[operator,no-any-return]


def test_the_first_sigterm_asks_and_the_second_ends(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    file = tmp_path / "stop"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), sigterm_asks(file):
        os.kill(os.getpid(), signal.SIGTERM)
        assert file.read_text() == "SIGTERM\n"
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    assert "stops after this step" in capfd.readouterr().err


def test_a_sigterm_that_cannot_be_written_down_ends_at_once(tmp_path: Path):
    with pytest.raises(Terminated), sigterm_asks(tmp_path / "missing" / "stop"):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_thread_cannot_take_signals_and_leaves_them_alone(tmp_path: Path):
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside() -> None:
        with sigterm_asks(tmp_path / "stop"):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


def test_what_is_written_into_the_file_is_seen(tmp_path: Path):
    file = tmp_path / "stop"
    file.touch()
    with watching(file) as asked, watching(None) as never:
        assert not asked()
        ask_to_stop(file, "enough")
        assert wait_for(asked)
        assert not never()


def test_a_file_that_is_not_there_asks_for_nothing(tmp_path: Path):
    with watching(tmp_path / "stop") as asked:
        time.sleep(0.6)  # longer than the thread waits between two looks
        assert not asked()
        ask_to_stop(tmp_path / "stop", "now it is")
        assert wait_for(asked)


def test_a_run_that_is_asked_to_stop_says_where_it_stopped(tmp_path: Path):
    run = tmp_path / "run"

    def ask() -> None:
        if wait_for((run / "config.json").is_file):  # written after the file was emptied
            ask_to_stop(run / "stop", "test")

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(RunStopped, match=r"with a checkpoint at step \d+ of 3000"):
        launch(tiny_config(run, optim__steps=3000))
    newest = latest_checkpoint(run / "checkpoints")
    assert newest is not None
    end = read_metrics(run / "metrics.jsonl")[-1]
    assert (end["kind"], end["reason"], end["step"]) == ("end", "stopped", newest.step)


def test_what_the_journal_says_last_decides_how_a_run_ended(tmp_path: Path):
    folder = launch(tiny_config(tmp_path / "run", method__burn_in_steps=1, optim__steps=2))
    config = folder.load_config()
    for checkpoint in folder.checkpoints.iterdir():
        checkpoint.rename(tmp_path / checkpoint.name)  # as if the file system did not show them yet
    _check_reached(config, folder)
    lines = folder.metrics.read_text().splitlines(keepends=True)
    for last in ([], [lines[-1].replace('"done"', '"failed"').replace('"step": 2', '"step": 1')]):
        folder.metrics.write_text("".join(lines[:-1] + last))
        with pytest.raises(RunError, match="does not say that it is done"):
            _check_reached(config, folder)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunStopped("run stopped as asked"), 143, "raydet: run stopped as asked; go on with --resume\n"),
        (Terminated(), 143, "\nraydet: terminated; go on with --resume\n"),
        (KeyboardInterrupt(), 130, "\nraydet: interrupted; go on with --resume\n"),
    ],
)
def test_how_a_run_ends_decides_the_exit_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
):
    def command() -> None:
        raise error

    assert run_guarded(command) == code
    assert capsys.readouterr().err == said


def test_only_commands_that_can_go_on_say_how(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    of = {train: "\nraydet: interrupted; go on with --resume\n", check_data: "\nraydet: interrupted\n"}
    for command, said in of.items():
        monkeypatch.setattr(command, "run", interrupted)
        words = ["train", "mine.yaml"] if command is train else ["check-data", "mine.yaml"]
        assert main(words) == 130
        assert capsys.readouterr().err == said


def test_sigterm_unwinds_a_command_that_is_no_training():
    closed = []

    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            closed.append(True)

    assert run_guarded(command) == 143
    assert closed == [True]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = launch(tiny_config(tmp_path / "run", optim__steps=6, checkpoint__keep=5)).path
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    capsys.readouterr()
    launch(tiny_config(run, optim__steps=6, checkpoint__keep=2), resume=True)
    assert f"{run}: finished at step 6; raise optim.steps to train on" in capsys.readouterr().out
    with pytest.raises(
        ConfigError, match=r"is at step 6, beyond the 5 that it is to have now \(optim.steps, run.stop_at"
    ):
        launch(tiny_config(run, optim__steps=5), resume=True)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    launch(tiny_config(run, optim__steps=9, run__stop_at=6), resume=True)
    assert f"{run}: finished at step 6; raise run.stop_at to train on" in capsys.readouterr().out
    shutil.rmtree(run / "checkpoints" / "step_00000006")  # as somebody who wants its last steps again would
    launch(tiny_config(run, optim__steps=6), resume=True)
    starts = [line["step"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "start"]
    assert starts[0] == 0 and 0 < starts[1] < 6
    launch(tiny_config(run, optim__steps=7), resume=True)
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == 7


def test_a_run_that_was_stopped_beyond_its_new_end_is_not_called_trained(tmp_path: Path):
    run = launch(tiny_config(tmp_path / "run", run__stop_at=6)).path
    for fewer in ({"optim__steps": 5}, {"run__stop_at": 5}):
        with pytest.raises(ConfigError, match="is at step 6, beyond the 5 that it is to have now"):
            launch(tiny_config(run, **fewer), resume=True)


def test_damaged_checkpoints_do_not_count_among_those_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = launch(tiny_config(tmp_path / "run", optim__steps=8)).path
    file = run / "checkpoints" / "step_00000008" / "student.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    there: list[list[int]] = []

    def watched(root: Path, **kept: Any) -> None:
        clean_checkpoints(root, **kept)
        there.append(steps_of(root))

    monkeypatch.setattr(loop, "clean_checkpoints", watched)
    # It was finished, but its end cannot be read; one checkpoint is to be kept, beside the burn-in's end and the best.
    folder = launch(tiny_config(run, optim__steps=8, checkpoint__every=1, checkpoint__keep=1), resume=True)
    first = read_metrics(folder.metrics)[-1]["step"] - len(there) + 1
    assert [steps[-1] for steps in there] == list(range(first, 9))  # each was there when it had been written
    assert open_checkpoint(folder.checkpoints / "step_00000008").step == 8
    assert steps_of(folder.abandoned) == [8]
    notes = [line["message"] for line in read_metrics(folder.metrics) if line["kind"] == "note"]
    assert any("an older checkpoint is used" in text and "checksum differs" in text for text in notes)


def test_a_gpu_that_is_not_there_is_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = tiny_config(tmp_path / "run", cluster__gpus_per_worker=1)
    assert "warning: cluster.gpus_per_worker=1, but PyTorch sees no GPU" in describe(config, prepared(config, tmp_path))
    config = tiny_config(tmp_path / "run")
    assert "sees no GPU" not in describe(config, prepared(config, tmp_path))


def test_gpus_that_a_run_on_ray_leaves_idle_are_said_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(on_ray, "connected", lambda *args, **settings: nullcontext(""))
    monkeypatch.setattr(on_ray, "alive_nodes", lambda: [{"Resources": {"CPU": 8.0, "GPU": 1.0}}])
    monkeypatch.setattr(on_ray, "check_shared", lambda *args: None)
    monkeypatch.setattr(on_ray, "_fit", lambda config: None)
    on_ray.train_on_ray(tiny_config(tmp_path / "run", cluster__backend="ray"))
    assert "  warning: the cluster has 1 GPU, and none is asked for" in capsys.readouterr().out
    on_ray.train_on_ray(tiny_config(tmp_path / "run", cluster__backend="ray", cluster__gpus_per_worker=1))
    assert capsys.readouterr().out == ""


def test_a_run_that_stops_within_its_burn_in_says_so(tmp_path: Path):
    short = tiny_config(tmp_path / "run", method__burn_in_steps=3, run__stop_at=2)
    assert "steps: 2, all of them within the burn-in of 3; batch" in describe(short, prepared(short, tmp_path))
    longer = tiny_config(tmp_path / "run", method__burn_in_steps=3, run__stop_at=4)
    assert "steps: 4, of which burn-in 3; batch" in describe(longer, prepared(longer, tmp_path))


def prepared(config: RunConfig, folder: Path) -> PreparedSets[Any]:
    return family_of(config).prepare(config, folder / "data")
