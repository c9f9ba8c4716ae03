"""Images of different sizes in one tensor: normalised, padded, grouped by the frame they need."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raydet.config.detector import ModelConfig
from raydet.families.detection.onnx_graph import DetectionGraph
from raydet.vision.detector import Detector
from raydet.vision.images import IMAGENET_MEAN, IMAGENET_STD, collate


def detector(size_divisor: int) -> Detector:
    torch.manual_seed(0)
    small = {"backbone": "small_gn", "fpn_channels": 16, "box_head_dim": 32}
    config = ModelConfig.model_validate({**small, "size_divisor": size_divisor})
    return Detector(config, 3).eval()


def pictures(number: int, height: int, width: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(5)
    return list(torch.randint(0, 256, (number, 3, height, width), generator=rng, dtype=torch.uint8))


def test_collating_normalises_and_pads_with_zeros():
    white = torch.full((3, 10, 40), 255, dtype=torch.uint8)
    batch = collate([white, white[:, :, :20]], "cpu")
    assert batch.pixels.shape == (2, 3, 32, 64)
    assert batch.sizes == ((10, 40), (10, 20))
    bright = [(1 - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    assert batch.pixels[1, :, 9, 19].tolist() == pytest.approx(bright)
    assert batch.pixels[1, :, :, 20:].abs().max() == 0 and batch.pixels[:, :, 10:].abs().max() == 0


def test_frames_group_images_that_need_the_same():
    batch = collate([pictures(1, 40, 60)[0], pictures(1, 100, 130)[0], pictures(1, 33, 64)[0]], "cpu")
    groups = {tuple(rows): tuple(part.pixels.shape) for rows, part in batch.by_frame()}
    assert groups == {(0, 2): (2, 3, 64, 64), (1,): (1, 3, 128, 160)}


def test_a_larger_divisor_makes_fewer_frames_and_says_the_same_alone_and_among_others():
    model = detector(128)
    images = [pictures(1, 40, 60)[0], pictures(1, 100, 130)[0], pictures(1, 33, 64)[0]]
    batch = model.framed(images)
    assert batch.pixels.shape == (3, 3, 128, 256)
    groups = {tuple(rows): tuple(part.pixels.shape) for rows, part in batch.by_frame()}
    assert groups == {(0, 2): (2, 3, 128, 128), (1,): (1, 3, 128, 256)}
    settings = {"proposals": "test", "score_floor": 0.0, "top_k": 50}
    together = model.candidates(batch, **settings)[2]  # type: ignore[arg-type]
    (alone,) = model.candidates(model.framed(images[2:]), **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(together.boxes, alone.boxes, rtol=1e-4, atol=1e-3)
    assert together.boxes[:, 2].max() <= 64 and together.boxes[:, 3].max() <= 33  # none on the padding


@pytest.mark.parametrize("divisor", [32, 128])
def test_the_exported_graph_frames_images_as_training_does(divisor: int):
    model = detector(divisor)
    known = SimpleNamespace(model=model, config=SimpleNamespace(model=model.config), method=SimpleNamespace(gate=None))
    images = pictures(2, 40, 150)
    graph = DetectionGraph(known)  # type: ignore[arg-type]
    torch.testing.assert_close(graph.normalised(torch.stack(images)), model.framed(images).pixels)


def test_a_divisor_that_no_stride_divides_is_refused():
    with pytest.raises(ValidationError, match="48 is not a multiple of 32, the stride of the backbone's last stage"):
        detector(48)
