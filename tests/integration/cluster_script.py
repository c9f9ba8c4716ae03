"""A cluster of several nodes on this machine that loses and gains nodes while a run trains; test_nodes.py judges it.

    python cluster_script.py FOLDER         # this process owns the nodes and writes FOLDER/verdict.json
    python cluster_script.py train CONFIG   # a driver, started by the above: a process and a Ray client of its own

A node here is a raylet of its own with workers and object store of its own, on the same host. Nothing is timed: the
teachers hold back the labels of certain versions until a gate is opened, so that a node is always lost, or joins, in
mid-run, while the trainers wait for labels that the teachers are at work on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raydet.arithmetic import Arithmetic
from raydet.labels.source import Annotator
from raydet.metrics import read_metrics
from raydet.records import PseudoLabel, TeacherRef, Weights
from raydet.registry import AnnotatorFactory
from raydet.settings import dump, load
from tests.helpers import tiny_config
from tests.integration.processes import steps_done
from tests.integration.runs import ASYNC

HELD = (7, 11)  # of labels of these teachers, and of newer ones, none is made before the gate is opened
TRAINING = ASYNC
CLUSTER = {
    **TRAINING,
    "labels__source": "pool",
    "labels__timeout_s": 400.0,
    "pool__cpus_per_actor": 0.5,
    "pool__resources": {"teacher": 1.0},
    "pool__images_per_call": 1,
    "cluster__backend": "ray",
    "cluster__resources": {"trainer": 1.0},
}


class HeldAnnotator:
    """Waits for the gates before it labels."""

    def __init__(self, annotator: Annotator, run: Path) -> None:
        self._annotator, self._run, self._version = annotator, run, -1

    def load(self, ref: TeacherRef, weights: Weights, begun: Arithmetic | None = None) -> None:
        self._annotator.load(ref, weights)
        self._version = ref.version

    def label(self, image_ids: Sequence[str]) -> Sequence[PseudoLabel]:
        for version in HELD:
            while self._version >= version and not gate(self._run, version).exists():
                time.sleep(0.02)
        return self._annotator.label(image_ids)


class HeldFactory(AnnotatorFactory):
    def __call__(self) -> HeldAnnotator:
        return HeldAnnotator(super().__call__(), Path(json.loads(self._config_json)["run"]["dir"]))


def gate(run: Path, version: int) -> Path:
    return run.with_name(f"{run.name}-gate-{version}")


def train(config: str) -> None:
    """Be a driver on the head node."""
    from raydet.train import on_ray
    from raydet.train.launch import launch

    on_ray.AnnotatorFactory = HeldFactory  # type: ignore[misc]
    launch(load(config))


class Driver:
    """A training run of its own process, as `raydet train` would be."""

    def __init__(self, run: Path, address: str, **settings: object) -> None:
        self.run = run
        file = run.with_suffix(".yaml")
        file.write_text(dump(tiny_config(run, **CLUSTER, **settings)))
        command = [sys.executable, __file__, "train", str(file)]
        self._process = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address})

    def wait_until(self, claim: Callable[[], bool], what: str, timeout_s: float = 200.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not claim():
            if self._process.poll() is not None:
                raise SystemExit(f"{self.run.name} ended with code {self._process.returncode}; waited until: {what}")
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.run.name}: {what}: not within {timeout_s:g} s; it is at {self.starts()}")
            time.sleep(0.05)
        print(f"{time.monotonic() - BEGUN:5.0f} s  {self.run.name}: {what}", flush=True)

    def wait_at(self, version: int) -> None:
        """Wait until the trainers wait for labels by this teacher; they need them `lookahead` steps later."""
        self.wait_until(lambda: steps_done(self.run) == version + 2, f"the trainers wait for labels of {version}")

    def starts(self) -> list[int]:
        """The sizes of the worker groups so far."""
        file = self.run / "metrics.jsonl"
        return [line["world"] for line in read_metrics(file) if line["kind"] == "start"] if file.exists() else []

    def open(self, version: int) -> None:
        gate(self.run, version).touch()

    def finish(self) -> None:
        for version in HELD:
            self.open(version)
        if self._process.wait(200) != 0:
            raise SystemExit(f"{self.run.name} ended with code {self._process.returncode}")
        print(f"{time.monotonic() - BEGUN:5.0f} s  {self.run.name}: done", flush=True)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def fixed(cluster: Any, folder: Path, teachers: list[Any], trainers: list[Any]) -> dict[str, Any]:
    """Two ranks: lose a teacher's node, then a rank's node; a spare node takes its place."""
    driver = Driver(folder / "fixed", cluster.address, cluster__workers=2, pool__actors=2)
    try:
        driver.wait_at(HELD[0])
        on_head = bool(titled(cluster.head_node, "ray::LabelBroker"))
        lost = teachers.pop()
        had_teacher = bool(titled(lost, "ray::TeacherActor"))
        cluster.remove_node(lost, allow_graceful=False)
        driver.open(HELD[0])
        driver.wait_at(HELD[1])
        lose_a_rank(cluster, trainers)
        driver.wait_until(lambda: len(driver.starts()) == 2, "a second worker group")
        driver.finish()
    finally:
        driver.end()
    return {"starts": driver.starts(), "broker_on_head": on_head, "lost_node_had_a_teacher": had_teacher}


def elastic(cluster: Any, folder: Path, trainers: list[Any]) -> dict[str, Any]:
    """One to three ranks: begin with two, a node joins, a node is lost."""
    size = {"cluster__min_workers": 1, "cluster__workers": 3, "pool__actors": 1}
    haste = {"cluster__resize_every_s": 2.0, "cluster__start_timeout_s": 5.0}
    driver = Driver(folder / "elastic", cluster.address, **size, **haste)
    try:
        driver.wait_at(HELD[0])
        trainers.append(add_trainer(cluster))
        driver.wait_until(lambda: driver.starts()[-1] == 3, "three ranks")
        driver.open(HELD[0])
        driver.wait_at(HELD[1])
        lose_a_rank(cluster, trainers)
        driver.wait_until(lambda: driver.starts()[-1] == 2, "two ranks again")
        driver.finish()
    finally:
        driver.end()
    return {"starts": driver.starts()}


def add_trainer(cluster: Any) -> Any:
    return cluster.add_node(wait=False, num_cpus=1, resources={"trainer": 1.0})


def lose_a_rank(cluster: Any, trainers: list[Any]) -> None:
    """Kill a node that a training process runs on, all at once."""
    node = next(node for node in trainers if titled(node, "ray::RayTrainWorker"))
    trainers.remove(node)
    cluster.remove_node(node, allow_graceful=False)


def titled(node: Any, title: str) -> list[int]:
    """Return the process ids of a node's workers whose title begins so (Ray names them after their actor)."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == raylet and (entry / "cmdline").read_bytes().decode().startswith(title):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
    return found


def main(folder: Path) -> None:
    from ray.cluster_utils import Cluster

    # A node that is gone is noticed after 3 s instead of 15 s; one that is only slow to answer has 10 s as always.
    watch = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    settings = {**watch, "enable_worker_prestart": False}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": settings}
    )
    try:
        teachers = [cluster.add_node(wait=False, num_cpus=1, resources={"teacher": 1.0}) for _ in range(2)]
        trainers = [add_trainer(cluster) for _ in range(3)]
        cluster.wait_for_nodes()
        print(f"{time.monotonic() - BEGUN:5.0f} s  {len(cluster.worker_nodes) + 1} nodes", flush=True)
        verdict = {"fixed": fixed(cluster, folder, teachers, trainers)}
        verdict["elastic"] = elastic(cluster, folder, trainers)
        (folder / "verdict.json").write_text(json.dumps(verdict))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(sys.argv[2])
    else:
        BEGUN = time.monotonic()
        # A session folder of its own: no other Ray on this host hears of the cluster. Short, for its socket names.
        os.environ["RAY_TMPDIR"] = session = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        try:
            main(Path(sys.argv[1]))
        finally:
            shutil.rmtree(session, ignore_errors=True)
