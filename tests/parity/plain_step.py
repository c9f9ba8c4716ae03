"""One training step of IL-net or Unbiased Teacher, written from the papers: arithmetic, torch, RoIAlign and resize of
torchvision.

Of raydet it uses the layers of a network (with their weights) and the numbers of a configuration; views, anchors,
matching, box codes, NMS, gate, targets and losses are its own. It draws nothing, so it serves configurations in which
every anchor and every RoI is sampled and every random view comes out one way: `SURE` below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align
from torchvision.transforms.v2 import functional as resizing

SURE: dict[str, Any] = {
    "data.views.short_side": [60],  # 48 x 72 pixels become 60 x 90, in a frame of 64 x 96
    "data.views.max_long_side": 90,
    "data.views.horizontal_flip": 1.0,
    "data.views.color_jitter": 0.0,
    "data.views.grayscale": 1.0,
    "data.views.blur": 0.0,
    "data.views.erase": [0.0, 0.0, 0.0],
    "model.rpn_batch": 1000,  # 378 anchors: all are sampled, and still the loss is divided by 1000
    "model.rpn_positive_fraction": 1.0,
    "model.roi_batch": 512,  # 40 proposals and the true boxes: all are sampled
    "model.roi_positive_fraction": 1.0,
}
MOST_LOG_SCALE = math.log(1000 / 16)
RPN_CODE, ROI_CODE = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)
HEIGHT, WIDTH = 60, 90


@dataclass
class Boxes:
    """What one image is trained on."""

    boxes: Tensor  # [G, 4] xyxy, pixels of the view
    labels: Tensor  # [G] from 1: 0 is background


@dataclass
class Step:
    """What a step computes."""

    terms: dict[str, Tensor]
    loss: Tensor
    pseudo: list[Boxes]
    dropped: int  # candidates surer than delta whose RoI the gate drops
    kept: int  # and those of RoIs that it keeps for their quality


# --- views ------------------------------------------------------------------------------------------------------------


def weak(file: Path) -> Tensor:
    """Resized and flipped, `[3, 60, 90]` uint8."""
    pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)
    return resizing.resize(pixels, [HEIGHT, WIDTH], antialias=True).flip(2)


def gray(pixels: Tensor) -> Tensor:
    """ITU-R 601 luma in the fixed point numbers of Pillow, three times."""
    red, green, blue = pixels.to(torch.int64)
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) // 65536
    return luma.to(torch.uint8).expand(3, -1, -1)


def flipped(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes of the original picture in the view."""
    x1, y1, x2, y2 = (boxes * torch.tensor([WIDTH / width, HEIGHT / height] * 2)).unbind(1)
    return torch.stack([WIDTH - x2, y1, WIDTH - x1, y2], dim=1)


def framed(views: list[Tensor]) -> Tensor:
    """Normalised with ImageNet's figures, zeros beyond the picture: `[N, 3, 64, 96]`."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (torch.stack(views).float() / 255 - mean[:, None, None]) / std[:, None, None]
    return F.pad(normal, (0, 96 - WIDTH, 0, 64 - HEIGHT))


# --- boxes ------------------------------------------------------------------------------------------------------------


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """IoU `[A, B]`."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    own, others = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    return shared / (own[:, None] + others[None] - shared)


def centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(1)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def encode(wanted: Tensor, start: Tensor, code: tuple[float, ...]) -> Tensor:
    (x, y, w, h), (sx, sy, sw, sh) = centred(wanted), centred(start)
    moves = torch.stack([(x - sx) / sw, (y - sy) / sh, (w / sw).log(), (h / sh).log()], dim=1)
    return moves * torch.tensor(code)


def decode(moves: Tensor, start: Tensor, code: tuple[float, ...]) -> Tensor:
    dx, dy, dw, dh = (moves / torch.tensor(code)).unbind(1)
    sx, sy, sw, sh = centred(start)
    x, y = sx + dx * sw, sy + dy * sh
    w, h = sw * dw.clamp(max=MOST_LOG_SCALE).exp(), sh * dh.clamp(max=MOST_LOG_SCALE).exp()
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)


def inside(boxes: Tensor) -> Tensor:
    """Clipped to the picture, not to its frame."""
    return torch.minimum(boxes.clamp(min=0), torch.tensor([WIDTH, HEIGHT] * 2, dtype=torch.float32))


def greedy(boxes: Tensor, scores: Tensor, most: float) -> list[int]:
    """Non-maximum suppression: the rows that no better row that was kept overlaps by more than `most`, best first."""
    kept: list[int] = []
    overlap = overlaps(boxes, boxes)
    for row in scores.argsort(descending=True).tolist():
        if all(float(overlap[row, other]) <= most for other in kept):
            kept.append(row)
    return kept


# --- the detector -----------------------------------------------------------------------------------------------------


def anchors(config: Any, maps: list[Tensor]) -> list[Tensor]:
    """Of each level `[h * w * 3, 4]`: around the upper left corner of every cell, with sides in whole pixels."""
    found = []
    for level, stride, (size,) in zip(maps, config.fpn_strides, config.anchor_sizes, strict=True):
        cells = []
        for ratio in config.anchor_ratios:  # height / width
            w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
            cells.append(torch.tensor([-w / 2, -h / 2, w / 2, h / 2]).round())
        for y in range(level.shape[2]):
            for x in range(level.shape[3]):
                found.append(torch.stack(cells) + stride * torch.tensor([x, y, x, y]))
    sizes = [level.shape[2] * level.shape[3] for level in maps]
    return [torch.cat(part) for part in _split(found, sizes)]


def _split(items: list[Tensor], sizes: list[int]) -> list[list[Tensor]]:
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return [items[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]


def flat(level: Tensor, numbers: int) -> Tensor:
    """`[a * numbers, h, w]` as `[h * w * a, numbers]`."""
    return level.permute(1, 2, 0).reshape(-1, numbers)


def propose(config: Any, grid: list[Tensor], scores: list[Tensor], moves: list[Tensor]) -> Tensor:
    """Proposals of one image in training."""
    boxes, values = [], []
    for start, score, move in zip(grid, scores, moves, strict=True):
        best = score.argsort(descending=True)[: config.rpn_pre_nms_train]
        placed = inside(decode(move[best], start[best], RPN_CODE))
        large = ((placed[:, 2:] - placed[:, :2]) >= 1e-3).all(dim=1)
        placed, score = placed[large], score[best][large]
        kept = greedy(placed, score, config.rpn_nms)  # levels do not suppress each other
        boxes.append(placed[kept])
        values.append(score[kept])
    order = torch.cat(values).argsort(descending=True)[: config.rpn_post_nms_train]
    return torch.cat(boxes)[order]


def judge(model: Any, maps: list[Tensor], image: int, rois: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Class logits `[R, K + 1]`, deltas `[R, K + 1, 4]` and branch logits `[R, K + 1]` of one image's RoIs; Unbiased
    Teacher has no branch."""
    config, sides = model.config, (rois[:, 2:] - rois[:, :2])
    level_of = (4 + (sides.prod(dim=1).sqrt() / 224).log2() + 1e-6).floor()  # FPN, Eq. 1
    strides = [s for s in config.fpn_strides if s < 64]
    level_of = level_of.clamp(math.log2(strides[0]), math.log2(strides[-1]))
    pooled = torch.zeros(len(rois), maps[0].shape[1], 7, 7)
    for level, stride in zip(maps, strides, strict=False):
        rows = torch.where(level_of == math.log2(stride))[0]
        parts = roi_align(level[image : image + 1], [rois[rows]], 7, 1 / stride, config.roi_sampling_ratio, True)
        pooled = pooled.index_copy(0, rows, parts)
    head, last = model.roi_heads.box_head, model.roi_heads.box_predictor
    shared = F.linear(pooled.flatten(1), head.fc6.weight, head.fc6.bias).relu()
    shared = F.linear(shared, head.fc7.weight, head.fc7.bias).relu()
    logits = F.linear(shared, last.cls_score.weight, last.cls_score.bias)
    deltas = F.linear(shared, last.bbox_pred.weight, last.bbox_pred.bias).reshape(len(rois), -1, 4)
    branch = getattr(model, "iou_branch", None)
    if branch is None:
        return logits, deltas, None
    hidden = F.linear(torch.cat([shared, logits], dim=1), branch.hidden.weight, branch.hidden.bias)
    hidden = torch.where(hidden > 0, hidden, hidden.exp() - 1)  # ELU
    return logits, deltas, F.linear(hidden, branch.score.weight, branch.score.bias)


def losses(model: Any, views: list[Tensor], truth: list[Boxes], method: Any) -> dict[str, Tensor]:
    """The losses of a batch: four, and IL-net's fifth."""
    config = model.config
    maps = list(model.backbone(framed(views)).values())
    objectness, moves = model.rpn.head(maps)
    grid = anchors(config, objectness)
    everywhere = torch.cat(grid)
    sums = {name: torch.zeros(()) for name in ("rpn_cls", "rpn_reg", "roi_cls", "roi_reg")}
    if hasattr(model, "iou_branch"):
        sums["iou"] = torch.zeros(())
    num_rois = 0
    for i, wanted in enumerate(truth):
        by_level = [flat(level[i], 1)[:, 0] for level in objectness]
        moves_by_level = [flat(level[i], 4) for level in moves]
        scores, steps = torch.cat(by_level), torch.cat(moves_by_level)
        is_object, is_nothing = torch.zeros(len(scores), dtype=torch.bool), torch.ones(len(scores), dtype=torch.bool)
        owner = torch.zeros(len(scores), dtype=torch.int64)
        if len(wanted.boxes):
            overlap = overlaps(everywhere, wanted.boxes)
            best, owner = overlap.max(dim=1)
            is_best_of_a_box = (overlap == overlap.max(dim=0).values).any(dim=1)
            is_object = (best >= 0.7) | is_best_of_a_box
            is_nothing = (best < 0.3) & ~is_object
        p = scores.sigmoid()
        sums["rpn_cls"] = sums["rpn_cls"] - p[is_object].log().sum() - (1 - p[is_nothing]).log().sum()
        if len(wanted.boxes):
            target = encode(wanted.boxes[owner[is_object]], everywhere[is_object], RPN_CODE)
            sums["rpn_reg"] = sums["rpn_reg"] + (steps[is_object] - target).abs().sum()

        with torch.no_grad():
            rois = torch.cat([propose(config, grid, by_level, moves_by_level), wanted.boxes])
        num_rois += len(rois)
        logits, deltas, branch = judge(model, maps, i, rois)
        labels = torch.zeros(len(rois), dtype=torch.int64)
        if len(wanted.boxes):
            best, owner = overlaps(rois, wanted.boxes).max(dim=1)
            labels = torch.where(best >= config.roi_fg_iou, wanted.labels[owner], labels)
        own = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
        sums["roi_cls"] = sums["roi_cls"] + ((1 - own) ** 1.5 * -own.log()).sum()
        fg = torch.where(labels > 0)[0]
        if len(fg) == 0:
            continue
        matched, moved = wanted.boxes[owner[fg]], deltas[fg, labels[fg]]
        sums["roi_reg"] = sums["roi_reg"] + (moved - encode(matched, rois[fg], ROI_CODE)).abs().sum()
        if branch is None:
            continue
        placed = decode(moved.detach(), rois[fg], ROI_CODE)  # the decoded box, not the RoI, and not clipped
        good = overlaps(placed, matched).diagonal() > method.iou_target_threshold
        q = branch[fg, labels[fg]].sigmoid()
        p = torch.where(good, q, 1 - q)
        sums["iou"] = sums["iou"] + ((1 - p) ** 1.5 * -p.log()).sum()
    divisor = {"rpn_cls": config.rpn_batch * len(views), "rpn_reg": config.rpn_batch * len(views)}
    return {name: value / divisor.get(name, num_rois) for name, value in sums.items()}


@torch.no_grad()
def label(model: Any, views: list[Tensor], method: Any) -> tuple[list[Boxes], int, int]:
    """The teacher's pseudo-boxes of each image; how many sure candidates the gate dropped, and kept for their q."""
    maps = list(model.backbone(framed(views)).values())
    objectness, moves = model.rpn.head(maps)
    grid = anchors(model.config, objectness)
    found, dropped, kept = [], 0, 0
    for i in range(len(views)):
        rois = propose(
            model.config, grid, [flat(each[i], 1)[:, 0] for each in objectness], [flat(each[i], 4) for each in moves]
        )
        logits, deltas, branch = judge(model, maps, i, rois)
        p = logits.softmax(dim=1)
        best = p.argmax(dim=1)
        bad = torch.zeros(len(rois), dtype=torch.bool)
        if branch is not None:
            q = branch.sigmoid()
            bad = (best > 0) & (q.gather(1, best[:, None])[:, 0] <= method.iou_filter_threshold)
        sure = p[:, 1:].amax(dim=1) > method.score_threshold
        dropped, kept = dropped + int((bad & sure).sum()), kept + int((~bad & sure & (best > 0)).sum())
        rows: list[tuple[float, int, Tensor]] = []
        for c in range(1, p.shape[1]):
            placed = inside(decode(deltas[:, c], rois, ROI_CODE))
            real = ((placed[:, 2:] - placed[:, :2]) >= 1e-2).all(dim=1)
            use = torch.where(~bad & real & (p[:, c] > 0.05))[0]
            rows += [(float(p[use[k], c]), c, placed[use[k]]) for k in greedy(placed[use], p[use, c], 0.5)]
        rows = sorted(rows, key=lambda row: -row[0])[:100]
        rows = [row for row in rows if row[0] > method.score_threshold]
        boxes = torch.stack([row[2] for row in rows]) if rows else torch.zeros(0, 4)
        found.append(Boxes(boxes, torch.tensor([row[1] for row in rows], dtype=torch.int64)))
    return found, dropped, kept


def one_step(student: Any, teacher: Any, labeled: list[tuple[Tensor, Boxes]], unlabeled: list[Tensor], m: Any) -> Step:
    """The losses of a step after the burn-in, from weak views; `m` are the method's numbers (IL-net, Eq. 1).

    Unbiased Teacher is IL-net without the branch and with a weight of 0 on unsupervised regression.
    """
    pictures, truth = [view for view, _ in labeled], [boxes for _, boxes in labeled]
    sup = losses(student, [*map(gray, pictures), *pictures], truth + truth, m)
    pseudo, dropped, kept = label(teacher, unlabeled, m)
    unsup = losses(student, list(map(gray, unlabeled)), pseudo, m)
    loss = sup["rpn_cls"] + sup["rpn_reg"] + sup["roi_cls"] + sup["roi_reg"]
    loss = loss + m.unsup_cls_weight * (unsup["rpn_cls"] + unsup["roi_cls"])
    if "iou" in sup:
        loss = loss + m.sup_iou_weight * sup["iou"] + m.unsup_iou_weight * unsup["iou"]
        loss = loss + m.unsup_reg_weight * (unsup["rpn_reg"] + unsup["roi_reg"])
    terms = {f"sup/{name}": value for name, value in sup.items()}
    terms |= {f"unsup/{name}": value for name, value in unsup.items()}
    return Step(terms, loss, pseudo, dropped, kept)
