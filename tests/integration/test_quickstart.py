"""`make quickstart` and the script that repeats it over seeds, as commands, on a few small pictures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from raydet.metrics import read_metrics

ROOT = Path(__file__).parents[2]
SMALL = [
    "data.labeled.shapes.num_images=24",
    "data.labeled_count=6",
    "data.val.shapes.num_images=8",
    "data.views.short_side=[64]",
    "data.views.max_long_side=96",
    "data.views.eval_short_side=64",
    "method.burn_in_steps=2",
    "optim.steps=5",
    "optim.warmup_steps=1",
    "optim.labeled_batch=2",
    "optim.unlabeled_batch=2",
    "checkpoint.every=5",
    "eval.every=5",
    "log.every=1",
    "cluster.cpus_per_worker=1",
]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(290)]


def run_seeds(home: Path) -> str:
    """Run the quickstart with seed 3 unless `home` has it; return what is printed."""
    command = [sys.executable, "benchmarks/quickstart_seeds.py", "--seeds", "3", "--out", str(home), "--set", *SMALL]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_trains_a_method_and_its_control_from_one_burn_in_and_says_what_was_gained(tmp_path: Path):
    printed = run_seeds(tmp_path)
    il_net, control = tmp_path / "seed3" / "il_net", tmp_path / "seed3" / "supervised"
    configs = [json.loads((run / "config.json").read_text()) for run in (il_net, control)]
    assert [config["method"]["name"] for config in configs] == ["il_net", "supervised"]
    assert [config["seed"] for config in configs] == [3, 3]
    assert [config["data"]["split_seed"] for config in configs] == [3, 3]  # another draw of labelled images
    assert configs[1]["run"]["fork_from"] == str(il_net / "checkpoints" / "step_00000002")
    ids = [(run / "data" / "split.json").read_text() for run in (il_net, control)]
    assert ids[0] == ids[1]
    steps = [[line["step"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
             for run in (il_net, control)]  # fmt: skip
    assert steps == [[1, 2, 3, 4, 5], [3, 4, 5]]

    for row in ("after the burn-in (2 steps)", "supervised, continued to 5 (EMA)", "IL-net, 5 steps (teacher)"):
        assert re.search(re.escape(row) + r"( +(\d\.\d{3}|n/a)){3}$", printed, flags=re.M), printed
    assert "gain over the control" in (il_net / "report.html").read_text()
    last = [line for run in (control, il_net) for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"]
    aps = [100 * [line for line in last if line["model"] == "teacher"][place]["AP"] for place in (0, -1)]
    row = f"| 3 | {aps[0]:.1f} | {aps[1]:.1f} | {aps[1] - aps[0]:+.1f} |"
    assert row in printed

    again = run_seeds(tmp_path)  # finished runs are not run again
    assert f"{row}  |" in again
    assert "burn-in on the labelled images" not in again


def test_an_earlier_quickstart_is_left_alone(tmp_path: Path):
    spec = util.spec_from_file_location("quickstart", ROOT / "jobs" / "quickstart.py")
    assert spec is not None and spec.loader is not None
    quickstart = util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    wanted = tmp_path / "quickstart"
    assert quickstart.free_folder(wanted) == wanted
    for name in ("quickstart", "quickstart-2"):
        (tmp_path / name).mkdir()
    assert quickstart.free_folder(wanted) == tmp_path / "quickstart-3"
