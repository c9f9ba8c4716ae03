"""What the loop guards against: gradients that are not finite, forks that do not fit, best models that get lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raydet import precision
from raydet.arithmetic import Arithmetic
from raydet.errors import CheckpointError, NonFiniteLossError
from raydet.families.detection import loader
from raydet.metrics import read_metrics
from raydet.train import loop
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from raydet.train.loop import Trainer
from raydet.train.rundir import RunFolder
from tests.helpers import tiny_config
from tests.integration.runs import assert_same_bits


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def burn_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose burn-in ends at step 3."""
    return launch(tiny_config(tmp_path_factory.mktemp("burn_in") / "run", optim__steps=4)).path


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = loop.backward

    def spoiled(module, batch, *rest, **options):
        losses = real(module, batch, *rest, **options)
        if batch.step == 5:
            next(p for p in module.parameters() if p.grad is not None).grad[0] = float("nan")
        return losses

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "backward", spoiled)
        with pytest.raises(NonFiniteLossError, match="step 5: the gradient not finite"):
            launch(tiny_config(run, checkpoint__every=1))
    last = latest_checkpoint(run / "checkpoints")
    assert last.step == 5
    assert all(torch.isfinite(value).all() for value in last.tensors("student").values())
    launch(tiny_config(run, checkpoint__every=1, optim__lr=5e-4), resume=True)  # as the message advises
    assert checkpoints(run)[-1] == 8


def test_the_parts_of_a_steps_time_lie_inside_it_and_steps_inside_the_run(tmp_path: Path):
    began = time.perf_counter()
    run = launch(tiny_config(tmp_path / "run", checkpoint__every=2)).path
    took = time.perf_counter() - began
    steps = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    assert len(steps) == 8
    for line in steps:
        parts = [line[name] for name in ("upkeep_s", "label_wait_s", "data_wait_s")]
        assert min(parts) >= 0 and sum(parts) <= line["step_s"], line
    assert sum(line["step_s"] for line in steps) < took


def test_gradient_scaling_leaves_the_step_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A gradient scaler, as fp16 needs it, runs on a CPU too: scaling up and down must not change the step."""
    plain = launch(tiny_config(tmp_path / "plain", optim__clip_norm=1.0)).path
    real = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: real(device, enabled=True))
    scaled = launch(tiny_config(tmp_path / "scaled", optim__clip_norm=1.0)).path
    one, other = (latest_checkpoint(run / "checkpoints") for run in (plain, scaled))
    assert other.state["scaler"]["scale"] == 65536.0
    assert other.state["scaler"]["_growth_tracker"] == 8  # steps without overflow; resumed with the rest
    for name, value in one.tensors("student").items():
        torch.testing.assert_close(other.tensors("student")[name], value, rtol=1e-4, atol=1e-6)


def test_the_best_model_is_saved_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scores: Iterator[float] = iter([0.1, 0.3, 0.9, 0.3, 0.2])

    def evaluated(self: Trainer) -> None:
        ap = next(scores)
        if ap >= self.state.best.get("AP", -1.0):
            self.state.best = {"step": self.state.step, "AP": ap, "model": "teacher"}

    monkeypatch.setattr(Trainer, "evaluate", evaluated)
    run = launch(tiny_config(tmp_path / "run", eval__every=2, checkpoint__every=10, checkpoint__keep=1)).path
    # evaluated at 1, 3, 5, 7 and 8, best at 5; checkpoints are due at 3 (the burn-in's end) and 8
    assert checkpoints(run) == [3, 5, 8]
    assert latest_checkpoint(run / "checkpoints").state["best"]["step"] == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method__burn_in_steps": 2}, "is at step 3, method.burn_in_steps is 2"),
        ({"optim__name": "sgd"}, "was trained with AdamW, optim.name is sgd"),
        ({"data__split_seed": 99}, "trained with other labelled images.*data.split_seed among others"),
    ],
)
def test_a_fork_that_does_not_fit_is_refused(overrides: dict, message: str, burn_in: Path, tmp_path: Path):
    fork = burn_in / "checkpoints" / "step_00000003"
    with pytest.raises(CheckpointError, match=message):
        launch(tiny_config(tmp_path / "run", run__fork_from=str(fork), **overrides))


def test_a_fork_of_other_classes_is_refused(burn_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from raydet.train import worker

    real = worker.open_checkpoint

    def renamed(path):
        found = real(path)
        found.state["class_names"].reverse()
        return found

    monkeypatch.setattr(worker, "open_checkpoint", renamed)
    fork = burn_in / "checkpoints" / "step_00000003"
    with pytest.raises(CheckpointError, match="they must agree"):
        launch(tiny_config(tmp_path / "run", run__fork_from=str(fork)))


def test_a_forked_run_equals_the_one_it_was_forked_from(burn_in: Path, tmp_path: Path):
    fork = burn_in / "checkpoints" / "step_00000003"
    straight = launch(tiny_config(tmp_path / "straight")).path
    forked = launch(tiny_config(tmp_path / "forked", run__fork_from=str(fork))).path
    one, other = (latest_checkpoint(run / "checkpoints").tensors("teacher") for run in (straight, forked))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_log_of_a_split_run_is_that_of_a_straight_one(tmp_path: Path):
    settings = {"log__every": 3, "checkpoint__every": 2, "method__burn_in_steps": 2}
    straight = launch(tiny_config(tmp_path / "straight", **settings)).path
    run = launch(tiny_config(tmp_path / "run", **settings, optim__steps=4)).path
    launch(tiny_config(run, **settings), resume=True)

    def lines(folder: Path) -> list[tuple[int, float]]:
        return [(m["step"], m["loss"]) for m in read_metrics(RunFolder(folder).metrics) if m["kind"] == "step"]

    assert lines(run) == lines(straight)


def test_a_run_in_bf16_on_the_cpu_stays_close_to_fp32_and_is_resumed_to_the_bit(tmp_path: Path):
    exact, rounded = (
        [m["loss"] for m in read_metrics(launch(config).metrics) if m["kind"] == "step"]
        for config in (
            tiny_config(tmp_path / "fp32", optim__precision="fp32"),
            tiny_config(tmp_path / "bf16", optim__precision="bf16"),
        )
    )
    assert rounded != exact  # it is on
    assert rounded[:3] == pytest.approx(exact[:3], rel=0.05)  # burn-in; later other pseudo-boxes pass the threshold
    split = launch(tiny_config(tmp_path / "split", optim__precision="bf16", run__stop_at=5)).path
    launch(tiny_config(split, optim__precision="bf16"), resume=True)
    assert_same_bits(split, tmp_path / "bf16")


def test_a_run_that_goes_on_where_bf16_is_faster_keeps_to_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    settings = {"optim__precision": "auto", "checkpoint__every": 4}
    monkeypatch.setattr(precision, "has_bf16_hardware", lambda: False)
    straight = launch(tiny_config(tmp_path / "straight", **settings)).path
    run = launch(tiny_config(tmp_path / "run", **settings, run__stop_at=4)).path
    monkeypatch.setattr(precision, "has_bf16_hardware", lambda: True)
    monkeypatch.setattr(precision, "bf16_over_fp32", lambda: 0.5)
    capsys.readouterr()
    launch(tiny_config(run, **settings), resume=True)
    assert "precision: fp32 on cpu" in capsys.readouterr().out
    assert latest_checkpoint(run / "checkpoints").arithmetic == Arithmetic("cpu", "fp32")
    assert_same_bits(run, straight)
    new = launch(tiny_config(tmp_path / "new", **settings, run__stop_at=4)).path
    assert latest_checkpoint(new / "checkpoints").arithmetic == Arithmetic("cpu", "bf16")


@pytest.mark.parametrize(("lookahead", "threads"), [(0, 0), (0, 2), (3, 2)])
def test_teacher_and_student_share_the_weak_view_of_an_image(
    lookahead: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The loader comes first at (0, 2), where it prepares two steps ahead, the teacher in the other cases."""
    made, real = [], loader.teacher_view

    def counted(index, image_id, version, config, recipe):
        made.append((image_id, version))
        return real(index, image_id, version, config, recipe)

    monkeypatch.setattr(loader, "teacher_view", counted)
    more = {"data__labeled__shapes__num_images": 60, "data__prefetch_steps": 2, "data__loader_threads": threads}
    launch(tiny_config(tmp_path / "run", labels__lookahead=lookahead, **more))
    # Labels of steps 3 to 7, four images each; with lookahead 3 also those of 8 to 10, for a run that may be prolonged.
    assert len(made) == len(set(made)) == 4 * (5 + lookahead)


def test_a_threshold_of_a_gate_that_is_switched_off_changes_no_bit(tmp_path: Path):
    off = {"method__iou_branch_enabled": False, "method__score_threshold": 0.06}
    for name, theta in (("low", 0.1), ("high", 0.9)):
        launch(tiny_config(tmp_path / name, **off, method__iou_filter_threshold=theta))
    assert_same_bits(tmp_path / "low", tmp_path / "high")
