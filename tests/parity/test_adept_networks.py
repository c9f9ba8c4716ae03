"""Facts about ADePT's and SoCo's networks: what losses reach, what the target keeps, which anchors are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raydet.families.pretraining.assemble import assemble
from raydet.families.pretraining.batch import ViewBatch
from raydet.families.pretraining.config import PretrainingConfig
from raydet.families.pretraining.family import FAMILY
from raydet.families.pretraining.loader import StepViews
from raydet.families.pretraining.method import Shown
from raydet.families.pretraining.methods import adept
from raydet.families.pretraining.methods.adept import Adept
from raydet.families.pretraining.model import PretrainingModel
from raydet.families.pretraining.views import three_views
from raydet.randomness import stream
from raydet.registry import build_method
from raydet.train.launch import launch
from raydet.vision.matching import match
from raydet.vision.pretrained import architecture_only
from raydet.vision.rpn import AnchorScores, rpn_losses
from tests.helpers import tiny_views
from tests.integration.runs import saved
from tests.parity.by_hand import boxes


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
