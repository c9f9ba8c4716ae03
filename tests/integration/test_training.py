"""Whole training runs: inline equals pool, resume equals straight, and nothing that dies changes the result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from ray import cloudpickle

from raydet.metrics import read_metrics
from raydet.pool.launch import start_broker
from raydet.pool.scaling import PoolTiming
from raydet.registry import AnnotatorFactory
from raydet.settings import dump
from raydet.train import on_ray
from raydet.train.launch import launch
from tests.helpers import tiny_config
from tests.integration.processes import Killer, steps_done
from tests.integration.runs import ASYNC, assert_same_bits, label_keys, losses
from tests.ranks import Ranks

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(240)]

POOL = {**ASYNC, "cluster__backend": "ray", "labels__source": "pool", "pool__cpus_per_actor": 0.5}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run in one process, without Ray."""
    return launch(tiny_config(tmp_path_factory.mktemp("straight") / "run", **ASYNC)).path


@pytest.fixture(scope="module")
def straight_on_two(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """The undisturbed run on two ranks, inline, without Ray."""
    config = tiny_config(tmp_path_factory.mktemp("two") / "run", **ASYNC, cluster__backend="ray", cluster__workers=2)
    with ranks.instead_of_ray():
        return launch(config).path


class Slow:
    """Takes its time for some images, so that answers come out of order."""

    def __init__(self, annotator):
        self.annotator, self.load = annotator, annotator.load

    def label(self, image_ids):
        time.sleep(0.15 * (sum(map(ord, image_ids[0])) % 3))
        return self.annotator.label(image_ids)


class SlowFactory(AnnotatorFactory):
    def __call__(self) -> Slow:
        return Slow(super().__call__())


def test_pool_equals_inline_bit_for_bit(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(on_ray, "AnnotatorFactory", SlowFactory)
    try:
        run = launch(tiny_config(tmp_path / "run", **POOL, pool__actors=3, pool__images_per_call=1)).path
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert label_keys(run) == label_keys(straight)
    assert losses(run) == losses(straight)
    assert_same_bits(run, straight)


def test_a_pool_that_grows_while_it_works_changes_nothing(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    eager = PoolTiming(tick_s=0.05, late_s=0.05, idle_s=0.2)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(on_ray, "AnnotatorFactory", SlowFactory)
    monkeypatch.setattr(on_ray, "start_broker", partial(start_broker, timing=eager))
    size = {"pool__actors": 1, "pool__min_actors": 1, "pool__max_actors": 3, "pool__images_per_call": 1}
    try:
        run = launch(tiny_config(tmp_path / "run", **POOL, **size, pool__calls_in_flight=1)).path
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    sizes = [line.get("source/pool/actors", 0) + line.get("source/pool/actors_starting", 0) for line in lines]
    assert max(sizes) > 1, sizes
    assert label_keys(run) == label_keys(straight)
    assert_same_bits(run, straight)


def test_an_elastic_range_of_workers_trains_to_the_end(straight_on_two: Path, tmp_path: Path):
    size = {"cluster__backend": "ray", "cluster__workers": 2, "cluster__min_workers": 1}
    run = launch(tiny_config(tmp_path / "run", **ASYNC, **size)).path
    (start,) = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "start"]
    assert start["world"] == 2  # both fit, so both are used
    assert_same_bits(run, straight_on_two)


def test_a_mistake_on_a_worker_ends_the_run_at_once_with_one_message(tmp_path: Path):
    from raydet.errors import UserError

    first = launch(tiny_config(tmp_path / "first", optim__steps=4)).path
    images = sorted((first / "data").rglob("*.png"))
    run = tmp_path / "run"
    # A long burn-in: no teacher looks at a spoilt image first, whose failure would be reported as another error.
    spoilt = {"data__labeled": str(next((first / "data").rglob("annotations.json"))), "method__burn_in_steps": 12}
    config = tiny_config(run, **POOL, **spoilt)
    begun = time.monotonic()
    with Vandal(run, images[0].parent), pytest.raises(UserError) as error:
        launch(config)
    assert ".png" in str(error.value)
    assert time.monotonic() - begun < 200  # no endless retries
    starts = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "start"]
    assert len(starts) == 1


class Vandal(Killer):
    """Spoils all images of a folder once training has begun."""

    def __init__(self, run: Path, folder: Path) -> None:
        super().__init__("", lambda: steps_done(run) >= 2)
        self.folder = folder

    def run(self) -> None:
        while not self.when():
            time.sleep(0.005)
        for image in self.folder.glob("*.png"):
            image.write_bytes(b"<html>not an image</html>")


def test_a_run_split_by_a_resume_equals_the_straight_one(straight: Path, tmp_path: Path):
    run = launch(tiny_config(tmp_path / "run", **{**ASYNC, "optim__steps": 9})).path  # 9: not a publish step
    launch(tiny_config(tmp_path / "run", **ASYNC), resume=True)
    assert_same_bits(run, straight)
    assert losses(run) == losses(straight)
    assert label_keys(run) == label_keys(straight)


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1, 2)])
def test_a_resume_on_another_number_of_workers_sees_the_same_labels(
    sizes: tuple[int, ...], straight: Path, tmp_path: Path, ranks: Ranks
):
    run = tmp_path / "run"
    for part, workers in enumerate(sizes, start=1):
        settings = {"cluster__backend": "ray", "cluster__workers": workers, "optim__steps": 16 * part // len(sizes)}
        with ranks.instead_of_ray():
            launch(tiny_config(run, **{**ASYNC, **settings}), resume=part > 1)
    assert label_keys(run) == label_keys(straight)  # the same images by the same teacher versions
    for line, other in zip(losses(run), losses(straight), strict=True):  # the same samples and views
        for name, value in other.items():
            assert line[name] == pytest.approx(value, rel=2e-3, abs=1e-5), (line["step"], name)


def test_a_killed_teacher_changes_nothing(straight: Path, tmp_path: Path):
    run = tmp_path / "run"
    with Killer("ray::TeacherActor", lambda: steps_done(run) >= 5) as killer:
        launch(tiny_config(run, **POOL, pool__actors=2, pool__images_per_call=1))
    assert killer.killed
    assert_same_bits(run, straight)
    assert label_keys(run) == label_keys(straight)


def test_a_killed_broker_changes_nothing(straight: Path, tmp_path: Path):
    run = tmp_path / "run"
    with Killer("ray::LabelBroker", lambda: steps_done(run) >= 5) as killer:
        launch(tiny_config(run, **POOL, pool__actors=1))
    assert killer.killed
    assert_same_bits(run, straight)
    assert label_keys(run) == label_keys(straight)


def test_a_worker_killed_in_a_step_resumes_to_the_same_weights(straight_on_two: Path, tmp_path: Path):
    run = tmp_path / "run"
    with Killer("ray::RayTrainWorker", lambda: steps_done(run) >= 10) as killer:
        launch(tiny_config(run, **POOL, cluster__workers=2))
    assert killer.killed
    starts = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "start"]
    assert [line["attempt"] for line in starts] == [1, 2]
    assert_same_bits(run, straight_on_two)
    assert [line["step"] for line in losses(run)] == list(range(1, 17))  # every step once


def test_a_worker_killed_while_it_saves_leaves_a_usable_run(straight: Path, tmp_path: Path):
    run = tmp_path / "run"

    def is_saving() -> bool:
        return steps_done(run) >= 6 and any((run / "checkpoints").glob(".writing-*"))

    with Killer("ray::RayTrainWorker", is_saving) as killer:
        launch(tiny_config(run, **{**POOL, "checkpoint__every": 1}))
    assert killer.killed
    assert not any((run / "checkpoints").glob(".writing-*"))
    assert_same_bits(run, straight)


def test_a_killed_driver_is_resumed_to_the_same_weights(straight: Path, tmp_path: Path):
    run = tmp_path / "run"
    config = tmp_path / "config.yaml"
    config.write_text(dump(tiny_config(run, **POOL)))
    driver = subprocess.Popen(
        [sys.executable, "-m", "raydet", "train", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "RAY_ADDRESS": ""},
    )
    try:
        deadline = time.monotonic() + 120
        while steps_done(run) < 9 and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert driver.poll() is None, driver.stderr.read().decode()
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    time.sleep(4)  # the workers outlive their driver by a moment
    launch(tiny_config(run, **POOL), resume=True)
    assert_same_bits(run, straight)
    assert label_keys(run) == label_keys(straight)


def test_a_run_folder_is_not_used_twice_by_accident(straight: Path):
    from raydet.errors import ConfigError

    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        launch(tiny_config(straight, **ASYNC))
    with pytest.raises(ConfigError, match=r"optim\.weight_decay: 0\.01 -> 0\.02"):
        launch(tiny_config(straight, **ASYNC, optim__weight_decay=0.02), resume=True)
