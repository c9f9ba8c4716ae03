"""What selective search is asked for reaches OpenCV, from the command line on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.cli import main
from raydet.proposals import run
from raydet.proposals.filters import Filters
from raydet.proposals.run import ProposalOptions
from raydet.proposals.sources import SelectiveSearch
from tests.unit.proposals.pictures import picture

ASKED = {"scale": 123.0, "sigma": 0.6, "min_size": 17, "color_space": "hsv", "max_side": 77}
ON_THE_LINE = [word for name, value in ASKED.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def asked_of(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> list[tuple[Any, ...]]:
    """Let a function do its work, and note its arguments."""
    calls: list[tuple[Any, ...]] = []
    real: Callable[..., Any] = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *given, **named: calls.append(given) or real(*given, **named))
    return calls


def test_parameters_of_the_segmentation_reach_opencv_in_its_order(monkeypatch: pytest.MonkeyPatch):
    cv2 = pytest.importorskip("cv2")
    segmented = asked_of(monkeypatch, cv2.ximgproc.segmentation, "createGraphSegmentation")
    pixels = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    SelectiveSearch(scale=123.0, sigma=0.6, min_size=17).finder()(pixels, "a.png")
    SelectiveSearch().finder()(pixels, "a.png")
    assert segmented == [(0.6, 123.0, 17), (0.9, 500.0, 10)]  # sigma, k, min_size; the second are ADePT's


def test_each_parameter_changes_what_is_found():
    pytest.importorskip("cv2")
    # Noise of blocks, so that there are segments of many sizes.
    noise = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = noise.repeat_interleave(5, dim=1).repeat_interleave(5, dim=2)

    def found(**changes: Any) -> list[list[float]]:
        return np.unique(SelectiveSearch(**changes).finder()(pixels, "a.png"), axis=0).tolist()

    plain = found()
    for name, value in {"scale": 30.0, "sigma": 3.0, "min_size": 400, "color_space": "hsv", "max_side": 40}.items():
        assert found(**{name: value}) != plain, name


def test_hsv_is_made_of_red_green_and_blue_in_this_order(monkeypatch: pytest.MonkeyPatch):
    cv2 = pytest.importorskip("cv2")
    converted = asked_of(monkeypatch, cv2, "cvtColor")
    kit = cv2.ximgproc.segmentation
    seen: list[list[int]] = []

    class Search:
        """OpenCV's, which says what it is given."""

        def __init__(self) -> None:
            self.own = make()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.own, name)

        def addImage(self, image: np.ndarray) -> None:  # noqa: N802  # OpenCV's name
            seen.append(image[0, 0].tolist())
            self.own.addImage(image)

    make = kit.createSelectiveSearchSegmentation
    monkeypatch.setattr(kit, "createSelectiveSearchSegmentation", Search)
    blue = torch.zeros(3, 30, 40, dtype=torch.uint8)
    blue[2] = 255
    SelectiveSearch(color_space="hsv").finder()(blue, "a.png")
    SelectiveSearch(color_space="rgb").finder()(blue, "a.png")
    # Blue has a hue of 240 degrees, which OpenCV halves; red, which blue is where channels are swapped, has 0.
    assert seen == [[120, 255, 255], [0, 0, 255]]
    assert [code for _, code in converted] == [cv2.COLOR_RGB2HSV]


def options_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str) -> ProposalOptions:
    """What the command line asks for; nothing is searched."""
    asked: list[ProposalOptions] = []
    monkeypatch.setattr(run, "propose", asked.append)
    assert main(["proposals", str(tmp_path), "--out", str(tmp_path / "out"), *words]) == 0
    (options,) = asked
    return options


def test_the_command_line_passes_every_parameter_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    filters = ["--aspect-range", "0.5", "2", "--sqrt-area-range", "0.1", "0.9", "--min-side", "21"]
    options = options_of(monkeypatch, tmp_path, *ON_THE_LINE, *filters)
    assert options.source == SelectiveSearch(scale=123.0, sigma=0.6, min_size=17, color_space="hsv", max_side=77)
    assert options.filters == Filters(aspect_range=(0.5, 2.0), sqrt_area_range=(0.1, 0.9), min_side=21.0)


def test_the_command_lines_defaults_are_the_published_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    options = options_of(monkeypatch, tmp_path)
    assert (options.source, options.filters) == (SelectiveSearch(), Filters())


def test_what_the_command_line_says_reaches_opencv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cv2 = pytest.importorskip("cv2")
    segmented = asked_of(monkeypatch, cv2.ximgproc.segmentation, "createGraphSegmentation")
    converted = asked_of(monkeypatch, cv2, "cvtColor")
    (tmp_path / "photos").mkdir()
    picture(tmp_path / "photos" / "a.png")
    words = ["proposals", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--actors", "0", *ON_THE_LINE]
    assert main(words) == 0
    assert segmented == [(0.6, 123.0, 17)]
    # 120 x 90 at a long side of 77: 90 * 77 / 120 = 57.75
    assert [(image.shape, code) for image, code in converted] == [((58, 77, 3), cv2.COLOR_RGB2HSV)]
