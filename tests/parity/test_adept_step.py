"""ADePT's joint training written down as one plain loop, box by box and anchor by anchor, against the engine: the same
losses at every step, and the same weights at the end."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, roi_align

from raydet.families.pretraining.config import PretrainingConfig
from raydet.families.pretraining.data import PROPOSED
from raydet.families.pretraining.loader import ViewLoader
from raydet.families.pretraining.proposals import GridProposals
from raydet.families.pretraining.views import ThreeViews
from raydet.metrics import read_metrics
from raydet.randomness import stream
from raydet.registry import build_method
from raydet.train.checkpoint import folder_of, open_checkpoint
from raydet.train.launch import launch
from tests.helpers import tiny_views

STEPS, LR, DECAY, MOMENTUM, LAMBDA, START, K = 5, 0.05, 1e-2, 0.9, 0.7, 0.9, 8
SIZES, STRIDES, RATIOS, SAMPLED = (12, 24, 48), (8, 16, 32), (0.5, 1.0, 2.0), 32


def config(run_dir: Path) -> PretrainingConfig:
    return tiny_views(
        run_dir,
        optim__steps=STEPS,
        optim__lr=LR,
        optim__weight_decay=DECAY,
        optim__momentum=MOMENTUM,
        checkpoint={"every": 1, "keep": 9},
        method={"name": "adept", "rpn_reg_weight": LAMBDA, "ema_momentum_start": START, "num_boxes": K},
    )


def pictures(views: list[ThreeViews], number: int) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shown = [(each.pixels[number].float() / 255 - mean[:, None, None]) / std[:, None, None] for each in views]
    return torch.stack(shown).contiguous(memory_format=torch.channels_last)


def pooled(maps: list[Tensor], views: list[ThreeViews], number: int, side: int) -> Tensor:
    """RoIAlign box by box, from the level that SoCo's rule says: here up to 16 pixels, up to 32, and above."""
    rows = []
    for image, each in enumerate(views):
        for x1, y1, x2, y2 in each.boxes[number].tolist():
            size = math.sqrt((x2 - x1) * (y2 - y1))
            level = maps[0 if size <= 16 else 1 if size <= 32 else 2]
            scale = level.shape[-1] / side
            roi = torch.tensor([[0, x1 * scale, y1 * scale, x2 * scale, y2 * scale]])
            rows.append(roi_align(level[image : image + 1].float(), roi, 3, 1.0, 0, aligned=True)[0])
    return torch.stack(rows)


def projected(branch: nn.Module, views: list[ThreeViews], number: int) -> tuple[Tensor, list[Tensor]]:
    pixels = pictures(views, number)
    maps = list(branch.backbone(pixels).values())
    head = branch.roi_heads.box_head(pooled(maps, views, number, pixels.shape[-1]))
    return branch.projector(head), maps


def anchors_of(maps: list[Tensor]) -> Tensor:
    """Centred on the corner of each cell, whole pixels as torchvision makes them."""
    found = []
    for level, size, stride in zip(maps, SIZES, STRIDES, strict=True):
        for y in range(level.shape[2]):
            for x in range(level.shape[3]):
                for ratio in RATIOS:
                    w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                    half_w, half_h = round(w / 2), round(h / 2)
                    found.append([x * stride - half_w, y * stride - half_h, x * stride + half_w, y * stride + half_h])
    return torch.tensor(found, dtype=torch.float32)


def labels(anchors: list[list[float]], truth: list[list[float]]) -> list[int]:
    """Return for each anchor its box, -1 for background, -2 for neither."""
    table = box_iou(torch.tensor(anchors), torch.tensor(truth)).tolist()  # float32: boxes of the grid tie
    best = [max(row[b] for row in table) for b in range(len(truth))]
    found = []
    for row in table:
        most = row.index(max(row))
        is_best = any(value >= best[b] - 1e-7 for b, value in enumerate(row))
        found.append(most if max(row) >= 0.7 or is_best else -1 if max(row) < 0.3 else -2)
    return found


def encoded(box: list[float], anchor: list[float]) -> Tensor:
    bw, bh, aw, ah = box[2] - box[0], box[3] - box[1], anchor[2] - anchor[0], anchor[3] - anchor[1]
    dx, dy = box[0] + bw / 2 - anchor[0] - aw / 2, box[1] + bh / 2 - anchor[1] - ah / 2
    return torch.tensor([dx / aw, dy / ah, math.log(bw / aw), math.log(bh / ah)])


def region_losses(
    rpn: nn.Module, maps: list[Tensor], views: list[ThreeViews], places: list[tuple[str, int, int]]
) -> tuple[Tensor, Tensor]:
    """Return L_cls and L_reg of Eq. 1 on stopped features."""
    scores, deltas = rpn.head([each.detach() for each in maps])
    anchors = anchors_of(maps).tolist()
    cls, reg = torch.zeros(()), torch.zeros(())
    for image, (name, step, slot) in enumerate(places):
        p = torch.cat([level[image].permute(1, 2, 0).reshape(-1) for level in scores])
        t = torch.cat([level[image].permute(1, 2, 0).reshape(-1, 4) for level in deltas])
        ids = views[image].ids.tolist()
        truth = [b for place, b in enumerate(views[image].boxes[0].tolist()) if ids[place] not in ids[:place]]
        said = torch.tensor(labels(anchors, truth))
        rng = stream(3, "anchors", name, step, slot, 1)
        positive, negative = torch.where(said >= 0)[0], torch.where(said == -1)[0]
        few = min(len(positive), SAMPLED // 2)
        drawn = torch.rand(len(said), generator=rng)  # the anchors that drew the highest numbers
        positive = positive[drawn[positive].argsort(descending=True)[:few]]
        negative = negative[drawn[negative].argsort(descending=True)[: SAMPLED - few]]
        cls = cls - F.logsigmoid(p[positive]).sum() - F.logsigmoid(-p[negative]).sum()
        for row in positive.tolist():
            distance = (t[row] - encoded(truth[int(said[row])], anchors[row])).abs()
            beta = 1 / 9
            reg = reg + torch.where(distance < beta, distance**2 / (2 * beta), distance - beta / 2).sum()
    number = SAMPLED * len(places)
    return cls / number, reg / number


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a / a.norm()) @ (b / b.norm())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(config(tmp_path_factory.mktemp("adept") / "run")).path


@pytest.mark.parametrize("step", range(STEPS))
def test_each_step_is_what_the_equations_say(run: Path, step: int):
    """From the engine's own weights of every step: a network of batch norms doubles what rounds differently from step
    to step. With four boxes an image, half as many, one processor rounded weights of one step apart by 4e-5."""
    own = config(run)
    images = PROPOSED.open(run / "data").labeled
    batch = ViewLoader(images, GridProposals(images), own, rank=0, world=1).take(step)
    views = batch.images
    torch.manual_seed(3)
    model = build_method(own).build_model(0).train()
    speed: dict[str, Tensor] = {}
    if step:
        model.load_state_dict(saved_at(run, step, "student"))
        speed = {k.removeprefix("momentum_buffer/"): v for k, v in saved_at(run, step, "optimizer").items()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    online = [projected(model, views, number) for number in range(3)]
    v = [model.predictor(z) for z, _ in online]
    with torch.no_grad():
        t = [projected(model.target, views, number)[0] for number in range(3)]
    number = len(views) * K
    sim = sum(-2 * cosine(v[0][i], t[1][i]) - 2 * cosine(v[0][i], t[2][i]) for i in range(number)) / number
    back = sum(-2 * cosine(v[1][i], t[0][i]) - 2 * cosine(v[2][i], t[0][i]) for i in range(number)) / number
    places = [(name, step, slot) for name, slot in zip(batch.ids, batch.slots, strict=True)]
    cls, reg = region_losses(model.rpn, online[0][1], views, places)
    lines = [each for each in read_metrics(run / "metrics.jsonl") if each["kind"] == "step"]
    line = lines[step]
    said = [line[f"loss/{name}/raw"] for name in ("det/sim", "det/swapped", "rpn/cls", "rpn/reg")]
    assert said == pytest.approx([x.item() for x in (sim, back, cls, reg)], rel=1e-4, abs=1e-5)
    assert line["similarity/views"] == pytest.approx(-(sim.item() + back.item()) / 8, abs=1e-5)

    model.zero_grad()
    (sim + back + cls + LAMBDA * reg).backward()
    rate = LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
    k = step + 1
    m = 1 - (1 - START) * (math.cos(math.pi * k / STEPS) + 1) / 2
    with torch.no_grad():
        for name, p in trained.items():
            slope = p.grad + (DECAY * p if p.ndim > 1 else 0)
            p.sub_(rate * (MOMENTUM * speed[name] + slope if step else slope))
        for name, follower in model.target.named_parameters():
            follower.copy_(m * follower + (1 - m) * trained[name])
    ended = saved_at(run, step + 1, "student")
    assert ended.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.allclose(ended[name].float(), value.float(), rtol=1e-3, atol=1e-5), name


def saved_at(run: Path, step: int, part: str) -> dict[str, Tensor]:
    return open_checkpoint(folder_of(run / "checkpoints", step)).tensors(part)
