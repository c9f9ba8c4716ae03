"""Algorithm 1 in batches against a loop over images that follows the paper's steps one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from raydet.families.localization.attention import AttentionRule, normalised, pseudo_boxes, regions, without
from raydet.families.localization.components import components, largest_boxes

BLACK = torch.zeros(3, 1, 1)


def region_of_one(attention: Tensor, size: tuple[int, int], rule: AttentionRule) -> tuple[list[float], bool]:
    """Steps 2 to 4 for one map `[h, w]`, pixel by pixel."""
    if attention.max() == attention.min():
        return [0.0, 0.0, float(size[1]), float(size[0])], True
    if rule.upsample:
        attention = F.interpolate(attention[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    low, high = attention.min(), attention.max()
    rows, columns = torch.nonzero((attention - low) / (high - low) > rule.threshold).unbind(1)
    box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
    scale = [size[1] / attention.shape[1], size[0] / attention.shape[0]] * 2
    return [edge * factor for edge, factor in zip(box, scale, strict=True)], False


def loop(attention_of: Callable[[Tensor], Tensor], pixels: Tensor, rule: AttentionRule, fill: Tensor) -> Tensor:
    """Algorithm 1, image by image."""
    found = []
    size = (pixels.shape[-2], pixels.shape[-1])
    for image in pixels:
        first, _ = region_of_one(attention_of(image[None])[0], size, rule)
        masked = image.clone()
        x1, y1, x2, y2 = (round(edge) for edge in first)
        masked[:, y1:y2, x1:x2] = fill
        second, is_flat = region_of_one(attention_of(masked[None])[0], size, rule)
        both = [first] if is_flat else [first, second]
        found.append(
            [min(b[0] for b in both), min(b[1] for b in both), max(b[2] for b in both), max(b[3] for b in both)]
        )
    return torch.tensor(found)


def looked_at(cells: int) -> Callable[[Tensor], Tensor]:
    """A stand-in for a network: the attention is the mean brightness of each cell."""
    return lambda pixels: F.adaptive_avg_pool2d(pixels.mean(dim=1, keepdim=True), cells)[:, 0]


def blobs(count: int, side: int, seed: int = 0) -> Tensor:
    """Images with a few bright places each."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 7, 7, generator=rng) ** 4
    return F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("threshold", [0.4, 0.7, 0.9])
@pytest.mark.parametrize("upsample", [True, False])
def test_a_batch_gives_the_boxes_of_the_loop(threshold: float, upsample: bool):
    pixels, rule = blobs(64, 96), AttentionRule(threshold, upsample)
    found = pseudo_boxes(looked_at(12), pixels, rule, BLACK)
    assert torch.equal(found.boxes, loop(looked_at(12), pixels, rule, BLACK))
    assert not torch.equal(found.boxes, found.first)  # looking again changes some
    assert not found.is_flat.any()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 40),
    st.integers(0, 40),
    st.floats(0.05, 0.95),
    st.integers(0, 9999),
)
def test_the_rectangle_is_that_of_the_enlarged_map_whatever_the_sizes(
    h: int, w: int, more_rows: int, more_columns: int, threshold: float, seed: int
):
    height, width = h + more_rows, w + more_columns  # an image is never smaller than its map
    attention = torch.rand(2, h, w, generator=torch.Generator().manual_seed(seed)) ** 2
    rule = AttentionRule(threshold)
    enlarged = normalised(F.interpolate(attention[None], (height, width), mode="bilinear", align_corners=False)[0])
    assume(bool(((enlarged - threshold).abs() > 1e-5).all()))  # at the threshold itself rounding decides
    found = regions(attention, (height, width), rule)
    for row in range(2):
        box, is_flat = region_of_one(attention[row], (height, width), rule)
        assert bool(found.is_flat[row]) == is_flat
        assert found.boxes[row].tolist() == box


def test_a_flat_map_is_the_whole_image_and_says_so():
    found = regions(torch.full((1, 4, 4), 0.3), (20, 30), AttentionRule(0.7))
    assert found.boxes.tolist() == [[0, 0, 30, 20]]
    assert found.is_flat.tolist() == [True]


def test_a_masked_image_that_shows_nothing_adds_nothing():
    pixels = torch.zeros(1, 3, 20, 20)
    pixels[:, :, 5:10, 5:15] = 1.0  # masked out, nothing is left: the second map is flat
    found = pseudo_boxes(looked_at(4), pixels, AttentionRule(0.5, upsample=False), BLACK)
    assert found.boxes.tolist() == found.first.tolist() == found.second.tolist() == [[5, 5, 15, 10]]
    assert not found.is_flat.any()


def test_a_region_that_is_the_whole_image_stays_it():
    pixels = torch.ones(1, 3, 8, 8)
    pixels[:, :, 4, 4] = 0.9
    found = pseudo_boxes(lambda x: x.mean(dim=1) + 1e-3, pixels, AttentionRule(0.05, upsample=False), BLACK)
    assert found.boxes.tolist() == [[0, 0, 8, 8]]
    assert float(found.masked.abs().sum()) == 0


def test_without_mask_out_the_first_region_is_all():
    pixels = blobs(8, 48)
    found = pseudo_boxes(looked_at(6), pixels, AttentionRule(0.7, mask_out=False), BLACK)
    assert torch.equal(found.boxes, found.first)


def test_maps_are_normalised_by_image_and_not_by_batch():
    attention = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(3))
    faint = torch.stack([attention[0], attention[1] * 1e-3])
    rule = AttentionRule(0.6)
    assert torch.equal(regions(attention, (48, 48), rule).boxes, regions(faint, (48, 48), rule).boxes)
    assert normalised(faint).amax(dim=(1, 2)).tolist() == [1.0, 1.0]


def test_half_precision_maps_are_enlarged_in_single_precision():
    half = torch.rand(16, 8, 8, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
    rule = AttentionRule(0.7)
    assert torch.equal(regions(half, (64, 64), rule).boxes, regions(half.float(), (64, 64), rule).boxes)


def test_boxes_carry_no_gradient():
    weight = torch.ones(1, requires_grad=True)
    found = pseudo_boxes(lambda x: x.mean(dim=1) * weight, blobs(2, 16), AttentionRule(0.5), BLACK)
    assert not found.boxes.requires_grad and not found.masked.requires_grad


def test_what_is_masked_is_the_box_and_nothing_else():
    pixels = torch.ones(1, 3, 4, 6)
    fill = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    found = without(pixels, torch.tensor([[1.0, 1.0, 3.0, 4.0]]), fill)
    assert found[0, 1].tolist() == [
        [1, 1, 1, 1, 1, 1],
        [1, pytest.approx(0.2), pytest.approx(0.2), 1, 1, 1],
        [1, pytest.approx(0.2), pytest.approx(0.2), 1, 1, 1],
        [1, pytest.approx(0.2), pytest.approx(0.2), 1, 1, 1],
    ]


def test_a_pixel_whose_centre_lies_on_the_edge_is_masked_at_the_left_and_top_alone():
    found = without(torch.ones(1, 3, 4, 4), torch.tensor([[0.5, 1.5, 2.5, 3.5]]), torch.zeros(3, 1, 1))
    # centres of columns .5, 1.5, 2.5, 3.5: the first two; of rows: the second and third
    assert found[0, 0].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]]


# --- connected parts, for class activation maps -----------------------------------------------------------------------


def flooded(mask: Tensor) -> list[set[tuple[int, int]]]:
    """The connected parts of one mask, by walking."""
    left = {(int(r), int(c)) for r, c in torch.nonzero(mask)}
    found = []
    while left:
        waiting, part = [left.pop()], set()
        while waiting:
            row, column = waiting.pop()
            part.add((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            waiting += near
        found.append(part)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.floats(0.1, 0.9), st.integers(0, 9999))
def test_parts_are_those_that_a_walk_finds(height: int, width: int, density: float, seed: int):
    masks = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) < density
    for mask, labels in zip(masks, components(masks), strict=True):
        mine: dict[int, set[tuple[int, int]]] = {}
        for row, column in torch.nonzero(labels).tolist():
            mine.setdefault(int(labels[row, column]), set()).add((row, column))
        assert sorted(map(sorted, mine.values())) == sorted(map(sorted, flooded(mask)))


def test_the_box_is_around_the_largest_part():
    attention = torch.zeros(1, 8, 8)
    attention[0, 0, 0] = 1.0  # the brightest place, alone
    attention[0, 3:6, 4:7] = 0.5
    assert largest_boxes(attention, (8, 8), 0.4).tolist() == [[4, 3, 7, 6]]
    assert largest_boxes(attention, (8, 8), 0.6).tolist() == [[0, 0, 1, 1]]
    assert largest_boxes(torch.zeros(1, 8, 8), (8, 8), 0.4).tolist() == [[0, 0, 8, 8]]
