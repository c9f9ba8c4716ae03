"""Images in memory and what the loader's tests set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from raydet.config.box_data import ShapesConfig
from raydet.data.boxes.synthetic import render
from raydet.data.decode import decode
from raydet.families.detection.batch import ViewedImage
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.view_recipes import SharedGeometry
from raydet.records import Target


@dataclass
class FakeIndex:
    """The methods of DatasetIndex that the loader uses, over a few images in memory."""

    files: list[Path]
    sizes: list[tuple[int, int]]
    targets: list[Target]
    prefix: str
    read: list[str] = field(default_factory=list)  # ids whose file was asked for

    def __len__(self) -> int:
        return len(self.files)

    def id_at(self, i: int) -> str:
        return f"{self.prefix}{i}"

    def position(self, image_id: str) -> int:
        return int(image_id.removeprefix(self.prefix))

    def file_at(self, i: int) -> Path:
        return self.files[i]

    def pixels_at(self, i: int) -> torch.Tensor:
        self.read.append(self.id_at(i))
        return decode(self.files[i])

    def size_at(self, i: int) -> tuple[int, int]:
        return self.sizes[i]

    def target_at(self, i: int) -> Target:
        return self.targets[i]


@dataclass
class FakeData:
    labeled: FakeIndex
    unlabeled: FakeIndex | None


def some_images(folder: Path, count: int, prefix: str) -> FakeIndex:
    folder.mkdir()
    index = FakeIndex([], [], [], prefix)
    for i in range(count):
        height, width = 40 + 4 * i, 60 - 2 * i
        scene = render(ShapesConfig(height=height, width=width), i)
        Image.fromarray(scene.pixels).save(folder / f"{prefix}{i}.png")
        index.files.append(folder / f"{prefix}{i}.png")
        index.sizes.append((height, width))
        boxes = torch.from_numpy(scene.boxes).float()
        index.targets.append(Target.truth(boxes, torch.tensor(scene.classes, dtype=torch.int64)))
    return index


def config(**data_changes: Any) -> DetectionConfig:
    views = {"short_side": [32, 40, 48], "vertical_flip": 0.5, **data_changes.pop("views", {})}
    return DetectionConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "seed": 3,
            "data": {"labeled": "x", "unlabeled": "y", "views": views, **data_changes},
            "method": {"name": "unbiased_teacher", "burn_in_steps": 2},
            "optim": {"labeled_batch": 5, "unlabeled_batch": 4, "steps": 12},
        }
    )


def recipe(settings: DetectionConfig) -> SharedGeometry:
    return SharedGeometry(settings.data.views)


def assert_same(a: tuple[ViewedImage, ...], b: tuple[ViewedImage, ...]) -> None:
    assert [x.image_id for x in a] == [x.image_id for x in b]
    for x, y in zip(a, b, strict=True):
        assert x.view == y.view
        assert torch.equal(x.pixels, y.pixels)
        assert torch.equal(x.target.boxes, y.target.boxes) and torch.equal(x.target.classes, y.target.classes)
