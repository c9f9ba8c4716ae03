"""Jobs as a cluster runs them: submitted to a head on this host, followed, stopped, submitted again."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from raydet.metrics import read_metrics
from raydet.settings import dump
from raydet.sweep.folder import SweepFolder
from tests.helpers import tiny_config
from tests.integration.processes import steps_done

ROOT = Path(__file__).parents[2]
TOKEN = "raydet-test-token-0123456789abcdef"
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)
ON_RAY = {
    "cluster__backend": "ray",
    "labels__source": "pool",
    "labels__lookahead": 2,
    "labels__publish_every": 2,
    "pool__cpus_per_actor": 0.5,
    "checkpoint__every": 10_000,  # none but that of the burn-in's end: what is resumed from is the stop's
    "log__plain_interval_s": 0.1,
}

pytestmark = [pytest.mark.integration, pytest.mark.timeout(290)]


@dataclass(frozen=True)
class Head:
    client: JobSubmissionClient
    env: dict[str, str]
    address: str

    def submit(self, *words: str) -> str:
        """Submit with the repository as working directory, as `ray job submit --working-dir .` does."""
        environment = {
            "OMP_NUM_THREADS": "1",
            "RAY_JOB_STOP_WAIT_TIME_S": "90",
        }  # Ray's 3 s are few on a loaded machine
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.client.submit_job(
                    entrypoint=" ".join((sys.executable, *words)),
                    runtime_env={"working_dir": str(ROOT), "env_vars": environment},
                )
            except RuntimeError as error:  # the dashboard answers before the node's agent is there
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def wait(self, job: str, holds: Callable[[], bool] | None = None) -> JobStatus:
        """Wait until `holds()`, or until the job has ended; fails where that takes too long."""
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            status = self.client.get_job_status(job)
            if status in ENDED or (holds is not None and holds()):
                return status
            time.sleep(0.2)
        raise AssertionError(f"{job} takes too long; its log:\n{self.client.get_job_logs(job)}")

    def exit_code(self, job: str) -> int | None:
        return self.client.get_job_info(job).driver_exit_code

    def follow(self, job: str) -> str:
        """Read the log as it is written, to its end."""

        async def lines() -> str:
            return "".join([part async for part in self.client.tail_job_logs(job)])

        return asyncio.run(lines())


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A Ray head with a token, ports and folders of its own; it ends with its process group."""
    folder = Path(tempfile.mkdtemp(prefix="rj", dir="/tmp"))  # Ray's sockets need a short path
    gcs, dashboard, client, agent = free_ports(4)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(folder)}
    url = f"http://127.0.0.1:{dashboard}"
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ray")),
                *("start", "--head", "--block", f"--temp-dir={folder}", "--num-cpus=4", f"--port={gcs}"),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
                *(f"--dashboard-agent-listen-port={agent}", f"--object-store-memory={200 * 2**20}"),
            ],
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
        )
        try:
            yield Head(connected_client(url, process), {**env, "RAY_API_SERVER_ADDRESS": url}, f"127.0.0.1:{gcs}")
        except BaseException:
            print((folder / "head.log").read_text())
            raise
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def connected_client(url: str, process: subprocess.Popen[bytes]) -> JobSubmissionClient:
    deadline = time.monotonic() + 120
    while True:
        try:
            return JobSubmissionClient(url, headers={"Authorization": f"Bearer {TOKEN}"})
        except (ConnectionError, RuntimeError):
            assert process.poll() is None, "the head ended"
            assert time.monotonic() < deadline, "the head does not answer"
            time.sleep(0.5)


def test_a_stopped_training_job_goes_on_when_it_is_submitted_again(head: Head, tmp_path: Path):
    run, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text(dump(tiny_config(run, **{**ON_RAY, "optim__steps": 3000, "cluster__workers": 2})))
    command = ("jobs/train.py", "--config", str(config), "--start-or-resume")

    first = head.submit(*command)
    head.wait(first, lambda: steps_done(run) >= 5)
    assert head.client.stop_job(first)
    assert head.wait(first) == JobStatus.STOPPED, head.client.get_job_logs(first)
    end = read_metrics(run / "metrics.jsonl")[-1]
    assert (end["kind"], end["reason"]) == ("end", "stopped")
    said = head.client.get_job_logs(first)
    assert f"with a checkpoint at step {end['step']} of 3000; go on with --resume" in said

    second = head.submit(*command, f"optim.steps={end['step'] + 3}")
    said = head.follow(second)
    assert head.wait(second) == JobStatus.SUCCEEDED, said
    assert head.exit_code(second) == 0
    assert f"goes on from step {end['step']}" in said
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["resumed_from"] for line in lines if line["kind"] == "start"] == [None, end["step"]]
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, end["step"] + 4))


def test_a_mistake_in_a_job_is_one_message_and_exit_code_2(head: Head, tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(
        dump(tiny_config(tmp_path / "run", **{**ON_RAY, "cluster__workers": 4, "pool__cpus_per_actor": 9.0}))
    )
    job = head.submit("jobs/train.py", "--config", str(config))
    assert head.wait(job) == JobStatus.FAILED
    assert head.exit_code(job) == 2
    said = head.client.get_job_logs(job)
    assert (size := re.search(r"working directory: (\d+\.\d+) MiB", said)), said
    assert float(size[1]) < 5  # the sources alone: no history, no environment, no data
    assert "CPU: 4 for 4 workers + 9 for 1 teacher, together 13; the cluster has 4" in said
    assert "Traceback" not in said


def test_doctor_looks_at_a_cluster_with_a_token(head: Head, tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(dump(tiny_config(tmp_path / "run", **ON_RAY)))
    command = [sys.executable, "-m", "raydet", "doctor", str(config), "--address", head.address]
    done = subprocess.run(command, env=head.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the cluster asks for a token (token)" in done.stdout
    assert "same versions as here" in done.stdout
    assert "a token was written and read on 1 node" in done.stdout
    assert "CPU: 1 for 1 worker + 0.5 for 1 teacher; there is 4" in done.stdout


SPACE = """
from ray import tune
from raydet.sweep.space import Sweep
sweep = Sweep(question="Does it go on?", space={"method.unsup_reg_weight": tune.grid_search([0.0, 1.0])})
"""


def test_a_stopped_search_goes_on_when_it_is_submitted_again(head: Head, tmp_path: Path):
    home, space, config = tmp_path / "search", tmp_path / "space.py", tmp_path / "config.yaml"
    space.write_text(SPACE)
    config.write_text(dump(tiny_config(home, optim__steps=60, checkpoint__every=5)))
    command = ("jobs/tune.py", str(space), "--config", str(config), f"run.dir={home}", "--concurrent", "1")

    def states() -> list[str]:
        return [trial.state for trial in SweepFolder(home).all_trials()]

    def is_in_its_second_trial() -> bool:
        runs = sorted((home / "trials").glob("*/metrics.jsonl"))
        return len(runs) == 2 and sum(map(steps_done, (run.parent for run in runs))) >= 60 + 12

    first = head.submit(*command)
    head.wait(first, is_in_its_second_trial)
    assert head.client.stop_job(first)
    assert head.wait(first) == JobStatus.STOPPED, head.client.get_job_logs(first)
    assert sorted(states()) == ["done", "running"]
    (done,) = [trial for trial in SweepFolder(home).all_trials() if trial.state == "done"]
    before = (home / "trials" / done.id / "metrics.jsonl").read_bytes()

    second = head.submit(*command, "--resume")
    said = head.follow(second)
    assert head.wait(second) == JobStatus.SUCCEEDED, said
    assert head.exit_code(second) == 0
    assert states() == ["done", "done"]
    assert (home / "trials" / done.id / "metrics.jsonl").read_bytes() == before
    (other,) = [trial for trial in SweepFolder(home).all_trials() if trial.id != done.id]
    starts = [
        line["resumed_from"]
        for line in read_metrics(home / "trials" / other.id / "metrics.jsonl")
        if line["kind"] == "start"
    ]
    assert len(starts) == 2
    assert starts[1] >= 8  # checkpoints at 3, 8, 13, ...; 12 steps were done
