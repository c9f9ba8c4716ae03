"""Paired comparison on small real sets, from one plateaued burn-in: what are the unlabelled images worth?

    python benchmarks/ssod_small.py --data cards --labels 50 --seeds 0 1 2
    python benchmarks/ssod_small.py --summarise runs/ssod_small

For every (data set, label count, seed) one burn-in on the labelled images, as long as it takes to stop improving; all
methods are forked from its checkpoint and take equally many further steps on the same labelled batches and views:

    supervised          the control: the labelled images alone
    unbiased_teacher    pseudo-boxes, classification only
    il_net              pseudo-boxes with its gate, classification and boxes
    oracle              the hidden truth as pseudo-boxes: the bound of what can be gained
    METHOD_chosen       with the thresholds that `raydet thresholds` recommends on val after the burn-in
    METHOD_by_class     with a score threshold for each class beside (`--per-class`)

All are judged by the EMA of the student, kept from the fork on. Figures are on test; the configuration, the lengths and
the thresholds were chosen on val. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import oracle

from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.thresholds.result import as_text, try_thresholds
from raydet.metrics import read_metrics
from raydet.settings import load, resolve
from raydet.train.checkpoint import folder_of, steps_of
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.saved import evaluate_model, evaluate_saved, load_saved

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"
METHODS = ("supervised", "unbiased_teacher", "il_net", "oracle")
CHOSEN, BY_CLASS = "_chosen", "_by_class"
SHARED = ("burn_in_steps", "ema_keep_rate")  # settings of every method that is compared
OF_TEACHERS = (*SHARED, "score_threshold", "unsup_cls_weight")


def config_for(data: str, labels: int, seed: int, method: str, home: Path, overrides: list[str]) -> DetectionConfig:
    """Return the configuration of one run; `method` may be "burn_in", which all others are forked from."""
    base = load(Path(data) if data.endswith(".yaml") else CONFIGS / f"il_net_{data}.yaml", overrides)
    il_net = base.method
    group = home / f"{Path(data).stem}-{labels}-seed{seed}"
    fork = group / "burn_in" / "checkpoints" / f"step_{il_net.burn_in_steps:08d}"
    keys: dict[str, Any] = {
        "run.dir": str(group / method),
        "seed": seed,
        "data.labeled_count": labels,
        "data.split_seed": seed,
    }
    if method == "burn_in":
        branch = {"iou_branch": il_net.iou_branch.model_dump(), "iou_target_threshold": il_net.iou_target_threshold}
        # One step longer than the burn-in: at its end the checkpoint has no teacher yet, as a fork wants it.
        keys |= {"method": {"name": "supervised", "burn_in_steps": il_net.burn_in_steps, **branch}}
        keys["optim.steps"] = il_net.burn_in_steps + 1
        return resolve(base.model_dump(mode="json"), keys)
    keys["run.fork_from"] = str(fork)
    if method.endswith((CHOSEN, BY_CLASS)):
        plain = method.removesuffix(CHOSEN).removesuffix(BY_CLASS)
        own = config_for(data, labels, seed, plain, home, overrides).model_dump(mode="json")
        probe = resolve(own, {"run.dir": str(group / f"{plain}_probe"), "run.stop_at": il_net.burn_in_steps + 1})
        return resolve(own, {"run.dir": keys["run.dir"], **chosen(probe, per_class=method.endswith(BY_CLASS))})
    if method != "il_net":
        names = SHARED if method == "supervised" else OF_TEACHERS
        keys["method"] = {"name": method, **{name: getattr(il_net, name) for name in names}}
    if method == "oracle":
        keys["method"]["unsup_cls_weight"] = 1.0
    return resolve(base.model_dump(mode="json"), keys)


def chosen(probe: DetectionConfig, *, per_class: bool) -> dict[str, Any]:
    """Return the thresholds that are recommended on val for the teacher of one step after the burn-in."""
    folder = RunFolder(probe.run.dir)
    if not folder.checkpoints.exists():
        launch(probe)
    (newest,) = steps_of(folder.checkpoints)[-1:]
    found = try_thresholds(folder_of(folder.checkpoints, newest))
    assert found.choice is not None
    (folder.path / "thresholds.txt").write_text(as_text(found))
    return found.recommended(per_class=per_class)


def run_one(config: DetectionConfig) -> None:
    """Train and judge one run, unless that was done before."""
    folder = Path(config.run.dir)
    result = folder / "result.json"
    if result.exists():
        return
    begun, cpu = time.time(), time.process_time()
    launch(config, resume=(folder / "config.json").exists())
    seconds = {"wall_s": time.time() - begun, "cpu_s": time.process_time() - cpu}
    roles = ("student",) if folder.name == "burn_in" else ("teacher", "student")
    figures = {role: evaluate_saved(folder, data=None, split="test", role=role).as_json() for role in roles}
    if folder.name == "il_net":
        figures["ungated"] = ungated(folder)
    result.write_text(json.dumps({"method": config.method.name, "seed": config.seed, **figures, **seconds}, indent=1))


def ungated(folder: Path) -> dict[str, Any]:
    """Return the test figures of an IL-net teacher whose gate is off at evaluation."""
    saved = load_saved(folder, role="teacher")
    off = resolve(saved.config.model_dump(mode="json"), {"method.iou_filter_enabled": False})
    saved.method.config = off.method
    return evaluate_model(saved, data=None, split="test").as_json()


def read_results(home: Path) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
    """Return results by group (data set and labels), method and seed."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for file in sorted(home.glob("*/*/result.json")):
        group, seed = file.parts[-3].rsplit("-seed", 1)
        found.setdefault(group, {}).setdefault(file.parts[-2], {})[int(seed)] = json.loads(file.read_text())
    return dict(sorted(found.items(), key=lambda item: (item[0].split("-")[0], int(item[0].split("-")[1]))))


def summarise(home: Path) -> str:
    """Return Markdown: means and seeds, paired differences to the control, its plateau on val, AP per class."""
    lines = []
    for group, methods in read_results(home).items():
        lines += [f"### {group}", "", *_table(methods), "", *_plateau(home, group), "", *_classes(methods), ""]
    return "\n".join(lines)


def _table(methods: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    lines = [
        "| method | seeds | AP | AP50 | AP75 | AP - supervised, paired | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    others = [name for name in methods if name.endswith((CHOSEN, BY_CLASS))]
    for method in (name for name in ("burn_in", *METHODS, *sorted(others)) if name in methods):
        runs, role = methods[method], "student" if method == "burn_in" else "teacher"
        cells = [_spread([run[role][key] for run in runs.values()]) for key in ("AP", "AP50", "AP75")]
        control = methods.get("supervised", {})
        rows = {method: {seed: run[role]["AP"] for seed, run in runs.items()}}
        if method == "il_net":
            rows["il_net, gate off at evaluation"] = {seed: run["ungated"]["AP"] for seed, run in runs.items()}
        for name, values in rows.items():
            paired = [ap - control[seed]["teacher"]["AP"] for seed, ap in values.items() if seed in control]
            difference = _spread(paired, signed=True) if method not in ("burn_in", "supervised") and paired else ""
            cpu = f"{statistics.mean(run['cpu_s'] for run in runs.values()):.0f}"
            own = cells if name == method else [_spread(list(values.values())), "", ""]
            lines.append(f"| {name} | {len(values)} | {' | '.join(own)} | {difference} | {cpu} |")
    return lines


def _plateau(home: Path, group: str) -> list[str]:
    """Say what the control did on val from the fork on: whether it had stopped improving."""
    lines = ["The control on val (EMA), by step:", ""]
    for folder in sorted(home.glob(f"{group}-seed*/supervised")):
        records = [r for r in read_metrics(folder / "metrics.jsonl") if r["kind"] == "eval" and r["model"] == "teacher"]
        curve = ", ".join(f"{r['step']}: {100 * r['AP']:.1f}" for r in records)
        lines.append(f"- {folder.parent.name}: {curve}")
    return lines


def _classes(methods: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    names = list(next(iter(methods["supervised"].values()))["teacher"]["per_class"]) if "supervised" in methods else []
    if not names or len(names) > 8:
        return []
    lines = [
        "AP per class (mean over seeds):",
        "",
        "| method | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    others = [name for name in methods if name.endswith((CHOSEN, BY_CLASS))]
    for method in (m for m in (*METHODS, *sorted(others)) if m in methods):
        runs = methods[method].values()
        values = [statistics.mean(run["teacher"]["per_class"][name]["AP"] for run in runs) for name in names]
        lines.append(f"| {method} | " + " | ".join(f"{100 * value:.1f}" for value in values) + " |")
    return lines


def _spread(values: list[float], *, signed: bool = False) -> str:
    """Mean, and each seed, in points of AP."""
    form = "+.1f" if signed else ".1f"
    each = ", ".join(f"{100 * value:{form}}" for value in values)
    return f"{100 * statistics.mean(values):{form}} ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="jobs/configs/il_net_DATA.yaml, or a YAML of its own")
    parser.add_argument("--labels", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/ssod_small"))
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="key=value")
    parser.add_argument("--summarise", type=Path)
    arguments = parser.parse_args()
    oracle.register()
    if arguments.summarise:
        print(summarise(arguments.summarise))
        return
    for seed in arguments.seeds:
        for method in ("burn_in", *arguments.methods):
            run_one(config_for(arguments.data, arguments.labels, seed, method, arguments.out, arguments.overrides))
    print(summarise(arguments.out))


if __name__ == "__main__":
    main()
