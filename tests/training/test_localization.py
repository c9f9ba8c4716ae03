"""The parts of localisation that every method shares: figures, crops, views, networks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from raydet.config.localizer import LocalizerConfig
from raydet.config.located_data import LocatedViewsConfig
from raydet.errors import CheckpointError
from raydet.families.localization.accuracy import Counts, best_ious, class_ranks, result_of
from raydet.families.localization.boxes import crops, decode, in_pixels, is_visible
from raydet.families.localization.data import LOCATED
from raydet.families.localization.evaluate import count_rows
from raydet.families.localization.method import localization_method
from raydet.families.localization.model import bap_classifier, build_localizer
from raydet.families.localization.trunks import build_trunk
from raydet.families.localization.views import draw_strong, eval_view, plain_view, strong_boxes, strong_pixels
from raydet.randomness import stream
from raydet.train.launch import with_absolute_paths
from tests.helpers import tiny_places

# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_box_is_right_by_the_best_true_box_and_at_half_an_overlap():
    truths = [
        torch.tensor([[0.0, 0, 0.1, 0.1], [0.5, 0.5, 1, 1]]),
        torch.zeros(0, 4),
        torch.tensor([[0.3, 0.3, 0.3, 0.9]]),
    ]
    boxes = torch.tensor([[[0.5, 0.5, 1, 0.75]], [[0.0, 0, 1, 1]], [[0.0, 0, 1, 1]]])
    assert best_ious(boxes, truths)[:, 0].tolist() == [0.5, 0.0, 0.0]  # the last true box has no inside


def test_ranks_count_the_classes_that_score_higher():
    logits = torch.tensor([[3.0, 1, 2], [1, 1, 1]])
    assert class_ranks(logits, torch.tensor([1, 2])).tolist() == [2, 0]
    with pytest.raises(ValueError, match="diverged"):
        class_ranks(torch.tensor([[torch.nan, 0]]), torch.tensor([0]))


def test_figures_of_parts_add_up():
    def part(ious: list[list[float]], ranks: list[int], has_truth: list[bool], centre: list[float]) -> Counts:
        rows = torch.tensor(ious)
        areas = torch.full((len(rows),), 0.25)
        other = {"centre_box": torch.tensor(centre), "pseudo_label": torch.tensor(centre) + 0.5}
        return Counts.of(rows, areas, torch.tensor(ranks), torch.tensor(has_truth), 0, other)

    # Two thresholds per image, the method's own is the first. The last image has no true box.
    first = part([[0.5, 0.8], [0.4, 0.2]], [0, 3], [True, True], [0.6, 0.1])
    second = part([[0.9, 0.6], [0.0, 0.0]], [5, 0], [True, False], [0.0, 0.0])
    found = result_of([first, second])
    assert found.images == 4 and found.located == 3
    assert found.gt_known == pytest.approx(2 / 3)  # .5 and .9
    assert found.top1_loc == pytest.approx(1 / 3)  # the first alone
    assert found.top5_loc == pytest.approx(1 / 3)  # rank 5 is the sixth class
    assert found.top1_class == pytest.approx(2 / 4)  # of all images
    # at .3: 3 and 2 of 3 by threshold; at .5: 2 and 2; at .7: 1 (.9) and 1 (.8)
    assert (found.max_box_acc_30, found.max_box_acc_50, found.max_box_acc_70) == pytest.approx((1, 2 / 3, 1 / 3))
    assert found.max_box_acc == pytest.approx((1 + 2 / 3 + 1 / 3) / 3)
    assert found.mean_iou == pytest.approx((0.5 + 0.4 + 0.9) / 3)
    assert found.trivial == {"centre_box": pytest.approx(1 / 3)} and found.pseudo_label == 1.0
    assert "GT-Known of the centre box" in found.as_text()
    assert found.as_json()["centre_box"] == found.trivial["centre_box"] and "trivial" not in found.as_json()


@pytest.mark.parametrize("empty_first", [False, True])
def test_a_rank_without_images_takes_no_figure_away(empty_first: bool):
    others = {"centre_box": torch.tensor([0.6, 0.1]), "pseudo_label": torch.tensor([0.9, 0.8])}
    both = torch.tensor([True, True])
    full = Counts.of(torch.tensor([[0.5], [0.4]]), torch.zeros(2), torch.tensor([0, 3]), both, 0, others)
    nothing = torch.zeros(0)
    empty = Counts.of(torch.zeros(0, 1), nothing, nothing, nothing.bool(), 0, {"centre_box": nothing})
    found = result_of([empty, full] if empty_first else [full, empty])
    assert (found.pseudo_label, found.trivial, found.images) == (1.0, {"centre_box": 0.5}, 2)


def test_four_workers_evaluate_three_images(tmp_path: Path):
    config = tiny_places(tmp_path / "run", data__val__shapes__num_images=3)
    method = localization_method(config)
    torch.manual_seed(0)
    val = LOCATED.prepare(config.data, tmp_path / "data").val
    assert val is not None
    model = method.build_model(len(val.class_names))
    given = (method, model, val)
    shares = [count_rows(*given, rows, torch.device("cpu"), with_pseudo_boxes=True) for rows in ([0], [1], [2], [])]
    (whole,) = [count_rows(*given, [0, 1, 2], torch.device("cpu"), with_pseudo_boxes=True)]
    assert result_of(shares).pseudo_label == result_of([whole]).pseudo_label is not None
    assert (result_of(shares).images, result_of(shares).trivial) == (3, result_of([whole]).trivial)


def test_without_any_true_box_figures_are_undefined_and_classes_are_not():
    nothing = Counts.of(torch.zeros(2, 1), torch.zeros(2), torch.tensor([0, 1]), torch.tensor([False, False]), 0, {})
    found = result_of([nothing])
    assert found.gt_known is None and found.max_box_acc is None and found.top1_class == 0.5


# --- crops and views --------------------------------------------------------------------------------------------------


def test_crops_are_what_interpolating_each_cut_out_gives():
    side, rng = 24, torch.Generator().manual_seed(0)
    pixels = torch.rand(6, 3, side, side, generator=rng)
    corner = torch.rand(6, 2, generator=rng) * 0.6
    boxes = torch.cat([corner, corner + torch.rand(6, 2, generator=rng) * 0.4], dim=1)
    found = crops(pixels, boxes)
    for image, box, crop in zip(pixels, in_pixels(boxes, side).tolist(), found, strict=True):
        x1, y1, x2, y2 = box
        alone = F.interpolate(image[None, :, y1:y2, x1:x2], (side, side), mode="bilinear", align_corners=False)[0]
        assert torch.allclose(crop, alone, atol=1e-5)


def test_a_box_that_is_said_beyond_the_view_ends_at_its_border():
    said = torch.tensor([[0.75, 0.5, 0.5, 0.25], [-0.25, 0.0, 0.5, 1.5]])
    # x from .75 to 1.25, y from .5 to .75; x from -.25 to .25, y from 0 to 1.5
    assert decode(said, "xywh").tolist() == [[0.75, 0.5, 1.0, 0.75], [0.0, 0.0, 0.25, 1.0]]
    assert decode(said, "xyxy").tolist() == [[0.75, 0.5, 0.5, 0.25], [0.0, 0.0, 0.5, 1.0]]


def test_a_box_is_visible_from_one_pixel_on_and_never_without_numbers():
    pixel = 1 / 16
    boxes = [[0, 0, pixel, pixel], [0, 0, pixel, 0.06], [0, 0, math.inf, 1], [0, math.nan, 1, 1]]
    assert is_visible(torch.tensor(boxes), 16).tolist() == [True, False, False, False]


def test_a_crop_has_at_least_a_pixel_and_stays_inside():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.26, 0.0, 0.49, 1.0]])
    assert in_pixels(boxes, 4).tolist() == [[2, 2, 3, 3], [3, 3, 4, 4], [0, 0, 4, 4], [1, 0, 2, 4]]
    assert crops(torch.rand(4, 3, 4, 4), boxes).isfinite().all()


def painted(side: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    pixels = torch.zeros(3, side, side)
    pixels[:, box[1] : box[3], box[0] : box[2]] = 1.0
    return pixels


def test_the_strong_view_of_an_image_and_of_its_box_go_the_same_way():
    side, box = 64, (20, 26, 40, 42)
    pixels = painted(side, box)[None]
    shares = torch.tensor([box]) / side
    seen = 0
    for number in range(200):
        p = draw_strong(stream(0, "x", number), scale=True, translation=True, flip=True)[None]
        moved = strong_boxes(shares, p)[0] * side
        shown = strong_pixels(pixels, p)[0, 0] > 0.5
        if (moved[2:] - moved[:2]).min() < 2:
            continue
        rows, columns = torch.nonzero(shown).unbind(1)
        around = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (around - moved).abs().max() <= 1.01, (number, around, moved)
        seen += 1
    assert seen > 150


def test_what_the_scaling_pushes_out_is_gone_when_a_side_is_added():
    # Twice... 1.2 x about the centre, then .25 more at the left: what lies there is black, not the image's border.
    p = torch.tensor([[1.2, 1.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    shown = strong_pixels(torch.ones(1, 3, 40, 40), p)[0, 0]
    assert not shown[:, :8].any()  # .25 / 1.25 of 40
    assert (shown[2:-2, 9:-2] > 0.99).all()
    assert strong_boxes(torch.tensor([[0.0, 0, 1, 1]]), p)[0].tolist() == pytest.approx([0.2, 0, 1, 1])


@pytest.mark.parametrize("size", [(80, 100), (7, 5), (300, 20)])  # smaller than the crop, and a strip
def test_views_of_any_image_have_their_size_and_carry_boxes(size: tuple[int, int]):
    height, width = size
    pixels = torch.randint(256, (3, height, width), dtype=torch.uint8)
    config = LocatedViewsConfig(resize=40, size=32)
    for viewed, view in (plain_view(pixels, config, stream(0, "v")), eval_view(pixels, config)):
        assert viewed.shape == (3, 32, 32) and viewed.dtype == torch.uint8
        box = torch.tensor([[1.0, 2.0, width - 1, height - 1]])
        assert torch.allclose(view.to_original(view.to_view(box)), box, atol=1e-3)
    centre = eval_view(pixels, config)[1].to_original(torch.tensor([[0.0, 0, 32, 32]]))
    assert centre[0].tolist() == pytest.approx([0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height], abs=1e-4)
    whole = eval_view(pixels, LocatedViewsConfig(resize=40, size=32, test_view="whole"))[1]
    assert whole.to_original(torch.tensor([[0.0, 0, 32, 32]]))[0].tolist() == pytest.approx([0, 0, width, height])


def test_a_plain_view_is_one_place_of_the_squeezed_image_flipped_or_not():
    rng = torch.randint(256, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = LocatedViewsConfig(resize=40, size=32)
    flips = set()
    for number in range(20):
        viewed, view = plain_view(rng, config, stream(0, number))
        left, top, *_ = (round(v) for v in view.to_original(torch.tensor([[0.0, 0, 32, 32]]))[0].tolist())
        is_flipped = view.matrix[0] < 0
        own = viewed.flip(2) if is_flipped else viewed
        assert torch.equal(own, rng[:, top : top + 32, left : left + 32])
        flips.add(is_flipped)
    assert flips == {True, False}


# --- networks ---------------------------------------------------------------------------------------------------------

WHOLE = {
    "inception_v3": (lambda: tv.Inception3(aux_logits=True, init_weights=False), 2048, 768),
    "resnet50": (tv.resnet50, 2048, 1024),
    "vgg19_bn": (tv.vgg19_bn, 512, None),
}


@pytest.mark.parametrize("backbone", WHOLE)
def test_trunks_have_torchvisions_names_and_shapes(backbone: str):
    build, wide, fine = WHOLE[backbone]
    with torch.device("meta"):
        theirs = {name: value.shape for name, value in build().state_dict().items()}
        for whole, width in ((True, wide), (False, fine)):
            if width is None:
                continue
            trunk = build_trunk(backbone, (8, 8, 8, 8), whole=whole)
            own = {name: value.shape for name, value in trunk.body.state_dict().items()}
            assert own.items() <= theirs.items()
            assert trunk(torch.zeros(1, 3, 224, 224)).shape[1] == width == trunk.width


def test_a_local_file_in_torchvisions_names_is_taken_and_a_wrong_one_is_refused(tmp_path: Path):
    torch.manual_seed(0)
    whole = tv.resnet50()
    save_file(whole.state_dict(), tmp_path / "resnet50.safetensors")
    config = LocalizerConfig(
        classifier_backbone="resnet50",
        localizer_backbone="efficientnet_lite0",
        weights="none",
        classifier_weights=str(tmp_path / "resnet50.safetensors"),
    )
    assert (config.weights_of("classifier"), config.weights_of("localizer")) == (config.classifier_weights, None)
    classifier = bap_classifier(config, 3)
    assert torch.equal(classifier.trunk.body.conv1.weight, whole.conv1.weight)
    wrong = config.model_copy(update={"classifier_backbone": "inception_v3"})
    with pytest.raises(CheckpointError, match=r"model\.classifier_weights: the tensors of .*resnet50\.safetensors"):
        bap_classifier(wrong, 3)
    gone = config.model_copy(update={"classifier_weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(CheckpointError, match=r"model\.classifier_weights: no file"):
        bap_classifier(gone, 3)


def test_paths_of_all_weights_become_absolute(tmp_path: Path):
    model = {"classifier_backbone": "resnet50", "localizer_backbone": "resnet50", "weights": "imagenet"}
    config = tiny_places(tmp_path / "run", model={**model, "localizer_weights": "here.safetensors"})
    found = with_absolute_paths(config).model
    assert (found.weights, found.localizer_weights) == ("imagenet", str(Path("here.safetensors").absolute()))


def test_the_embedded_weights_are_what_both_networks_start_from_by_default():
    config = LocalizerConfig(classifier_backbone="efficientnet_lite0", localizer_backbone="efficientnet_lite0")
    assert config.weights == "imagenet"
    classifier, localizer = bap_classifier(config, 3), build_localizer(config)
    stem = localizer.trunk.body._conv_stem.weight
    assert torch.equal(classifier.trunk.body._conv_stem.weight, stem)
    assert classifier.trunk(torch.zeros(1, 3, 64, 64)).shape == (1, 112, 4, 4)
    assert localizer(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    classifier_is_fine = isinstance(classifier.attention[1], nn.BatchNorm2d) and classifier.attention[1].eps == 1e-3
    assert classifier_is_fine
