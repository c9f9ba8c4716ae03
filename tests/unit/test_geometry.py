from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.vision.geometry import View, box_areas, clip_boxes, is_usable, paired_iou

sizes = st.integers(1, 4096)
operations = st.one_of(
    st.tuples(st.just("resize"), st.integers(64, 1400), st.integers(64, 1400)),
    st.tuples(st.just("flip"), st.booleans(), st.booleans()),
)


@given(height=sizes, width=sizes, steps=st.lists(operations, max_size=5), corners=st.tuples(*[st.floats(0, 1)] * 4))
@settings(max_examples=150)
def test_boxes_come_back_from_any_chain_of_resizes_and_flips(
    height: int, width: int, steps: list[tuple[str, int, int]], corners: tuple[float, ...]
) -> None:
    view = View.identity(height, width)
    for name, a, b in steps:
        view = view.resized(a, b) if name == "resize" else view.flipped(horizontal=bool(a), vertical=bool(b))
    x, y = sorted(corners[:2]), sorted(corners[2:])
    box = torch.tensor([[x[0] * width, y[0] * height, x[1] * width, y[1] * height]])
    there = view.to_view(box)
    assert there.dtype == torch.float32
    assert (there[:, 2:] >= there[:, :2]).all()
    assert torch.allclose(view.to_original(there), box, atol=1e-3, rtol=0)


def test_a_resize_scales_and_a_flip_mirrors() -> None:
    view = View.identity(100, 200).resized(50, 100).flipped(horizontal=True)
    box = torch.tensor([[20.0, 40.0, 60.0, 80.0]])
    # Halved: 10, 20, 30, 40. Mirrored in 100 px of width: 100 - 30 = 70, 100 - 10 = 90.
    assert view.to_view(box).tolist() == [[70.0, 20.0, 90.0, 40.0]]
    assert (view.height, view.width) == (50, 100)


def test_flipping_twice_changes_nothing() -> None:
    view = View.identity(30, 40).flipped(horizontal=True, vertical=True).flipped(horizontal=True, vertical=True)
    assert view == View.identity(30, 40)


def test_no_boxes_are_mapped_to_no_boxes() -> None:
    assert View.identity(3, 4).flipped(horizontal=True).to_view(torch.zeros(0, 4)).shape == (0, 4)


def test_clipping_keeps_boxes_inside_the_image() -> None:
    boxes = torch.tensor([[-5.0, 2.0, 50.0, 8.0], [1.0, -3.0, 2.0, 99.0]])
    assert clip_boxes(boxes, height=10, width=20).tolist() == [[0.0, 2.0, 20.0, 8.0], [1.0, 0.0, 2.0, 10.0]]


def test_a_box_with_swapped_corners_has_no_area() -> None:
    assert box_areas(torch.tensor([[0.0, 0.0, 2.0, 3.0], [5.0, 0.0, 1.0, 3.0]])).tolist() == [6.0, 0.0]


def test_paired_iou_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 2.0]])
    b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 2.0]])
    # Row 0: overlap 1 x 2 = 2, union 4 + 4 - 2 = 6.
    assert torch.allclose(paired_iou(a, b), torch.tensor([2 / 6, 0.0, 0.0, 1.0]))


def test_thin_and_non_finite_boxes_are_not_usable() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.9, 9.0], [0.0, 0.0, nan, 9.0], [0.0, 0.0, inf, 9.0], [9.0, 0.0, 1.0, 9.0]]
    )
    assert is_usable(boxes, min_side_px=2.0).tolist() == [True, False, False, False, False]
