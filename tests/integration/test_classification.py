"""Whole runs of classifiers: every method, resumes in every stage, killed workers, the pool, searches."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raydet.cli import main
from raydet.families.classification.label_table import NEVER
from raydet.metrics import Record, read_metrics
from raydet.sweep.folder import SweepFolder
from raydet.train.launch import launch
from tests.helpers import TINY_CLASSES, tiny_classes
from tests.integration.processes import steps_done
from tests.integration.runs import assert_same_bits, losses, saved
from tests.ranks import Ranks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
on_ray = pytest.mark.usefixtures("local_ray")

# Stage 2 from step 4 to 36, repredictions at 10, 13, ..., 34: long enough to be disturbed.
LONG = {"optim__steps": 40, "checkpoint__every": 5}
TWO = {**LONG, "cluster__backend": "ray", "cluster__workers": 2}
# Without much training a network with batch norm names several classes; one with group norm names the same for all.
SURE = {"model__norm": "batch", "model__channels": [8, 16, 16, 16], "method__burn_in_lr": 0.3}
METHODS: dict[str, dict[str, Any]] = {
    "supervised_classifier": {"burn_in_steps": 4},
    "mean_teacher": {"burn_in_steps": 4, "ema_keep_rate": 0.5, "ramp_up_steps": 6},
    "pseudo_label": {"burn_in_steps": 4, "reprediction_interval_steps": 5},
    "r2d2": TINY_CLASSES["method"],  # type: ignore[dict-item]
}


def train(run: Path, *stops: int, **changes: Any) -> Path:
    """Train to the end, with a stop after each of these steps."""
    for number, stop in enumerate((*stops, None)):
        launch(tiny_classes(run, **{**changes, "run__stop_at": stop}), resume=number > 0)
    return run


def lines(run: Path, kind: str) -> list[Record]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == kind]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run in one process."""
    return train(tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture(scope="module")
def straight_long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("long") / "run", **LONG)


@pytest.fixture(scope="module")
def straight_on_two(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """The undisturbed run on two ranks, without Ray."""
    with ranks.instead_of_ray():
        return train(tmp_path_factory.mktemp("two") / "run", **TWO)


# every method


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_is_evaluated(name: str, tmp_path: Path):
    run = train(tmp_path / "run", method={"name": name, **METHODS[name]})
    steps = lines(run, "step")
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert all(line["loss"] is not None and line["grad_norm"] > 0 for line in steps)
    (end,) = lines(run, "end")
    assert (end["step"], end["reason"]) == (20, "done")
    evaluations = [(line["step"], line["model"]) for line in lines(run, "eval")]
    assert (20, "student") in evaluations and (4, "student") in evaluations
    assert all(line["images"] == 12 and 0 <= line["accuracy"] <= 1 for line in lines(run, "eval"))
    assert ((20, "teacher") in evaluations) == (name in ("supervised_classifier", "mean_teacher"))
    found = saved(run)
    assert any(key.startswith("teacher.") for key in found) == (name in ("supervised_classifier", "mean_teacher"))
    assert any(key.startswith("memory.") for key in found) == (name == "r2d2")
    uses_labels = [line["step"] for line in steps if "pseudo/confidence" in line]
    assert uses_labels == ([] if name == "supervised_classifier" else list(range(5, 21)))


@pytest.mark.parametrize("name", ["supervised_classifier", "mean_teacher", "pseudo_label"])
def test_every_method_resumes_to_the_same_weights(name: str, tmp_path: Path):
    method = {"name": name, **METHODS[name]}
    every = {} if name == "pseudo_label" else {"labels__publish_every": 3}
    whole = train(tmp_path / "whole", method=method, **every)
    parts = train(tmp_path / "parts", 2, 4, 8, 14, method=method, **every)
    assert_same_bits(parts, whole)
    assert losses(parts) == losses(whole)


def test_a_run_learns_its_labels_by_heart(tmp_path: Path):
    plain = {"crop": "none", "horizontal_flip": 0.0, "size": 16}
    settings: dict[str, Any] = {"optim__steps": 60, "optim__lr": 0.2, "optim__labeled_batch": 12, "data__views": plain}
    run = train(tmp_path / "run", **settings, data__views__cutout_size=0, method={"name": "supervised_classifier"})
    first, *_, last = [line["loss"] for line in lines(run, "step")]
    assert first == pytest.approx(1.1, abs=0.1) and last < 0.5  # ln 3 = 1.1: it knows nothing


# R2-D2 in one process


def test_the_stages_follow_each_other_and_repredictions_happen_where_they_are_due(straight: Path):
    steps = lines(straight, "step")
    stages = [line["stage"] for line in steps]
    assert stages == ["supervised"] * 4 + ["D2"] * 12 + ["fine-tuning"] * 4
    names = [name.removesuffix("/raw") for name in steps[0] if name.endswith("/raw")]
    active = [{name.removeprefix("loss/") for name in names if line[f"{name}/raw"]} for line in steps]
    assert active == [{"sup/ce"}] * 4 + [{"d2/class", "d2/entropy"}] * 12 + [{"finetune/ce"}] * 4
    # Stage 2 sees 12 of 42 images a step; a row takes its new start when it comes up first.
    renewed = {line["step"] - 1: line["pseudo/repredicted"] for line in steps if "pseudo/repredicted" in line}
    assert [renewed[step] for step in (4, 10, 13)] == [12, 12, 12]
    assert "pseudo/changed" not in steps[4] and "pseudo/changed" in steps[10]
    ages = [line["labels/age_max"] for line in steps[10:16]]
    assert ages == [0, 1, 2, 0, 1, 2]  # made by the students of steps 10 and 13
    assert [line["lr"] for line in steps[4:16]] == [0.05] * 9 + [0.02] * 3
    assert [line["step"] for line in lines(straight, "eval")] == [4, 10, 16, 20]


@pytest.mark.parametrize("stop", [2, 4, 7, 10, 12, 16, 18])
def test_a_resume_in_any_stage_goes_on_to_the_same_bits(stop: int, straight: Path, tmp_path: Path):
    run = train(tmp_path / "run", stop)
    assert_same_bits(run, straight)
    assert losses(run) == losses(straight)
    assert {"memory.logits", "memory.versions"} <= saved(run).keys()


@pytest.mark.parametrize(
    "changes",
    [
        {**SURE, "optim__accumulate": 2},
        {"method__update_labeled": True, "method__class_loss_type": "kl_pseudo_to_pred"},
        {"method__finetune_label_source": "reprediction", "method__labeled_loss": "ce"},
        {"method__repeat_stage2": False},
    ],
    ids=lambda changes: next(iter(changes)).removeprefix("method__"),
)
def test_a_run_of_many_resumes_equals_the_straight_one(changes: dict[str, Any], tmp_path: Path):
    whole, parts = (train(tmp_path / name, *stops, **changes) for name, stops in (("whole", ()), ("parts", (3, 9, 13))))
    assert_same_bits(parts, whole)
    assert losses(parts) == losses(whole)


def test_dropout_noise_and_batch_norm_are_repeated_by_a_resume(tmp_path: Path):
    settings: dict[str, Any] = {
        "model": {"network": "conv_large", "norm": "batch", "dropout": 0.5, "input_noise": 0.15},
        "data__views__size": 12,
        "method__burn_in_steps": 2, "method__d2_steps": 2, "method__finetune_steps": 2,
        "method__reprediction_interval_steps": 1, "method__burn_in_batch": 3, "method__finetune_batch": 4,
        "optim__steps": 8, "optim__labeled_batch": 2, "optim__unlabeled_batch": 3,
    }  # fmt: skip
    whole = train(tmp_path / "whole", **settings)
    parts = train(tmp_path / "parts", 1, 3, 5, 7, **settings)
    assert_same_bits(parts, whole)


def test_fine_tuning_on_a_reprediction_differs_from_that_on_learned_labels(tmp_path: Path):
    learned = train(tmp_path / "learned", **SURE)
    anew = train(tmp_path / "anew", **SURE, method__finetune_label_source="reprediction")
    steps = lines(anew, "step")
    assert [line["pseudo/repredicted"] for line in steps[16:]] == [12] * 4
    assert [line["labels/age_max"] for line in steps[16:]] == [0, 1, 2, 3]
    one, other = saved(anew), saved(learned)
    assert torch.equal(one["memory.logits"], other["memory.logits"])  # fine-tuning leaves the table alone
    assert not torch.equal(one["student.last.weight"], other["student.last.weight"])


def test_how_far_a_label_moves_does_matter(straight: Path, tmp_path: Path):
    """The counterpart: were the runs above compared by something that labels do not touch, this would fail."""
    run = train(tmp_path / "run", method__label_step_override=0.5)
    one, other = saved(run), saved(straight)
    assert not torch.equal(one["memory.logits"], other["memory.logits"])
    assert not torch.equal(one["student.last.weight"], other["student.last.weight"])


# on several ranks, by a pool, in a search


@on_ray
def test_repredictions_by_the_pool_equal_those_of_one_process_bit_for_bit(straight_long: Path, tmp_path: Path):
    pool = {"cluster__backend": "ray", "labels__source": "pool", "labels__lookahead": 2, "pool__cpus_per_actor": 0.5}
    run = train(tmp_path / "run", **LONG, **pool, pool__actors=1)
    assert_same_bits(run, straight_long)
    assert losses(run) == losses(straight_long)


def test_a_killed_worker_loses_no_label_update(straight_on_two: Path, tmp_path: Path, ranks: Ranks):
    run = tmp_path / "run"
    with ranks.instead_of_ray():
        with ranks.losing_one(lambda: steps_done(run) >= 12), pytest.raises(RuntimeError, match="rank 1 ended with -9"):
            train(run, **TWO)
        launch(tiny_classes(run, **TWO), resume=True)
    assert [line["attempt"] for line in lines(run, "start")] == [1, 2]
    assert_same_bits(run, straight_on_two)
    assert [line["step"] for line in losses(run)] == list(range(1, 41))  # every step once


def test_a_table_of_two_workers_is_taken_up_by_one(straight_on_two: Path, straight_long: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(straight_on_two, run)
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.name > "step_00000010":
            shutil.rmtree(checkpoint)
    launch(tiny_classes(run, **LONG), resume=True)  # in this process
    starts = lines(run, "start")
    assert [(line["step"], line["world"]) for line in starts] == [(0, 2), (10, 1)]
    for other in (straight_long, straight_on_two):
        one, two = saved(run), saved(other)
        assert torch.equal(one["memory.versions"], two["memory.versions"])
        assert (one["memory.versions"] != NEVER).all()
        for name, value in two.items():
            torch.testing.assert_close(one[name], value, rtol=1e-3, atol=2e-4)


@on_ray
def test_trials_of_a_published_search_share_one_burn_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    space = Path(__file__).parents[2] / "tune_spaces" / "r2d2_class_loss_type.py"
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump({**TINY_CLASSES, "run": {"dir": str(tmp_path / "home")}}))
    assert main(["tune", str(space), "--config", "c.yaml"]) == 0
    home = tmp_path / "home-r2d2_class_loss_type"
    trials = SweepFolder(home).all_trials()
    assert [trial.state for trial in trials] == ["done"] * 3
    assert len(list((home / "burn_in").iterdir())) == 1
    for trial in trials:
        first = lines(home / "trials" / trial.id, "start")[0]
        assert first["resumed_from"] == 4  # the burn-in's steps were not trained again
    whole = train(tmp_path / "whole", method__class_loss_type="mse")
    assert losses(home / "trials" / trials[2].id) == losses(whole)[4:]
