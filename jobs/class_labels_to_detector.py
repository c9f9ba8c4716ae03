"""From class labels to a detector: LCHP's boxes label the images that IL-net learns from; beside it, true boxes.

    python jobs/class_labels_to_detector.py [--home DIR] [--lchp key=value ...] [--detector key=value ...]

1 LCHP sees the classes of the training images alone (jobs/configs/lchp_foda.yaml)
2 `raydet label` puts one box on each of them
3 IL-net: every fourth image is labelled with its box, the others are unlabelled (jobs/configs/il_net_foda.yaml)
4 the same IL-net with true boxes on the same images
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from raydet.cli import run_guarded
from raydet.config.run import RunConfig
from raydet.label_files.run import LabelOptions, label
from raydet.metrics import read_metrics
from raydet.settings import load
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder

CONFIGS = Path(__file__).parent / "configs"
EVERY = 4  # of the images, one is labelled


def image_root(file: Path, names: list[str]) -> Path:
    """Return the folder that the images of a COCO file are relative to: its own, or the one above."""
    return next(root for root in (file.parent, file.parent.parent) if (root / names[0]).is_file())


def with_ids_of(truth: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Return true boxes with the image ids that the made ones have, so that both runs label the same images."""
    new = {image["file_name"]: image["id"] for image in made["images"]}
    id_of = {image["id"]: new[image["file_name"]] for image in truth["images"] if image["file_name"] in new}
    return {
        "images": made["images"],
        "categories": truth["categories"],
        "annotations": [
            {**each, "image_id": id_of[each["image_id"]]} for each in truth["annotations"] if each["image_id"] in id_of
        ],
    }


def final_ap(run: Path) -> dict[str, float | None]:
    """Return the last figures of the run's last model."""
    line = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"][-1]
    return {name: line[name] for name in ("AP", "AP50", "AP75")}


def begun_or_resumed(config: RunConfig) -> Path:
    """Train to the end, from where an earlier call was interrupted; return the run's folder."""
    return launch(config, resume=RunFolder(config.run.dir).is_started).path


def main() -> int:
    """Train, label, train, compare; the same command goes on with what it finds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default="runs/class_labels_to_detector", help="folder of all runs")
    parser.add_argument("--lchp", nargs="*", default=[], metavar="key=value", help="settings of the localizer's run")
    parser.add_argument(
        "--detector", nargs="*", default=[], metavar="key=value", help="settings of both detectors' runs"
    )
    given = parser.parse_args()
    home = Path(given.home).absolute()

    print("== 1/4 LCHP: boxes from class labels ==", flush=True)
    config = load(CONFIGS / "lchp_foda.yaml", [*given.lchp, f"run.dir={home / 'lchp'}"])
    lchp = begun_or_resumed(config)

    print("\n== 2/4 one box on each training image ==", flush=True)
    source = Path(config.data.labeled.path).expanduser().absolute()
    truth = json.loads(source.read_bytes())
    names = [image["file_name"] for image in truth["images"]]
    root = image_root(source, names)
    (home / "train.txt").write_text("".join(f"{name}\n" for name in names))
    images, out = str(home / "train.txt"), home / "labels"
    label(LabelOptions(checkpoint=lchp, images=images, out=out, root=str(root), actors=0, batch=8))
    made = json.loads((home / "labels" / "coco.json").read_bytes())
    (home / "true.json").write_text(json.dumps(with_ids_of(truth, made)))
    ids = [str(image["id"]) for image in made["images"]][::EVERY]
    (home / "labeled.json").write_text(json.dumps(ids))

    rows = {}
    sets = {"LCHP's boxes": home / "labels" / "coco.json", "true boxes": home / "true.json"}
    for number, (name, file) in enumerate(sets.items(), start=3):
        print(f"\n== {number}/4 IL-net from {name} of {len(ids)} images ==", flush=True)
        settings = [
            f"run.dir={home / f'il_net_{file.stem}'}",
            f"data.labeled={{path: '{file}', images: '{root}'}}",
            "data.labeled_count=null",
            f"data.labeled_ids={home / 'labeled.json'}",
        ]
        rows[name] = final_ap(begun_or_resumed(load(CONFIGS / "il_net_foda.yaml", [*given.detector, *settings])))

    print(f"\n{'IL-net learned from':24}{'AP':>8}{'AP50':>8}{'AP75':>8}")
    for name, row in rows.items():
        print(f"{name:24}" + "".join("     n/a" if v is None else f"{100 * v:8.1f}" for v in row.values()))
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main, again="the same command goes on"))
