"""Images of different sizes in one tensor: normalised, padded, grouped by the frame they need."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raydet.config.detector import ModelConfig
from raydet.families.detection.onnx_graph import DetectionGraph
from raydet.families.detection.passes import rpn_pass
from raydet.vision import rpn
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


def test_an_image_trains_on_the_same_anchors_whatever_its_neighbours_and_on_none_of_the_padding_for_them(
    monkeypatch: pytest.MonkeyPatch,
):
    model, drawn = detector(32), []
    real = rpn.sample

    def watched(*args: object) -> object:
        drawn[:] = real(*args)  # type: ignore[arg-type]
        return drawn

    monkeypatch.setattr(rpn, "sample", watched)
    flat, tall, large = pictures(1, 40, 90)[0], pictures(1, 90, 40)[0], pictures(1, 130, 200)[0]
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0]])

    def anchors_of_the_first(*images: Tensor) -> list[list[float]]:
        batch = model.framed(images)
        scores = model.score_anchors(model.features(batch))
        rngs = [torch.Generator().manual_seed(7 + i) for i in range(len(images))]
        rpn_pass(model, scores, [boxes] * len(images), rngs, batch.frames)
        return [box for rows in drawn[0] for box in scores.anchors[rows].tolist()]

    with torch.no_grad():
        alone = anchors_of_the_first(flat)  # in a frame of 64 x 96
        assert len(alone) > 50
        for others in ([tall], [large], [large, tall], [flat]):
            assert anchors_of_the_first(flat, *others) == alone
    assert all((x1 + x2) / 2 < 96 and (y1 + y2) / 2 < 64 for x1, y1, x2, y2 in alone)
