"""Searches from end to end: real trials, real kills, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from ray import tune

from raydet.cli import main
from raydet.metrics import read_metrics
from raydet.settings import dump, load
from raydet.sweep.folder import SweepFolder, Trial, header_of
from raydet.sweep.plan import trials_of
from raydet.sweep.points import points_of
from raydet.sweep.space import Asha, Sweep
from tests.helpers import TINY, tiny_config
from tests.integration.processes import Killer, steps_done

BETA = """
from ray import tune
from raydet.sweep.space import Sweep
sweep = Sweep("beta?", {"method.unsup_reg_weight": tune.grid_search([0.5, 1.0, 2.0])})
"""

SUGGESTED = """
from ray import tune
from raydet.sweep.space import Sweep
sweep = Sweep("beta?", {"method.unsup_reg_weight": tune.uniform(0.5, 2.0)}, samples=1, search="optuna")
"""

ONCE = ("--config", "c.yaml", "run.dir=home", "cluster.max_failures=0")  # no second process for a trial that died


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config and a space file in it, and the present one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**TINY, "run": {"dir": str(tmp_path / "home")}}))
    (tmp_path / "beta.py").write_text(BETA)
    return tmp_path


def trials(home: Path) -> dict[str, Trial]:
    return {trial.id: trial for trial in SweepFolder(home).all_trials()}


def start(here: Path, *words: str) -> subprocess.Popen[bytes]:
    """Run `raydet tune beta.py` as a process of its own, with a Ray of its own."""
    command = [sys.executable, "-m", "raydet", "tune", "beta.py", "--config", "c.yaml", "run.dir=home", *words]
    with (here / "output.txt").open("ab") as output:
        return subprocess.Popen(command, cwd=here, stdout=output, stderr=subprocess.STDOUT, env={**os.environ})


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, "the search ended first"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def states(home: Path) -> list[str]:
    return [trial.state for trial in trials(home).values()] if (home / "trials").exists() else []


def gone(processes: list[psutil.Process], seconds: float = 30) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_search_trains_its_burn_in_once_and_a_failing_trial_stops_nobody(here: Path, local_ray: None):
    (here / "lr.py").write_text(BETA.replace("unsup_reg_weight", "unsup_cls_weight").replace("2.0", "1e300"))
    assert main(["tune", "lr.py", "--config", "c.yaml"]) == 0
    home = here / "home-lr"
    found = trials(home)
    assert [trial.state for trial in found.values()] == ["done", "done", "failed"]
    assert "NonFiniteLossError" in found["0002"].message and "step" in found["0002"].message
    assert len(list((home / "burn_in").iterdir())) == 1
    for trial_id in ("0000", "0001"):
        first = next(line for line in read_metrics(home / "trials" / trial_id / "metrics.jsonl"))
        assert first["kind"] == "start" and first["resumed_from"] == 3  # the burn-in's steps were not trained again
    best = load(home / "best.yaml")
    assert best.method.unsup_cls_weight in (0.5, 1.0) and best.optim.steps == 8
    assert (home / "results.csv").is_file() and (home / "results.parquet").is_file()
    assert (home / "report.html").is_file()


def test_ctrl_c_and_a_kill_leave_no_orphan_and_a_search_that_resumes(here: Path):
    home = here / "home"
    search = start(here, "cluster.local_cpus=1")  # one after the other
    wait_for(lambda: states(home)[:1] == ["done"] and "running" in states(home), search)
    family = psutil.Process(search.pid).children(recursive=True)
    search.send_signal(signal.SIGINT)
    assert search.wait(60) == 130
    assert gone(family)
    first = (home / "trials" / "0000" / "metrics.jsonl").read_bytes()

    search = start(here, "--resume", "cluster.local_cpus=1")
    wait_for(lambda: states(home).count("done") == 1 and "running" in states(home), search)
    family = psutil.Process(search.pid).children(recursive=True)
    search.kill()
    search.wait(60)
    assert gone(family)

    search = start(here, "--resume", "cluster.local_cpus=1")
    assert search.wait(240) == 0
    found = trials(home)
    assert [trial.state for trial in found.values()] == ["done"] * 3
    assert found["0000"].attempts == 1
    assert (home / "trials" / "0000" / "metrics.jsonl").read_bytes() == first
    assert len((home / "results.csv").read_text().splitlines()) == 4


def test_a_trial_whose_process_is_killed_is_failed_and_can_be_tried_again(here: Path, local_ray: None):
    home = here / "home"
    with Killer("ray::ImplicitFunc", lambda: "running" in states(home)) as killer:
        assert main(["tune", "beta.py", *ONCE, "--concurrent", "1"]) == 0
    assert killer.killed
    found = trials(home)
    assert sorted(trial.state for trial in found.values()) == ["done", "done", "failed"]
    (failed,) = [trial for trial in found.values() if trial.state == "failed"]
    assert failed.message.startswith("its process ended")
    assert main(["tune", "beta.py", *ONCE, "--resume", "--retry-failed"]) == 0
    assert states(home) == ["done"] * 3
    assert trials(home)[failed.id].attempts == 2


def test_a_trial_that_optuna_suggested_goes_on_as_itself_when_its_process_is_killed(here: Path, local_ray: None):
    pytest.importorskip("optuna")
    (here / "beta.py").write_text(SUGGESTED)
    home = here / "home"
    run = home / "trials" / "0000"
    words = ["--config", "c.yaml", "run.dir=home", "cluster.max_failures=1", "checkpoint.every=1", "--concurrent", "1"]
    with Killer("ray::ImplicitFunc", lambda: steps_done(run) >= 5) as killer:
        assert main(["tune", "beta.py", *words]) == 0
    assert killer.killed
    found = trials(home)
    # one sample is one trial, and its second process no other one
    assert [(trial.id, trial.state, trial.attempts) for trial in found.values()] == [("0000", "done", 2)]
    first, second = (line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "start")
    assert first["resumed_from"] == 3  # the end of the shared burn-in
    assert (
        4 <= second["resumed_from"] < 8
    )  # a checkpoint of the process that died after its 5th step, or the one before
    assert len((home / "results.csv").read_text().splitlines()) == 2  # a header and the trial


def test_what_asha_stops_frees_its_place_and_a_resumed_search_remembers_the_rungs(here: Path):
    """One trial has finished with AP 0.9; live ones start at AP 0, are stopped, and each gives its CPUs to the next.

    Trials are Ray Train groups of their own on a cluster that holds just one: a leaked place would hang the search.
    """
    base = tiny_config(here / "unused", cluster__backend="ray", cluster__local_cpus=2, eval__every=2, optim__steps=60)
    sweep = Sweep("beta?", {"method.unsup_reg_weight": tune.grid_search([0.5, 1.0, 2.0])}, scheduler=Asha(5, 2))
    folder = SweepFolder(here / "home")
    planned = trials_of(points_of(sweep), sweep, base, [base.seed])
    folder.begin(header_of("beta", sweep, base, (base.seed,), 1), planned)
    folder.save(planned[0], state="done", began=1.0, ended=2.0)
    lines = [
        {"kind": "eval", "step": step, "time": 1.0, "split": "val", "model": "teacher", "AP": 0.9} for step in (5, 60)
    ]
    file = folder.run_dir("0000") / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (here / "c.yaml").write_text(dump(base))
    (here / "beta.py").write_text(
        "from ray import tune\nfrom raydet.sweep.space import Asha, Sweep\n"
        'sweep = Sweep("beta?", {"method.unsup_reg_weight": tune.grid_search([0.5, 1.0, 2.0])}, scheduler=Asha(5, 2))\n'
    )
    search = start(here, "--resume")
    assert search.wait(300) == 0, (here / "output.txt").read_text()[-3000:]
    found = trials(here / "home")
    assert [trial.state for trial in found.values()] == ["done", "stopped", "stopped"]
    for trial_id in ("0001", "0002"):
        steps = [line["step"] for line in read_metrics(folder.run_dir(trial_id) / "metrics.jsonl")]
        assert 5 <= max(steps) < 60


def test_a_search_is_not_resumed_with_another_question(here: Path, capsys: pytest.CaptureFixture[str]):
    sweep = Sweep("beta?", {"method.unsup_reg_weight": tune.grid_search([0.5, 1.0, 2.0])})
    home = SweepFolder(here / "home")
    home.begin(header_of("beta", sweep, load(here / "c.yaml"), (3,), 1), [])
    again = ["tune", "beta.py", "--config", "c.yaml", "run.dir=home", "--resume"]

    def refusal(*words: str) -> str:
        assert main([*again, *words]) == 2
        return capsys.readouterr().err

    assert "optim.lr: 0.001 -> 0.5" in refusal("optim.lr=0.5")
    assert "--seeds: (3,) -> (1, 2)" in refusal("--seeds", "1", "2")
    assert "--samples: 1 -> 5" in refusal("--samples", "5")
    (here / "beta.py").write_text(BETA.replace("2.0", "4.0"))
    assert "the space file: what it varies" in refusal()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--samples", "0"], "--samples 0: at least 1"),
        (["--retry-failed"], "goes with --resume"),
        (["--resume"], "there is no search at"),
        (["data.val=null"], "data.val, which is not set"),
        (["method.name=supervised", "method={name: supervised}"], "unsup_reg_weight"),
    ],
)
def test_a_search_that_cannot_start_says_why_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    assert main(["tune", "beta.py", "--config", "c.yaml", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "home-beta" / "sweep.json").exists()


def test_a_search_that_can_never_fit_is_refused_with_the_sum(
    here: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
):
    words = ["cluster.backend=ray", "cluster.workers=4", "cluster.cpus_per_worker=2"]
    assert main(["tune", "beta.py", "--config", "c.yaml", *words]) == 2
    error = capsys.readouterr().err
    assert "CPU: 0.1 for 1 trial driver + 8 for 4 workers, together 8.1; the cluster has 6" in error
