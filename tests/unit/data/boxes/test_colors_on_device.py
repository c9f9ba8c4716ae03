"""A strong view's colours by torch, on the device that trains: those of Pillow, but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raydet.config.box_data import ViewsConfig
from raydet.errors import ConfigError
from raydet.families.detection.colors import drawn, with_pillow, with_torch
from raydet.families.detection.view_recipes import SharedGeometry
from raydet.metrics import read_metrics
from raydet.randomness import stream
from raydet.train.launch import launch
from raydet.vision.geometry import View
from tests.device_double import DEVICE, OnDevice, waits
from tests.helpers import tiny_config, tiny_soft

PLAIN: dict[str, Any] = {"color_jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "erase": (0.0, 0.0, 0.0)}


def photograph(height: int = 60, width: int = 90) -> Tensor:
    """Smooth colours with some structure, as photographs have them."""
    y, x = torch.meshgrid(torch.linspace(0, 6, height), torch.linspace(0, 9, width), indexing="ij")
    waves = torch.stack([x.sin() * y.cos(), (x + y).cos(), (x * 0.7 - y).sin()])
    return (127 + 100 * waves).round().to(torch.uint8)


def differences(seed: int, **change: Any) -> Tensor:
    """By how many of 255 levels the two differ, `[3, H, W]`."""
    pixels, config = photograph(), ViewsConfig(**(PLAIN | change))
    colors = drawn(*pixels.shape[1:], config, stream(0, "colors", seed))
    return (with_pillow(pixels, colors).int() - with_torch(pixels, colors).int()).abs()


def test_erasures_are_the_same_to_the_bit():
    assert all(int(differences(seed, erase=(1.0, 1.0, 1.0)).max()) == 0 for seed in range(20))


def test_grey_differs_by_rounding():
    assert int(differences(0, grayscale=1.0).max()) <= 1


def test_colours_differ_by_the_rounding_of_four_operations():
    # Pillow's hue has 256 steps, a whole turn's 256th part each: up to 255 / (256 / 6) = 6 levels of one colour
    found = [differences(seed, color_jitter=1.0).float() for seed in range(30)]
    assert max(float(each.mean()) for each in found) < 2
    assert max(float(each.max()) for each in found) <= 16


def test_a_blur_is_as_wide_as_pillows():
    point = torch.zeros(3, 41, 41, dtype=torch.uint8)
    point[:, 20, 20] = 255
    colors = drawn(41, 41, ViewsConfig(**(PLAIN | {"blur": 1.0, "blur_sigma": (2.0, 2.0)})), stream(0, "c"))
    offset = torch.arange(41.0) - 20
    widths = []
    for blurred in (with_pillow(point, colors)[0].float(), with_torch(point, colors)[0].float()):
        column = blurred.sum(dim=1)
        widths.append(float((column * offset.square()).sum() / column.sum()) ** 0.5)
    assert widths == pytest.approx([1.85, 1.85], abs=0.1)  # 2, but for the levels below a half that both lose


def test_photographs_differ_little_after_all_of_it():
    found = [differences(seed, **{"color_jitter": 0.8, "grayscale": 0.2, "blur": 0.5}).float() for seed in range(30)]
    assert sum(float(each.mean()) for each in found) / len(found) < 1.5


def test_a_view_of_a_few_pixels_is_blurred_too():
    colors = drawn(3, 2, ViewsConfig(**(PLAIN | {"blur": 1.0, "blur_sigma": (2.0, 2.0)})), stream(0, "c"))
    assert with_torch(torch.full((3, 3, 2), 7, dtype=torch.uint8), colors).tolist() == [[[7, 7]] * 3] * 3


def test_the_loader_leaves_the_colours_to_the_device_with_the_draws_that_it_would_have_made():
    pixels = photograph()
    here, there = (SharedGeometry(ViewsConfig(short_side=(60,), colors_on=where)) for where in ("loader", "device"))
    seen = (pixels, View.identity(60, 90))
    mine, left = (recipe.student(seen, lambda: pixels, stream(0, "s"))[0] for recipe in (here, there))
    assert mine.colors is None and left.colors is not None and left.pixels is pixels
    assert torch.equal(with_pillow(left.pixels, left.colors), mine.pixels)


def test_the_device_waits_for_no_colour():
    pixels = photograph()
    everything = ViewsConfig(color_jitter=1.0, grayscale=1.0, blur=1.0, erase=(1.0, 1.0, 1.0))
    colors = drawn(*pixels.shape[1:], everything, stream(0, "c"))
    expected = with_torch(pixels, colors)
    with waits() as found:
        painted = with_torch(pixels.to(DEVICE, non_blocking=True), colors)
    assert isinstance(painted, OnDevice) and torch.equal(painted.inner, expected)
    assert found.total() == 0


def test_a_run_with_colours_on_the_device_trains_and_resumes_to_the_bit(tmp_path: Path):
    change = {"data__views__colors_on": "device", "checkpoint__every": 5}
    launch(tiny_config(tmp_path / "whole", **change))
    launch(tiny_config(tmp_path / "two", **change, run__stop_at=5))
    launch(tiny_config(tmp_path / "two", **change), resume=True)
    whole, two = (
        [line["loss"] for line in read_metrics(tmp_path / run / "metrics.jsonl") if line["kind"] == "step"]
        for run in ("whole", "two")
    )
    assert whole == two and len(whole) == 8


def test_soft_teacher_has_colours_of_its_own():
    with pytest.raises(ConfigError, match="data.views.colors_on: method.name=soft_teacher has views of its own"):
        tiny_soft(Path("unused"), data__views__colors_on="device")
