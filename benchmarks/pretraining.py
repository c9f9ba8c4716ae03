"""What pre-training without labels brings a detector that has few: none, SoCo, ADePT separate and joint, by seed.

    raydet proposals ../shared/data/foda_lt/images --out runs/pretraining/proposals/foda_lt
    python benchmarks/pretraining.py --data foda_lt --seeds 0 1 2
    python benchmarks/pretraining.py --summarise runs/pretraining

For each seed three networks are pre-trained on the training images without their labels, all from the same ImageNet
backbone. Then one detector is trained on few labelled images from each of them and from that backbone alone ("none"),
in the same order of images: what differs between two rows of a seed is the start. "joint, fresh RPN" takes all but the
region proposals, so that the row above it shows what these bring; "norms train" lets the pyramid's norms train, as
those of "none" do, where the other rows keep those that they were given; "none, no norms" is the network that raydet
takes where nothing is said (no norms in the pyramid). Before a label is used, recall of the
region proposals is measured beside that of untrained ones. All figures are of the test images; what was
chosen by them is said in pretraining.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from raydet.config.run import RunConfig
from raydet.contract import Family
from raydet.group import Group
from raydet.metrics import read_metrics
from raydet.registry import build_method, family_of
from raydet.settings import load, resolve
from raydet.train.launch import launch
from raydet.train.saved import evaluate_saved

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIGS = {"foda_lt": "adept_foda.yaml", "cards": "adept_cards.yaml"}
PRETRAINED: dict[str, dict[str, Any]] = {
    "soco": {"method": {"name": "soco"}},
    "separate": {"method": {"name": "adept", "mode": "separate"}},
    "joint": {"method": {"name": "adept"}},
}
TRAINED = {"model.init_norms": "backbone_frozen"}
STARTS: dict[str, dict[str, Any]] = {
    "none": {},
    "none, no norms": {"model.fpn_norm": "none"},
    "soco": {"from": "soco"},
    "separate": {"from": "separate"},
    "joint": {"from": "joint"},
    "joint, fresh RPN": {"from": "joint", "model.init_parts": ["backbone", "fpn", "box_head"]},
    "soco, norms train": {"from": "soco", **TRAINED},
    "separate, norms train": {"from": "separate", **TRAINED},
    "joint, norms train": {"from": "joint", **TRAINED},
}
SHARED = ["backbone", "weights", "trainable_stages", "small_channels", "fpn_channels", "fpn_norm", "anchor_sizes"]
SHARED += ["box_head", "box_head_dim"]
FINE: dict[str, Any] = {
    "model": {
        "rpn_batch": 64,
        "rpn_pre_nms_train": 300,
        "rpn_pre_nms_test": 300,
        "rpn_post_nms_train": 150,
        "rpn_post_nms_test": 150,
        "roi_batch": 32,
        "roi_sampling_ratio": 2,
    },
    "method": {"name": "supervised", "burn_in_steps": 0, "ema_keep_rate": 0.98},
    "optim": {"name": "adamw", "lr": 5e-4, "weight_decay": 0.05, "warmup_steps": 50, "clip_norm": 10.0, "steps": 400},
    "eval": {"every": 1_000_000},
    "checkpoint": {"every": 1_000_000, "keep": 1},
    "log": {"every": 20},
}
BATCH = 4
SIDE = 240
"""Pixels of the short side of a detector's images."""
RECALLS = ("recall_10", "recall_100", "recall_1000", "ar_100")
FIGURES = ("AP", "AP50", "AP75")


def data_file(data: str, part: str) -> str:
    """Return the annotations of a part of a data set."""
    root = Path(os.environ.get("RAYDET_DATA", CHECKOUT.parent / "shared" / "data"))
    return str((root / data / "annotations" / f"{part}.json").absolute())


def base_of(data: str, options: argparse.Namespace) -> RunConfig:
    """Return the file that every run of a data set begins with."""
    return load(CHECKOUT / "jobs" / "configs" / CONFIGS[data], options.extra)


def pretraining_config(data: str, seed: int, name: str, options: argparse.Namespace) -> RunConfig:
    """Return the pre-training run OUT/DATA/seedS/pretrained-NAME."""
    home = options.out.absolute() / data
    settings = json.loads(json.dumps(PRETRAINED[name]))
    if name == "separate":
        settings["method"]["soco_checkpoint"] = str(home / f"seed{seed}" / "pretrained-soco")
    keys = {
        "run.dir": str(home / f"seed{seed}" / f"pretrained-{name}"),
        "seed": seed,
        "data.images": {"path": data_file(data, "train")},
        "data.val": {"path": data_file(data, "val")},
        "data.proposals": str(options.proposals.absolute() / data) if options.proposals.name != "grid" else "grid",
        "optim.steps": options.steps,
        "optim.warmup_steps": options.steps // 10,
        "optim.labeled_batch": options.batch,
        "eval.every": max(1, options.steps // 4),
        **settings,
    }
    return resolve(base_of(data, options).model_dump(mode="json"), keys)


def detector_config(data: str, seed: int, name: str, options: argparse.Namespace) -> RunConfig:
    """Return the detector's run OUT/DATA/seedS/NAME."""
    group = options.out.absolute() / data / f"seed{seed}"
    start = dict(STARTS[name])
    network = base_of(data, options).model.model_dump(mode="json")
    tree = json.loads(json.dumps(FINE))
    tree["model"] |= {key: network[key] for key in SHARED}
    tree["data"] = {
        "labeled": {"path": data_file(data, "train")},
        "labeled_count": options.labels,
        "split_seed": seed,
        "val": {"path": data_file(data, "val")},
        "test": {"path": data_file(data, "test")},
        "views": {"short_side": [SIDE], "max_long_side": 2 * SIDE, "eval_short_side": SIDE},
    }
    keys = {
        "run.dir": str(group / name.replace(", ", "-").replace(" ", "-")),
        "seed": seed,
        "optim.steps": options.fine_steps,
        "optim.labeled_batch": BATCH,
        "optim.unlabeled_batch": BATCH,
    }
    if source := start.pop("from", None):
        keys |= {"model.init_from": str(group / f"pretrained-{source}"), "model.weights": None}
    keys |= start
    return resolve(tree, keys)


def trained(config: RunConfig) -> Path:
    """Train a run to its end, unless that was done."""
    folder = Path(config.run.dir)
    ends = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "end"] if folder.exists() else []
    if not ends or ends[-1]["reason"] != "done":
        launch(config, resume=(folder / "config.json").exists())
    return folder


def pretrain(data: str, seed: int, name: str, options: argparse.Namespace) -> None:
    """Pre-train, and measure the region proposals on the test images."""
    config = pretraining_config(data, seed, name, options)
    result = Path(config.run.dir) / "result.json"
    if result.exists():
        return
    begun = time.process_time()
    folder = trained(config)
    figures = evaluate_saved(folder, data={"path": data_file(data, "test")}, split="val", role=None).as_json()
    steps = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "step"]
    alarms = [line["name"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "alarm"]
    spreads = [line["similarity/projection_spread"] for line in steps if "similarity/projection_spread" in line]
    said = {"lowest_spread": min(spreads) if spreads else None, "alarms": sorted(set(alarms))}
    said |= {"fallback": statistics.mean(line["boxes/fallback"] for line in steps)}
    result.write_text(json.dumps({**figures, **said, "cpu_s": time.process_time() - begun}, indent=1))


def measure_untrained(data: str, seed: int, options: argparse.Namespace) -> None:
    """Measure the region proposals of a network with random weights on the same images."""
    file = options.out.absolute() / data / f"seed{seed}" / "untrained.json"
    if file.exists():
        return
    config = pretraining_config(data, seed, "joint", options)
    family: Family[Any, Any, Any, Any] = family_of(config)
    torch.manual_seed(seed)
    method = build_method(config)
    model = method.build_model(1)
    file.parent.mkdir(parents=True, exist_ok=True)
    index = family.open_set(
        {"path": data_file(data, "test")}, file.parent / "untrained", class_names=("object",), config=config
    )
    found = family.evaluate(method, model, index, Group(), max_images=None)
    assert found is not None
    file.write_text(json.dumps(found.as_json(), indent=1))


def fine_tune(data: str, seed: int, name: str, options: argparse.Namespace) -> None:
    """Train a detector on few labels, and measure it on the test images."""
    config = detector_config(data, seed, name, options)
    result = Path(config.run.dir) / "result.json"
    if result.exists():
        return
    begun = time.process_time()
    folder = trained(config)
    figures = evaluate_saved(folder, data=None, split="test", role=None).as_json()
    kept = {key: figures.get(key) for key in FIGURES}
    result.write_text(json.dumps({**kept, "cpu_s": time.process_time() - begun}, indent=1))


def read(home: Path, name: str) -> dict[int, dict[str, Any]]:
    """Return seed -> figures of a run."""
    files = home.glob(f"seed*/{name}")
    return {int(file.relative_to(home).parts[0].removeprefix("seed")): json.loads(file.read_text()) for file in files}


def summarise(home: Path) -> str:
    """Return Markdown tables for each data set."""
    lines = []
    for folder in sorted(each for each in home.iterdir() if any(each.glob("seed*"))):
        lines += [f"### {folder.name}", "", "Region proposals before any label, test images, percent:", ""]
        lines += [f"| | {' | '.join(RECALLS)} | lowest spread | alarms |", f"|---|{'---|' * (len(RECALLS) + 2)}"]
        rows = {"untrained": read(folder, "untrained.json")}
        rows |= {name: read(folder, f"pretrained-{name}/result.json") for name in PRETRAINED}
        for name, found in rows.items():
            lowest = [each["lowest_spread"] for each in found.values() if each.get("lowest_spread") is not None]
            alarms = sorted({alarm for each in found.values() for alarm in each.get("alarms", ())})
            cells = [spread(found, key) for key in RECALLS]
            least = f"{min(lowest):.2f}" if lowest else "-"
            lines.append(f"| {name} | {' | '.join(cells)} | {least} | {', '.join(alarms) or '-'} |")
        lines += ["", "Detectors, test images, percent:", ""]
        lines += [
            f"| start | {' | '.join(FIGURES)} | AP minus none, by seed |",
            f"|---|{'---|' * (len(FIGURES) + 1)}",
        ]
        without = read(folder, "none/result.json")
        for name in STARTS:
            found = read(folder, f"{name.replace(', ', '-').replace(' ', '-')}/result.json")
            pairs = [f"{100 * (found[s]['AP'] - without[s]['AP']):+.1f}" for s in sorted(found) if s in without]
            lines.append(f"| {name} | {' | '.join(spread(found, key) for key in FIGURES)} | {', '.join(pairs)} |")
        lines.append("")
    return "\n".join(lines)


def spread(found: dict[int, dict[str, Any]], key: str) -> str:
    """Return mean, standard deviation and every value of a figure in percent."""
    values = [100 * each[key] for _, each in sorted(found.items()) if each.get(key) is not None]
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} ({', '.join(f'{value:.1f}' for value in values)})"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["foda_lt", "cards"], choices=["foda_lt", "cards"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of each pre-training")
    parser.add_argument("--batch", type=int, default=16, help="images per step of it")
    parser.add_argument("--fine-steps", type=int, default=300, help="of each detector")
    parser.add_argument("--labels", type=int, default=20, help="labelled images of a detector")
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    parser.add_argument("--proposals", type=Path, default=Path("runs/pretraining/proposals"), help="DIR/DATA, or grid")
    parser.add_argument("--set", nargs="*", default=[], dest="extra", metavar="key=value", help="of the pre-training")
    parser.add_argument("--starts", nargs="*", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--summarise", type=Path)
    options = parser.parse_args()
    if options.summarise:
        print(summarise(options.summarise))
        return
    for data in options.data:
        for seed in options.seeds:
            measure_untrained(data, seed, options)
            for name in PRETRAINED:
                pretrain(data, seed, name, options)
            for name in options.starts:
                fine_tune(data, seed, name, options)
    print(summarise(options.out))


if __name__ == "__main__":
    main()
