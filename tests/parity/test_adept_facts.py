"""Facts about ADePT and SoCo with their numbers: what the papers and SoCo's code say, on examples worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from raydet.config.optim import OptimConfig
from raydet.config.proposal_data import ProposalViewsConfig
from raydet.families.pretraining.assemble import assemble
from raydet.families.pretraining.batch import ViewBatch
from raydet.families.pretraining.config import PretrainingConfig, PretrainingModelConfig
from raydet.families.pretraining.family import FAMILY
from raydet.families.pretraining.loader import StepViews
from raydet.families.pretraining.method import Shown
from raydet.families.pretraining.methods import adept
from raydet.families.pretraining.methods.adept import Adept, carried
from raydet.families.pretraining.model import PretrainingModel, levels, pool_by_size
from raydet.families.pretraining.similarity import disagreement, keep_rate, swapped
from raydet.families.pretraining.views import three_views
from raydet.learning_rate import lr_at
from raydet.proposals.filters import Filters
from raydet.randomness import stream
from raydet.registry import build_method
from raydet.train.launch import launch
from raydet.vision.matching import BACKGROUND, IGNORED, match
from raydet.vision.pretrained import architecture_only
from raydet.vision.rpn import AnchorScores, Rpn, rpn_losses
from tests.helpers import tiny_views
from tests.integration.runs import saved

BOUNDS = (48.0, 96.0, 192.0)


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def test_selective_search_keeps_boxes_of_moderate_shape_and_size():
    # 640 x 480: sqrt(WH) = 554.26, so sqrt(wh) between .3 and .8 of it is 166.28 to 443.41 pixels
    keep = [(200, 150), (167, 166), (450, 150), (443, 443), (300, 100), (100, 300)]
    drop = [(166, 166), (600, 150), (450, 149), (500, 400), (444, 444), (640, 480)]
    given = np.array([[0, 0, w, h] for w, h in keep + drop], np.float64)
    kept, _ = Filters().kept(given, 640, 480)
    assert {(int(w), int(h)) for _, _, w, h in kept} == set(keep)


def test_a_box_is_pooled_from_the_level_of_its_size_in_its_own_view():
    # SoCo's corners are inclusive, [0, 0, 47, 47] has 48 pixels a side; here they are half-open
    sides = [48, 49, 96, 97, 192, 193, 224]
    said = levels(boxes(*[[0, 0, side, side] for side in sides]), BOUNDS)
    assert said.tolist() == [0, 1, 1, 2, 2, 3, 3]  # p2, p3, p3, p4, p4, p5, p5
    # SoCo's [20, 30, 119, 89] is 100 x 60: sqrt 77.46, p3; half of it 38.73, p2
    first = boxes([20, 30, 120, 90])
    assert levels(first, BOUNDS).tolist() == [1]
    assert levels(first / 2, BOUNDS).tolist() == [0]
    assert PretrainingModelConfig().level_bounds == BOUNDS


def test_a_view_of_224_pixels_has_12495_anchors():
    rpn = Rpn(PretrainingModelConfig(fpn_channels=8))
    maps = {str(i): torch.zeros(1, 8, side, side) for i, side in enumerate((56, 28, 14, 7))}
    scores = rpn(maps)
    assert scores.level_sizes == (9408, 2352, 588, 147)  # 56^2 x 3, ...
    assert len(scores.anchors) == 12_495
    cells = [scores.anchors[sum(scores.level_sizes[:level]) :][:3] for level in range(4)]
    sizes = [[((x2 - x1).item(), (y2 - y1).item()) for x1, y1, x2, y2 in cell] for cell in cells]
    # 24 / sqrt(.5) x 24 sqrt(.5) = 33.94 x 16.97, from corners at +-16.97, +-8.49, which torchvision rounds
    assert sizes[0] == [(34, 16), (24, 24), (16, 34)]
    assert sizes[3] == [(272, 136), (192, 192), (136, 272)]  # 271.53 x 135.76


def test_the_similarity_loss_of_two_boxes():
    half = 1 / math.sqrt(2)
    online = boxes([1, 0], [half, half])
    first, second = boxes([1, 0], [1, 0]), boxes([0, 1], [half, half])
    rows = disagreement(online, (first, second))
    # box 1: -2 x 1 - 2 x 0; box 2: -2 x .7071 - 2 x 1
    assert rows.tolist() == pytest.approx([-2.0, -3.4142], abs=1e-4)
    assert float(rows.mean()) == pytest.approx(-2.7071, abs=1e-4)


def test_agreement_is_minus_eight_and_right_angles_are_zero():
    same, other = boxes([3, 4]), boxes([-8, 6])  # lengths 5 and 10: only directions count
    both = disagreement(same, (2 * same, same)) + swapped(same, (same, 5 * same))
    assert both.tolist() == pytest.approx([-8.0])
    both = disagreement(same, (other, other)) + swapped(other, (same, same))
    assert both.tolist() == pytest.approx([0.0], abs=1e-6)


def test_no_gradient_reaches_the_target():
    online, target = boxes([1, 2]).requires_grad_(), boxes([2, 1]).requires_grad_()
    (disagreement(online, (target, target)) + swapped(target, (online, online))).sum().backward()
    assert target.grad is None
    assert online.grad is not None and online.grad.abs().sum() > 0


def test_the_target_keeps_more_and_more_of_itself():
    kept = [keep_rate(0.99, step, 100) for step in (0, 25, 50, 75, 100)]
    assert kept == pytest.approx([0.99, 0.991464, 0.995, 0.998536, 1.0], abs=1e-6)


def test_the_learning_rate_falls_along_half_a_cosine():
    optim = OptimConfig(lr=0.1, steps=100, warmup_steps=0, schedule="cosine")
    rates = [lr_at(step, optim, uses_unlabeled=False) for step in (0, 25, 50, 75, 100)]
    assert rates == pytest.approx([0.1, 0.085355, 0.05, 0.014645, 0.0], abs=1e-6)


def test_anchors_are_told_apart_by_their_overlap():
    anchor = boxes([0, 0, 48, 48])
    truth = boxes([0, 0, 48, 40], [0, 0, 48, 33], [0, 0, 60, 60], [24, 24, 72, 72], [10, 10, 90, 90])
    # 40 / 48; 33 / 48; 48^2 / 60^2; 24^2 / (2 x 48^2 - 24^2); 38^2 / (48^2 + 80^2 - 38^2)
    assert box_iou(anchor, truth)[0].tolist() == pytest.approx([0.8333, 0.6875, 0.64, 0.1429, 0.1989], abs=1e-4)
    matcher = Rpn(PretrainingModelConfig(fpn_channels=8)).matcher
    # beside an anchor that fits each box exactly, so that the first one is nobody's best
    said = [int(match(torch.cat([anchor, one[None]]), one[None], matcher)[0]) for one in truth]
    assert said == [0, IGNORED, IGNORED, BACKGROUND, BACKGROUND]
    # alone it is the best one of every box, and positive at any overlap
    assert [int(match(anchor, one[None], matcher)[0]) for one in truth] == [0, 0, 0, 0, 0]


# --- the networks -----------------------------------------------------------------------------------------------------


def config(**method: object) -> PretrainingConfig:
    return tiny_views(Path("unused"), method={"name": "adept", **method})


def batch_of(run: PretrainingConfig, number: int = 3) -> ViewBatch:
    """Views of noise, with three proposals each."""
    images = []
    for place in range(number):
        pixels = torch.randint(0, 256, (3, 60, 72), dtype=torch.uint8, generator=stream(0, "pixels", place))
        proposals = boxes([5, 5, 40, 30], [20, 10, 60, 50], [0, 0, 72, 60])
        images.append(three_views(pixels, proposals, run.data.views, 4, stream(0, "views", place)))
    return assemble(0, StepViews([f"i{place}" for place in range(number)], tuple(range(number)), images))[0]


def gradients(model: PretrainingModel, total: Tensor) -> dict[str, float | None]:
    model.zero_grad()
    total.backward()
    return {name: None if p.grad is None else float(p.grad.abs().sum()) for name, p in model.named_parameters()}


def terms(run: PretrainingConfig) -> tuple[PretrainingModel, dict[str, Tensor]]:
    method = build_method(run)
    torch.manual_seed(0)
    model = method.build_model(0).train()
    said = method.losses(model, batch_of(run), None, None).losses
    return model, {name: term.total for name, term in said.items()}


def test_jointly_each_loss_has_its_own_parameters():
    model, found = terms(config())
    rpn = gradients(model, found["rpn/cls"] + found["rpn/reg"])
    assert {name for name, slope in rpn.items() if slope} == {n for n in rpn if n.startswith("rpn.")}
    model, found = terms(config())
    det = gradients(model, found["det/sim"] + found["det/swapped"])
    assert all(slope is None for name, slope in det.items() if name.startswith(("rpn.", "target.")))
    assert all(slope for name, slope in det.items() if name.startswith(("backbone.stem", "roi_heads.", "predictor.0")))


def test_the_loss_of_the_region_proposals_reaches_the_backbone_where_it_is_wanted():
    model, found = terms(config(backbone_loss="det+rpn"))
    slopes = gradients(model, found["rpn/cls"] + found["rpn/reg"])
    assert all(slope for name, slope in slopes.items() if name.startswith("backbone.stem"))
    assert all(slope is None for name, slope in slopes.items() if name.startswith(("roi_heads.", "projector.")))


def test_the_target_begins_as_a_copy_that_is_not_trained():
    model = build_method(config()).build_model(0)
    own = dict(model.named_parameters())
    followers = {name.removeprefix("target."): p for name, p in own.items() if name.startswith("target.")}
    assert len(followers) > 20
    assert not any(name.startswith(("rpn.", "predictor.")) for name in followers)
    for name, value in followers.items():
        assert not value.requires_grad
        assert torch.equal(value, own[name])


def test_the_target_follows_parameters_and_keeps_its_own_statistics():
    run = config()
    method = build_method(run)
    model = method.build_model(0).train()
    weight, follower = model.predictor[0].weight, model.target.projector[0].weight
    before = follower.clone()
    with torch.no_grad():
        model.projector[0].weight.add_(1.0)
        model.projector[1].running_mean.add_(7.0)
    statistics = model.target.projector[1].running_mean.clone()
    method.after_step(model, 2)
    # update 3 of 6: m = 1 - .01 (cos(pi / 2) + 1) / 2 = .995
    assert torch.allclose(follower, before + 0.005, atol=1e-6)
    assert torch.equal(model.target.projector[1].running_mean, statistics)
    assert weight is model.predictor[0].weight
    method.after_step(model, 5)  # the last: m = 1, it stays
    assert torch.allclose(follower, before + 0.005, atol=1e-6)


def test_flipping_changes_no_level_and_the_third_view_has_halves_of_the_second_ones_boxes():
    views = ProposalViewsConfig(size=224, small_size=112)
    pixels = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8, generator=stream(0, "pixels"))
    proposals = boxes([30, 40, 200, 160], [100, 20, 390, 280], [0, 150, 130, 300], [50, 50, 340, 250])
    for seed in range(20):
        plain, mirrored = (
            three_views(pixels, proposals, views.model_copy(update={"horizontal_flip": p}), 4, stream(seed, "views"))
            for p in (0.0, 1.0)
        )
        for view in range(3):
            assert torch.equal(levels(plain.boxes[view], BOUNDS), levels(mirrored.boxes[view], BOUNDS))
        side = torch.tensor([[224.0, 224, 112]]).T
        assert torch.allclose(mirrored.boxes[..., 0], side - plain.boxes[..., 2], atol=1e-3)
        maybe = three_views(pixels, proposals, views, 4, stream(seed, "views"))  # V3 is flipped where V2 is
        for each in (plain, mirrored, maybe):
            assert torch.equal(2 * each.boxes[2], each.boxes[1])


def test_separate_training_changes_nothing_but_the_region_proposals(tmp_path: Path):
    soco = launch(tiny_views(tmp_path / "soco", method={"name": "soco"})).path
    method = {"name": "adept", "mode": "separate", "soco_checkpoint": str(soco)}
    run = launch(tiny_views(tmp_path / "separate", method=method)).path
    before, after = weights(soco), weights(run)
    fresh = Adept(tiny_views(tmp_path / "separate", method=method)).build_model(0).state_dict()
    assert set(after) - set(before) == {name for name in fresh if name.startswith("rpn.")}
    assert any(name.endswith("running_mean") for name in before)
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    moved = {name for name in fresh if name.startswith("rpn.") and not torch.equal(after[name], fresh[name])}
    assert moved == {name for name in fresh if name.startswith("rpn.")}


def weights(run: Path) -> dict[str, Tensor]:
    return {name.removeprefix("student."): value for name, value in saved(run).items() if name.startswith("student.")}


def test_boxes_are_scaled_by_the_size_of_the_map_and_not_by_the_stride():
    # a view of 112 pixels has a coarsest map of 4 x 4 (3.5 by the stride): its right edge is the map's right edge
    own = PretrainingModelConfig(fpn_channels=1, roi_pool_size=4, roi_sampling_ratio=1)
    maps = [torch.zeros(1, 1, side, side) for side in (28, 14, 7)] + [torch.arange(4.0).expand(1, 1, 4, 4).clone()]
    own = own.model_copy(update={"level_bounds": (1.0, 2.0, 3.0)})  # so that the coarsest level has the box
    pooled = pool_by_size(maps, boxes([0, 0, 0, 112, 112]), 112, own)
    assert pooled[0, 0, 0].tolist() == pytest.approx([0, 1, 2, 3], abs=1e-5)  # by the stride: 0, 0.8, 1.7, 2.6


def test_region_losses_of_two_views_are_divided_by_the_anchors_of_both():
    for views, number in (([1], 3 * 32), ([2], 3 * 32), ([1, 2], 2 * 3 * 32)):
        run = config(rpn_views=views)
        method = build_method(run)
        torch.manual_seed(0)
        said = method.losses(method.build_model(0).train(), batch_of(run), None, None).losses
        assert (int(said["rpn/cls"].count), int(said["rpn/reg"].count)) == (number, number)


def test_how_many_of_the_drawn_anchors_lie_on_a_box_is_logged():
    # Every box has an anchor that is its best: of 4 drawn the half that may be are on a box; of many, all there are.
    for anchors, share in ((4, 0.5), (10_000, None)):
        run = tiny_views(Path("unused"), method={"name": "adept"}, model__rpn_batch=anchors)
        method = build_method(run)
        torch.manual_seed(0)
        model, batch = method.build_model(0).train(), batch_of(run)
        found = method.losses(model, batch, None, None).per_view["anchors"]
        there = model.score_anchors(method.show(model, batch, [0]).features[0]).anchors
        on_boxes = [int((match(there, own.unique(dim=0), model.rpn.matcher) >= 0).sum()) for own in batch.boxes[0]]
        assert min(on_boxes) >= 2
        assert found.tolist() == pytest.approx([share or number / anchors for number in on_boxes])


def test_the_networks_own_proposals_are_compared_too_and_teach_it_nothing_about_regions():
    run = config(det_proposals="ss+rpn")
    model, found = terms(run)
    said = build_method(run).losses(model, batch_of(run), None, None).losses["det/sim"]
    assert 3 * 4 < int(said.count) <= 2 * 3 * 4  # up to four more of each image, where all views show them
    slopes = gradients(model, found["det/sim"] + found["det/swapped"])
    assert all(slope is None for name, slope in slopes.items() if name.startswith("rpn."))


def test_either_branch_can_be_exported_and_region_proposals_are_the_online_ones():
    model = build_method(config()).build_model(0)
    with torch.no_grad():
        for name, p in model.target.named_parameters():
            p.fill_(7.0 if "backbone" in name else 8.0)
    online, target = model.exported("online"), model.exported("target")
    assert online.keys() == target.keys()
    assert not any(name.startswith(("projector.", "predictor.", "target.")) for name in online)
    weight, head, rpn = "backbone.stem.0.weight", "roi_heads.box_head.0.0.weight", "rpn.head.cls_logits.weight"
    assert torch.equal(online[weight], model.backbone.stem[0].weight)
    assert bool((target[weight] == 7).all()) and bool((target[head] == 8).all())
    assert torch.equal(target[rpn], model.state_dict()[rpn])


@pytest.mark.parametrize(("branch", "filled"), [("online", 6.0), ("target", 7.0)])
def test_the_branch_that_is_asked_for_is_exported(branch: str, filled: float):
    run = config(export_branch=branch)
    model = build_method(run).build_model(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(7.0 if name.startswith("target.") else 6.0)
    found = FAMILY.exported(run, model, ["box"])
    for name in ("backbone.stem.0.weight", "roi_heads.box_head.0.0.weight"):
        assert found.weights[name].unique().tolist() == [filled], name
    assert found.weights["rpn.head.cls_logits.weight"].unique().tolist() == [6.0]  # there is one
    assert f"of the {branch} branch" in found.remark


@pytest.mark.parametrize("views", [[1], [2], [2, 1]])
@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_each_views_anchors_are_scored_on_it_and_taught_by_its_own_boxes(
    monkeypatch: pytest.MonkeyPatch, mode: str, views: list[int]
):
    source = {"soco_checkpoint": "unused"} if mode == "separate" else {}
    run = config(rpn_views=views, mode=mode, **source)
    method = build_method(run)
    torch.manual_seed(0)
    with architecture_only():  # there is no such checkpoint
        model, batch = method.build_model(0).train(), batch_of(run)
    taught: list[tuple[Tensor, list[Tensor]]] = []

    def noted(scores: AnchorScores, truth: list[Tensor], *rest: Any, **named: Any) -> Any:
        taught.append((scores.objectness, truth))
        return rpn_losses(scores, truth, *rest, **named)

    monkeypatch.setattr(adept, "rpn_losses", noted)
    method.losses(model, batch, None, None)
    assert len(taught) == len(views)
    for view, (objectness, truth) in zip(views, taught, strict=True):
        own, other = batch.boxes[view - 1], batch.boxes[2 - view]
        for image, said in enumerate(truth):
            assert torch.equal(said.unique(dim=0), own[image].unique(dim=0))
            assert not torch.equal(said.unique(dim=0), other[image].unique(dim=0))
        shown = method.show(model, batch, [view - 1]).features[0]
        assert torch.allclose(objectness, model.score_anchors(shown).objectness, atol=1e-6)


# Corners of five anchors that the network likes less and less, over two levels of the pyramid.
LIKED = [
    [0, 0, 40, 40],
    [0, 0, 40, 36],  # IoU with the first: 36 / 40 = .9
    [0, 0, 40, 20],  # 20 / 40 = .5 with the first, 20 / 36 = .56 with the second
    [20, 40, 60, 60],  # meets none
    [0, 50, 16, 60],  # none either
]


@pytest.mark.parametrize(
    ("pre_nms", "nms_iou", "number", "places"),
    [
        (1, 0.7, 4, [0]),
        (2, 0.7, 4, [0]),  # the second goes in, and falls to the first
        (2, 0.95, 4, [0, 1]),
        (3, 0.7, 4, [0, 2]),  # of both levels together: three of each would be all
        (4, 0.7, 4, [0, 2, 3]),
        (5, 0.4, 4, [0, 3, 4]),  # the third overlaps the first by more than .4
        (5, 0.95, 4, [0, 1, 2, 3]),  # num_boxes are enough
        (5, 0.95, 2, [0, 1]),
    ],
)
def test_the_best_anchors_of_all_levels_go_into_nms_and_what_it_leaves_is_compared_too(
    monkeypatch: pytest.MonkeyPatch, pre_nms: int, nms_iou: float, number: int, places: list[int]
):
    own = {"name": "adept", "det_proposals": "ss+rpn", "rpn_pre_nms": pre_nms, "num_boxes": number}
    run = tiny_views(Path("unused"), method=own, model__rpn_nms=nms_iou)
    method = build_method(run)
    torch.manual_seed(0)
    model = method.build_model(0).train()
    same = torch.tensor([[1.0, 0, 1, 0]] * 2 + [[0.5, 0, 0.5, 0]], dtype=torch.float64)  # V3 has half the side
    batch = replace(batch_of(run, 2), matrices=torch.stack([same, same]))
    order = [3, 0, 2, 4, 1]  # anchors come in another order than they are liked
    liking, anchors = torch.tensor([5.0, 4, 3, 2, 1])[order], boxes(*LIKED)[order]
    scores = AnchorScores(torch.stack([liking, liking]), torch.zeros(2, 5, 4), anchors, (2, 3))
    monkeypatch.setattr(model, "score_anchors", lambda features: scores)
    compared: list[Shown] = []
    compare = method.compare
    monkeypatch.setattr(
        method, "compare", lambda student, batch, shown: compared.append(shown) or compare(student, batch, shown)
    )
    method.losses(model, batch, None, None)
    added = [rois[2 * 4 :].tolist() for rois in compared[0].rois]  # behind four of each image
    wanted = [[float(image), *LIKED[place]] for image in (0, 1) for place in places]
    assert added == [wanted, wanted, [[image, *(corner / 2 for corner in box)] for image, *box in wanted]]


def test_a_box_of_one_view_is_where_another_shows_it():
    # The original to V1: x' = .5 x, y' = .25 y. To V2: x' = 2 x - 40, y' = y - 10. To V3, which is flipped:
    # x' = 30 - .5 x, y' = .5 y.
    maps = [[0.5, 0.0, 0.25, 0.0], [2.0, -40.0, 1.0, -10.0], [-0.5, 30.0, 0.5, 0.0]]
    matrices = torch.tensor([[[1.0, 0, 1.0, 0]] * 3, maps], dtype=torch.float64)
    rois = torch.tensor([[1.0, 12.0, 5.0, 20.0, 15.0]])  # in V1: x 24 to 40 and y 20 to 60 of the original
    assert carried(rois, matrices, 0, 0, 64).tolist() == [[1, 12, 5, 20, 15]]
    assert carried(rois, matrices, 0, 1, 64).tolist() == [[1, 8, 10, 40, 50]]
    assert carried(rois, matrices, 0, 2, 32).tolist() == [[1, 10, 10, 18, 30]]  # 30 - 20, 30 - 12
    assert carried(rois, matrices, 0, 1, 32).tolist() == [[1, 8, 10, 32, 32]]  # clipped
    back = carried(carried(rois, matrices, 0, 1, 64), matrices, 1, 0, 64)
    assert torch.allclose(back, rois)
    own = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    assert carried(torch.cat([own, rois]), matrices, 0, 1, 64).tolist() == [[0, 1, 2, 3, 4], [1, 8, 10, 40, 50]]
