"""Photos for `raydet label`, calling it, and what it wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raydet.cli import main
from raydet.data.boxes.synthetic import materialise
from tests.helpers import tiny_config

ABOVE = "0.16"  # a model of a few steps is sure of nothing


def put_photos(run: Path, folder: Path) -> Path:
    """40 images; a file that is no image and one that is cut off among them."""
    labeled = tiny_config(run).data.labeled
    images = sorted(materialise(labeled.shapes, run / "data" / "shapes").parent.rglob("*.png"))
    for number in range(38):
        shutil.copy(images[number % len(images)], folder / f"image_{number:03d}.png")
    (folder / "bad.jpg").write_text("<html>")
    (folder / "cut.png").write_bytes(images[0].read_bytes()[:400])
    return folder


def label(run: Path, images: str | Path, out: Path, *options: str, actors: int = 0) -> int:
    words = ["label", str(run), str(images), "--out", str(out), "--actors", str(actors), "--shard-images", "4"]
    return main([*words, "--score-threshold", ABOVE, *options])


def assert_same(out: Path, other: Path) -> None:
    """The same labels bit for bit, row by row."""
    names = [sorted(path.name for path in (folder / "shards").iterdir()) for folder in (out, other)]
    assert names[0] == names[1]
    for name in names[0]:
        assert pq.read_table(out / "shards" / name).equals(pq.read_table(other / "shards" / name))
    for file in ("coco.json", "skipped.csv", "listing.jsonl"):
        assert (out / file).read_bytes() == (other / file).read_bytes()


def rows(out: Path) -> list[dict]:
    tables = [pq.read_table(path) for path in sorted((out / "shards").iterdir())]
    return pa.concat_tables(tables).to_pylist()
