from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from raydet.config.class_data import ImageViewsConfig
from raydet.families.classification.views import augmented_view, plain_view
from raydet.randomness import stream

FILL = (7, 8, 9)


def views(**change: Any) -> ImageViewsConfig:
    """Views that change nothing, but for what a test asks for."""
    return ImageViewsConfig.model_validate({"size": 8, "crop": "none", "horizontal_flip": 0.0, **change})


def augmented(pixels: Tensor, config: ImageViewsConfig, *key: int, cutout: bool = False) -> Tensor:
    return augmented_view(pixels, config, stream(0, "view", *key), fill=FILL, cutout=cutout)


def numbered(height: int = 8, width: int = 8) -> Tensor:
    """Pixels whose red says the row, whose green says the column."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width)[None].expand(height, width)
    return torch.stack([rows, columns, rows * 0]).to(torch.uint8)


def test_the_plain_view_of_an_image_of_the_right_size_is_the_image() -> None:
    for crop in ("none", "translate"):
        config = views(crop=crop, horizontal_flip=1.0)
        assert torch.equal(plain_view(numbered(), config), numbered())
    decoded = numbered().permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as decoders give it: channels last
    viewed = plain_view(decoded, views())
    assert torch.equal(viewed, numbered()) and viewed.is_contiguous()


def test_images_of_another_size_are_squeezed_to_the_square() -> None:
    viewed = plain_view(torch.full((3, 20, 40), 77, dtype=torch.uint8), views())
    assert viewed.shape == (3, 8, 8) and viewed.dtype == torch.uint8 and bool((viewed == 77).all())


def test_the_plain_view_of_resized_is_the_middle() -> None:
    # short side 7 * 256 / 224 = 8: nothing is resized; of 8 x 12 pixels the middle 7 x 7 starts at row 0, column 2
    viewed = plain_view(numbered(8, 12), views(size=8, crop="resized").model_copy(update={"size": 7}))
    assert viewed.shape == (3, 7, 7)
    assert viewed[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6] and viewed[1, 0].tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert plain_view(numbered(30, 3), views(size=224, crop="resized")).shape == (3, 224, 224)


def test_without_augmentation_the_augmented_view_is_the_plain_one() -> None:
    assert torch.equal(augmented(numbered(), views()), plain_view(numbered(), views()))


def test_translation_reflects_at_the_border() -> None:
    config = views(crop="translate", max_translate=2)
    # A row that moved down by 2 shows 2, 1, 0, 1, ...: the border itself is not repeated.
    expected = {
        2: [2, 1, 0, 1, 2, 3, 4, 5],
        1: [1, 0, 1, 2, 3, 4, 5, 6],
        0: [0, 1, 2, 3, 4, 5, 6, 7],
        -1: [1, 2, 3, 4, 5, 6, 7, 6],
        -2: [2, 3, 4, 5, 6, 7, 6, 5],
    }
    seen = set()
    for number in range(200):
        viewed = augmented(numbered(), config, number)
        down = next(shift for shift, rows in expected.items() if rows == viewed[0, :, 0].tolist())
        right = next(shift for shift, columns in expected.items() if columns == viewed[1, 0].tolist())
        assert torch.equal(viewed[0], viewed[0, :, :1].expand(8, 8))  # all columns moved alike
        seen.add((down, right))
    assert len(seen) == 25  # all of 5 x 5; one of them is missing with probability 25 * 0.96**200 < 0.8 %


def test_a_flip_mirrors_left_and_right_as_often_as_asked() -> None:
    assert torch.equal(augmented(numbered(), views(horizontal_flip=1.0)), numbered().flip(2))
    flipped = sum(int(augmented(numbered(), views(horizontal_flip=0.3), n)[1, 0, 0] == 7) for n in range(400))
    assert abs(flipped - 120) < 56  # 6 standard deviations of binomial(400, 0.3)


def test_random_crops_keep_to_the_stated_areas_and_ratios() -> None:
    # A ramp from 0 to 250 along each axis: the range of values in a view says how much of the axis it shows.
    ramp = torch.linspace(0, 250, 200).round().to(torch.uint8)
    pixels = torch.stack([ramp[:, None].expand(200, 200), ramp[None].expand(200, 200), ramp[:, None].expand(200, 200)])
    config = views(size=64, crop="resized")
    shares, ratios = [], []
    for number in range(200):
        viewed = augmented(pixels, config, number).float()
        # 64 samples lie in the middles of 64 equal parts: first to last spans 63/64 of the crop
        tall = float(viewed[0, -1, 0] - viewed[0, 0, 0]) / 250 * 64 / 63
        wide = float(viewed[1, 0, -1] - viewed[1, 0, 0]) / 250 * 64 / 63
        shares.append(tall * wide)
        ratios.append(wide / tall)
    assert 0.06 < min(shares) < 0.2 and 0.85 < max(shares) < 1.06
    assert 0.7 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.43


def test_a_strip_too_long_for_a_crop_shows_its_middle() -> None:
    pixels = torch.zeros(3, 2, 300, dtype=torch.uint8)
    pixels[:, :, 140:160] = 200
    assert augmented(pixels, views(crop="resized")).float().mean() == 200  # the middle 2 x 3 pixels


def test_cutout_fills_one_square_that_is_clipped_at_the_border() -> None:
    pixels = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    config = views(size=32, cutout_size=16)
    cut_above, cut_below, heights = set(), set(), set()
    for number in range(300):
        viewed = augmented(pixels, config, number, cutout=True)
        rows, columns = (viewed[0] != 200).nonzero(as_tuple=True)
        top, bottom, left, right = (int(v) for v in (rows.min(), rows.max(), columns.min(), columns.max()))
        assert len(rows) == (bottom - top + 1) * (right - left + 1)  # a full rectangle
        for side, (low, high) in {"y": (top, bottom), "x": (left, right)}.items():
            inside = high - low + 1
            assert inside == 16 or (8 <= inside < 16 and (low == 0 or high == 31)), side
        assert viewed[:, top, left].tolist() == list(FILL)
        heights.add(bottom - top + 1)
        (cut_above if top == 0 else cut_below if bottom == 31 else set()).add(bottom - top + 1)
    # The hole spans rows c - 8 to c + 7: centred on row 0 it shows 0 to 7, on row 31 it shows 23 to 31.
    assert min(cut_above) == 8 and min(cut_below) == 9 and max(heights) == 16
    assert bool((pixels == 200).all())  # the picture itself is left alone


def test_with_and_without_cutout_the_geometry_is_the_same() -> None:
    config = ImageViewsConfig(size=32)
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=stream(0, "noise"))
    for number in range(20):
        plain, cut = (augmented(pixels, config, number, cutout=cutout) for cutout in (False, True))
        hole = (cut == torch.tensor(FILL, dtype=torch.uint8)[:, None, None]).all(0)
        assert torch.equal(plain[:, ~hole], cut[:, ~hole]) and 64 <= int(hole.sum()) <= 256 + 2


def test_no_cutout_where_its_size_is_zero() -> None:
    assert torch.equal(augmented(numbered(), views(cutout_size=0), cutout=True), numbered())


def test_a_translation_as_far_as_the_image_is_wide_is_refused() -> None:
    assert augmented(numbered(), views(crop="translate", max_translate=7)).shape == (3, 8, 8)
    with pytest.raises(ValueError, match="max_translate=8 must be below size=8"):
        views(crop="translate", max_translate=8)


@pytest.mark.parametrize("crop", ["translate", "resized", "none"])
def test_one_seed_gives_one_view_and_nothing_is_drawn_elsewhere(crop: str) -> None:
    config = ImageViewsConfig.model_validate({"size": 32, "crop": crop})
    pixels = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=stream(0, "noise"))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, again, other = (augmented(pixels, config, number, cutout=True) for number in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (3, 32, 32) and first.dtype == torch.uint8 and first.is_contiguous()
