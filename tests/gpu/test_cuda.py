"""What only a CUDA device can show. Skipped without one."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch

from raydet.metrics import read_metrics
from raydet.train.launch import launch
from raydet.vision.digests import digest
from tests.helpers import tiny_config, tiny_soft
from tests.training.balanced import EARLY

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_trains_and_its_losses_are_finite_in_every_precision(precision: str, tmp_path: Path):
    run = launch(tiny_config(tmp_path / "run", optim__precision=precision)).path
    found = losses(run)
    assert len(found) == 8
    assert all(math.isfinite(value) for value in found)


def test_the_first_burn_in_losses_agree_with_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    on_gpu = losses(launch(tiny_config(tmp_path / "gpu")).path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = losses(launch(tiny_config(tmp_path / "cpu")).path)
    # Step 1 differs by rounding only; later steps drift apart with the choice of borderline samples.
    assert on_gpu[0] == pytest.approx(on_cpu[0], rel=1e-2)


HOSTS = ("soft_teacher", "unbiased_teacher")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_goes_on_and_is_forked_with_the_optimiser_that_it_had(optimizer: str, tmp_path: Path):
    changes = {"optim__name": optimizer, "optim__lr": 1e-3, "checkpoint__every": 4}
    launch(tiny_config(tmp_path / "run", **changes, run__stop_at=4, checkpoint__keep=5))
    launch(tiny_config(tmp_path / "run", **changes), resume=True)
    launch(tiny_config(tmp_path / "fork", **changes, run__fork_from=str(tmp_path / "run/checkpoints/step_00000004")))
    assert len(losses(tmp_path / "run")) == 8
    assert all(math.isfinite(value) for run in ("run", "fork") for value in losses(tmp_path / run))


@pytest.mark.parametrize("name", ["soft_teacher", "logit_adjustment", "eqlv2", "classifier_retraining"])
def test_methods_that_make_counts_from_numbers_train(name: str, tmp_path: Path):
    method = {"name": name} | ({"retrain_from_step": 6} if name == "classifier_retraining" else {})
    assert all(math.isfinite(value) for value in losses(launch(tiny_soft(tmp_path / "run", method=method)).path))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("solver", ["jacobi", "direct", "stationary"])
def test_gradient_based_sampling_trains_on_both_hosts_with_every_solver(host: str, solver: str, tmp_path: Path):
    method = {**EARLY, "host": host, "gbr_solver": solver, "burn_in_steps": 2}
    make = tiny_soft if host == "soft_teacher" else tiny_config
    assert all(math.isfinite(value) for value in losses(launch(make(tmp_path / "run", method=method)).path))


def test_colours_are_given_on_the_device(tmp_path: Path):
    found = losses(launch(tiny_config(tmp_path / "run", data__views__colors_on="device")).path)
    assert len(found) == 8 and all(math.isfinite(value) for value in found)


def test_a_compiled_network_has_the_first_loss_of_one_that_is_not(tmp_path: Path):
    change = {"optim__precision": "fp32", "data__views__max_long_side": 64}
    plain = losses(launch(tiny_config(tmp_path / "plain", **change)).path)
    compiled = losses(launch(tiny_config(tmp_path / "compiled", **change, model__compile=True)).path)
    assert compiled[0] == pytest.approx(plain[0], rel=1e-2)


def test_a_run_waits_for_the_device_about_as_often_as_its_double_says(tmp_path: Path):
    # On the double (tests/training/test_device_waits.py) a step with labels waits 27 times, one of the burn-in 13: of
    # three and five steps, evaluation and checkpoint left aside, 174. Torch sees no more than those it knows of.
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            launch(tiny_config(tmp_path / "run", labels__forward_images=4, data__val=None, log__every=100))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(each.message) for each in said if "synchronizing" in str(each.message)]
    assert len(waits) < 2 * 174, waits[-30:]


def test_a_network_has_the_digest_that_it_has_on_the_cpu():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 7), torch.nn.BatchNorm2d(64), torch.nn.Linear(3000, 3000))
    here = digest(network.to(memory_format=torch.channels_last).state_dict())
    assert digest(network.cuda().state_dict()) == here
