"""What two runs are compared by."""

from __future__ import annotations

from pathlib import Path

import torch

from raydet.labels.store import read_all
from raydet.metrics import read_metrics
from raydet.train.checkpoint import latest_checkpoint

# With this seed no decision is a near tie: a rate larger by 1 in a million changes losses by .00001 at most. With the
# usual one it flips a pseudo-box (.001 at step 5, .1 at step 9), as rounding over other numbers of ranks may.
ASYNC = {"seed": 7, "labels__lookahead": 2, "labels__publish_every": 2, "optim__steps": 16, "checkpoint__every": 4}
PARTS = ("student", "teacher", "optimizer", "memory")


def saved(run: Path) -> dict[str, torch.Tensor]:
    """Return weights, moments and learned labels of the newest checkpoint."""
    checkpoint = latest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    return {
        f"{part}.{name}": value
        for part in PARTS
        if checkpoint.has(part)
        for name, value in checkpoint.tensors(part).items()
    }


def assert_same_bits(run: Path, other: Path) -> None:
    mine, theirs = saved(run), saved(other)
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different, f"{len(different)} of {len(mine)} tensors differ, e.g. {different[:3]}"


def label_keys(run: Path) -> set[tuple[int, str]]:
    return {
        (version, image_id)
        for table in read_all(run / "labels")
        for version, image_id in zip(table["version"].to_pylist(), table["image_id"].to_pylist(), strict=True)
    }


def losses(run: Path) -> list[dict[str, float]]:
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    return [{k: v for k, v in line.items() if k == "step" or k.endswith("/raw")} for line in lines]
