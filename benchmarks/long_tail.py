"""Gradient-based sampling and what it is compared with, on long-tailed data: which part helps rare classes, who pays.

    python benchmarks/long_tail.py --data foda --seeds 0 1 2 --out runs/long_tail
    python benchmarks/long_tail.py --summarise runs/long_tail

For every (data set, seed) one burn-in with repeat factor sampling; Soft Teacher and the parts of gradient-based
sampling start from it and see the same further labelled batches. Logit adjustment, EQLv2 and the variants without
repeat factors have other losses or listings in the burn-in, and train their own. Every method is judged by its teacher
on the test images; pairs are runs of the same seed. Finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from raydet.families.detection.config import DetectionConfig
from raydet.settings import load, resolve
from raydet.train.launch import launch
from raydet.train.saved import evaluate_saved

CONFIG = Path(__file__).parents[1] / "jobs" / "configs" / "gradient_sampling_foda.yaml"
FIGURES = ("AP", "APmaj", "APmin")
OFF = {"gbr_enabled": False, "gbt_enabled": False, "unlabeled_sampling": "random"}
CONTROL = "rfs"
SHARING = {  # variants of one burn-in: its loss has the exponent of GbR for all of them
    "rfs": OFF,
    "rfs, rfs": {**OFF, "unlabeled_sampling": "rfs"},
    "gbr": {**OFF, "gbr_enabled": True},
    "gbt": {**OFF, "gbt_enabled": True},
    "crs": {**OFF, "unlabeled_sampling": "crs"},
    "gbr, gbt": {**OFF, "gbr_enabled": True, "gbt_enabled": True},
    "all": {},
}
ALONE = {
    "soft teacher": {**OFF, "labeled_sampling": "random"},
    "logit adjustment": {"name": "logit_adjustment"},
    "classifier retraining": {"name": "classifier_retraining"},
    "eqlv2": {"name": "eqlv2"},
}
DATA: dict[str, dict[str, Any]] = {
    "foda": {},
    # Cuts with a long tail: two classes of three, three of six, keep their boxes in a few images.
    "bccd": {
        "labeled_count": 60,
        "split": {"minority_classes": ["WBC", "Platelets"], "keep_images_per_minority": 5},
    },
    "cards": {"labeled_count": 100, "split": {"minority_classes": [], "keep_images_per_minority": 6}},
}


def config_for(data: str, seed: int, variant: str, home: Path, overrides: list[str]) -> DetectionConfig:
    """Return the run of one variant."""
    base = load(CONFIG, [*_data(data), *overrides])
    folder = home / f"{data}-seed{seed}"
    keys: dict[str, Any] = {
        "run.dir": str(folder / variant.replace(", ", "_").replace(" ", "_")),
        "seed": seed,
        "data.split_seed": seed,
    }
    method = base.model_dump(mode="json")["method"]
    own = SHARING.get(variant, ALONE.get(variant, {}))
    name = own.get("name", "gradient_sampling")
    if name != "gradient_sampling":
        kept = set(type(resolve_method(name)).model_fields)
        method = {key: value for key, value in method.items() if key in kept} | {"name": name}
        if name == "classifier_retraining":
            begun = base.method.burn_in_steps  # the last fifth of what comes after it
            method |= {"retrain_from_step": begun + (base.optim.steps - begun) * 4 // 5, "labeled_sampling": "random"}
        if name == "eqlv2":
            method.pop("cls_focal_exponent")
    keys["method"] = method | own | ({} if name == "eqlv2" else {"cls_focal_exponent": 1.0})
    if variant in SHARING and variant != CONTROL:
        keys["run.fork_from"] = str(folder / CONTROL / "checkpoints" / f"step_{base.method.burn_in_steps:08d}")
    return resolve(base.model_dump(mode="json"), keys)  # type: ignore[return-value]


def resolve_method(name: str) -> Any:
    """Return the settings of a method with their defaults."""
    from raydet.families.detection.config import METHODS

    return next(each for each in METHODS if each.called() == name).model_construct(name=name)


def _data(name: str) -> list[str]:
    if name == "foda":
        return []
    root = Path(os.environ.get("RAYDET_DATA", Path(__file__).parents[2] / "shared" / "data")) / name
    given = json.loads(json.dumps(DATA[name]))
    if name == "cards":
        kinds = json.loads((root / "annotations" / "train.json").read_text())["categories"]
        given["split"]["minority_classes"] = sorted(kind["name"] for kind in kinds)[3:]
    files = [f"data.{part}={root / 'annotations' / f'{part}.json'}" for part in ("val", "test")]
    rest = [f"data.{key}={json.dumps(value)}" for key, value in given.items()]
    return [f"data.labeled={root / 'annotations' / 'train.json'}", *files, *rest]


def run_one(config: DetectionConfig, variant: str) -> None:
    """Train and judge one variant, unless that was done before."""
    folder = Path(config.run.dir)
    result = folder / "result.json"
    if result.exists():
        return
    begun, cpu = time.time(), time.process_time()
    launch(config, resume=(folder / "config.json").exists())
    found = evaluate_saved(folder, data=None, split="test", role="teacher").as_json()
    seconds = {"wall_s": time.time() - begun, "cpu_s": time.process_time() - cpu}
    result.write_text(json.dumps({"variant": variant, "seed": config.seed, **found, **seconds}, indent=1))


def summarise(home: Path) -> str:
    """Return Markdown tables: means and every seed, and paired differences to the control."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for file in sorted(home.glob("*-seed*/*/result.json")):
        content = json.loads(file.read_text())
        data = file.parts[-3].rsplit("-seed", 1)[0]
        found.setdefault(data, {}).setdefault(content["variant"], {})[content["seed"]] = content
    lines: list[str] = []
    for data, variants in found.items():
        names = [name for name in (*ALONE, *SHARING) if name in variants]
        columns = [*FIGURES, *(f"{figure} - {CONTROL}, paired" for figure in FIGURES), "CPU-s"]
        lines += [f"### {data}", "", f"| variant | seeds | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
        for name in names:
            runs, control = variants[name], variants.get(CONTROL, {})
            cells = [_spread([100 * (run[figure] or 0) for run in runs.values()]) for figure in FIGURES]
            for figure in FIGURES:
                pairs = [100 * (runs[s][figure] - control[s][figure]) for s in runs if s in control]
                cells.append(_spread(pairs, signed=True) if pairs and name != CONTROL else "")
            cpu = statistics.mean(run["cpu_s"] for run in runs.values())
            lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {cpu:.0f} |")
        lines.append("")
    return "\n".join(lines)


def _spread(values: list[float], *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{statistics.mean(values):{sign}.1f} ({', '.join(f'{value:{sign}.1f}' for value in values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(DATA), default="foda")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=[*SHARING, *ALONE], choices=[*SHARING, *ALONE])
    parser.add_argument("--out", type=Path, default=Path("runs/long_tail"))
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="key=value")
    parser.add_argument("--summarise", type=Path)
    options = parser.parse_args()
    if options.summarise:
        print(summarise(options.summarise))
        return
    for seed in options.seeds:
        first = [CONTROL] if {*SHARING} & {*options.variants} else []  # others start from its burn-in
        for variant in [*first, *(variant for variant in options.variants if variant != CONTROL)]:
            run_one(config_for(options.data, seed, variant, options.out, options.overrides), variant)
    print(summarise(options.out))


if __name__ == "__main__":
    main()
