"""An evaluation decodes the next images while the network looks at the present ones."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raydet.config.box_data import ViewsConfig
from raydet.errors import DataError
from raydet.families.detection.evaluate import IMAGES_PER_FORWARD, predict
from raydet.registry import build_method, family_of
from raydet.vision.images import ImageBatch, collate
from tests.helpers import tiny_config

COUNT = 2 * IMAGES_PER_FORWARD + 1  # two whole parts and a rest


class Images:
    """Pictures of which each has its number in all pixels; says when each was asked for."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.asked = [threading.Event() for _ in range(COUNT)]
        self.broken = broken

    def pixels_at(self, row: int) -> torch.Tensor:
        self.asked[row].set()
        if row in self.broken:
            raise DataError(f"{row}.jpg: no picture")
        return torch.full((3, 40, 40), row, dtype=torch.uint8)

    def size_at(self, row: int) -> tuple[int, int]:
        return 40, 40

    def id_at(self, row: int) -> str:
        return f"image-{row}"

    def file_at(self, row: int) -> Path:
        return Path(f"{row}.jpg")


class Network(torch.nn.Module):
    def framed(self, pixels: list[torch.Tensor]) -> ImageBatch:
        return collate(pixels, "cpu")


class Looker:
    """Finds a box of an image's number in pixels, and does so only once the images of the next part are asked for."""

    def __init__(self, index: Images, threads: int) -> None:
        views = ViewsConfig(short_side=(40,), max_long_side=40, eval_short_side=40)
        data = SimpleNamespace(views=views, loader_threads=threads, prefetch_steps=1)
        self.run, self.index, self.seen = SimpleNamespace(data=data), index, list[int]()

    def detect(self, model: Any, images: Any) -> list[Any]:
        numbers = [round(255 * (0.229 * float(red) + 0.485)) for red in images.pixels[:, 0, 0, 0]]  # as ImageNet's
        self.seen += numbers
        coming = self.index.asked[len(self.seen) : len(self.seen) + IMAGES_PER_FORWARD]
        if self.run.data.loader_threads:
            assert all(each.wait(30) for each in coming), "the next images were not asked for"
        else:
            assert not any(each.is_set() for each in coming)
        one = {"classes": torch.tensor([0]), "scores": torch.tensor([0.5]), "masks": None}
        return [SimpleNamespace(boxes=torch.tensor([[0.0, 0, number + 1, 1]]), **one) for number in numbers]


def looked(index: Images, threads: int) -> tuple[list[Any], Looker]:
    looker = Looker(index, threads)
    found = predict(looker, Network(), index, range(COUNT))  # type: ignore[arg-type]
    return found, looker


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_next_images_are_asked_for_before_the_present_ones_are_looked_at(threads: int):
    found, looker = looked(Images(), threads)
    assert looker.seen == list(range(COUNT))
    assert [each.image_id for each in found] == [f"image-{row}" for row in range(COUNT)]
    assert [float(each.boxes[0, 2]) for each in found] == [row + 1.0 for row in range(COUNT)]


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_image_stops_it_when_its_turn_has_come_and_the_first_one_is_named(threads: int):
    index, before = Images(broken=(COUNT - 2, COUNT - 1)), threading.active_count()
    looker = Looker(index, threads)
    with pytest.raises(DataError) as caught:
        predict(looker, Network(), index, range(COUNT))  # type: ignore[arg-type]
    assert str(caught.value) == f"{COUNT - 2}.jpg: no picture"
    assert looker.seen == list(range(IMAGES_PER_FORWARD))
    assert threading.active_count() == before


def test_no_thread_is_left_where_the_network_fails():
    class Failing(Looker):
        def detect(self, model: Any, images: Any) -> list[Any]:
            raise RuntimeError("out of memory")

    index, before = Images(), threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        predict(Failing(index, 2), Network(), index, range(COUNT))  # type: ignore[arg-type]
    assert threading.active_count() == before


def test_threads_change_no_bit_of_what_a_detector_finds(tmp_path: Path):
    config = tiny_config(tmp_path / "run")
    family_of(config).prepare(config, tmp_path / "data")
    index, method = family_of(config).open(tmp_path / "data").labeled, build_method(config)
    torch.manual_seed(0)
    model = method.build_model(len(index.class_names)).eval()
    found = []
    for threads in (0, 3):
        data = config.data.model_copy(update={"loader_threads": threads})
        other: Any = build_method(config.model_copy(update={"data": data}))
        found.append(predict(other, model, index, range(len(index))))
    assert len(found[0]) == len(index) > IMAGES_PER_FORWARD and sum(len(each.scores) for each in found[0]) > 0
    for one, other in zip(*found, strict=True):
        assert one.image_id == other.image_id
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "classes", "scores"))
