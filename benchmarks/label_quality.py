"""How good the pseudo-labels of finished runs were, per class, early and late in the mutual stage.

    python benchmarks/label_quality.py runs/ssod_small/bccd-20-seed*/il_net

Read from the label stores, against boxes that training never saw; thresholds are those of each run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from raydet.contract import Method
from raydet.data.boxes.index import DatasetIndex
from raydet.families.detection.data import BOXES
from raydet.families.detection.method import DetectionMethod
from raydet.families.detection.pseudo_quality import LabelPair, PseudoLabelQuality, pseudo_label_quality
from raydet.labels.convert import from_table
from raydet.labels.store import read_all
from raydet.records import PseudoBoxes
from raydet.registry import build_method
from raydet.train.rundir import RunFolder


def quality(labels: list[PseudoBoxes], method: Method, hidden: DatasetIndex) -> PseudoLabelQuality:
    pairs = []
    for label in labels:
        kept, truth = method.select(label).kept, hidden.truth_at(hidden.position(label.image_id))
        real = ~truth.crowd
        pairs.append(LabelPair(kept.boxes.numpy(), kept.classes.numpy(), truth.boxes[real], truth.classes[real]))
    return pseudo_label_quality(pairs, len(hidden.class_names))


def main(runs: list[str]) -> None:
    print("| run | part | precision | recall | class errors | mean IoU | boxes/image | precision, recall by class |")
    print("|---|---|---|---|---|---|---|---|")
    for run in runs:
        folder = RunFolder(run)
        method, hidden = build_method(folder.load_config()), BOXES.open_hidden(folder.data)
        assert hidden is not None, f"{run}: its unlabelled images have no hidden boxes"
        if isinstance(method, DetectionMethod):
            method.know_classes(hidden.class_names)
        labels = [label for table in read_all(folder.labels) for label in from_table(table)]
        labels.sort(key=lambda label: label.teacher.version)
        part = max(1, len(labels) // 5)
        for name, chosen in (("first fifth", labels[:part]), ("last fifth", labels[-part:])):
            q = quality(chosen, method, hidden)
            classes = ", ".join(
                f"{c} {_show(q.precision_of(i))} {_show(q.recall_of(i))}" for i, c in enumerate(hidden.class_names)
            )
            print(
                f"| {'/'.join(Path(run).parts[-2:])} | {name} | {_show(q.precision)} | {_show(q.recall)} | "
                f"{_show(q.class_error_rate)} | {_show(q.mean_iou)} | {q.boxes.sum() / q.images:.1f} | {classes} |"
            )


def _show(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main(sys.argv[1:])
