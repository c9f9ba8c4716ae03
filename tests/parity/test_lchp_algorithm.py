"""The paper's training written down as one plain loop, image by image, against the engine: the same losses at every
step of both stages, and the same weights at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.data import LOCATED
from raydet.families.localization.loader import LocationLoader
from raydet.families.localization.method import localization_method
from raydet.metrics import read_metrics
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from tests.helpers import tiny_places
from tests.unit.test_attention import loop

SIDE, DELTA, TAU, ALPHA, BETA = 32, 0.6, 0.98, 20.0, 0.9
FIRST, STEPS, LR, REFINE_LR = 4, 9, 0.002, 0.004


def config(run_dir: Path) -> LocalizationConfig:
    return tiny_places(
        run_dir,
        optim__steps=STEPS,
        optim__lr=LR,
        data__views={"resize": 40, "size": SIDE},
        method={
            "name": "lchp",
            "burn_in_steps": FIRST,
            "classifier_decay_steps": 2,
            "attention_threshold": DELTA,
            "crop_confidence_threshold": TAU,
            "refine_lr": REFINE_LR,
            "stability_every": 2,  # which looks, and must not touch
        },
    )


def attention(classifier: nn.Module, images: Tensor) -> Tensor:
    features = classifier.trunk(images)
    return classifier.attention(features).mean(dim=1)


def logits_of(classifier: nn.Module, images: Tensor) -> Tensor:
    """Bilinear attention pooling, map by map."""
    features = classifier.trunk(images)
    maps = classifier.attention(features)
    rows = []
    for m, f in zip(maps, features, strict=True):
        pooled = (m[:, None] * f[None]).mean(dim=(2, 3)).flatten()
        rooted = pooled.sign() * (pooled.abs() + 1e-12).sqrt()
        rows.append(100 * rooted / rooted.norm())
    return torch.stack(rows) @ classifier.last.weight.T


def said_by(localizer: nn.Module, images: Tensor) -> Tensor:
    hidden = localizer.trunk(images).mean(dim=(2, 3)) @ localizer.hidden.weight.T + localizer.hidden.bias
    return torch.sigmoid(hidden.relu() @ localizer.last.weight.T + localizer.last.bias)


def strong(image: Tensor, box: list[float], p: Tensor) -> tuple[Tensor, list[float]]:
    """S(.), pixel by pixel: each shows what the three operations put there."""
    sx, sy, left, top, right, bottom, flip_x, flip_y = p.tolist()
    found = torch.zeros_like(image)
    for row in range(SIDE):
        for column in range(SIDE):
            x, y = (column + 0.5) / SIDE, (row + 0.5) / SIDE
            x, y = (1 - x if flip_x else x), (1 - y if flip_y else y)
            x, y = x * (1 + left + right) - left, y * (1 + top + bottom) - top
            if not (0 <= x <= 1 and 0 <= y <= 1):
                continue
            x, y = 0.5 + (x - 0.5) / sx, 0.5 + (y - 0.5) / sy
            found[:, row, column] = bilinear(image, x * SIDE - 0.5, y * SIDE - 0.5)
    x1, y1, x2, y2 = box

    def along(ends: tuple[float, float], scale: float, low: float, high: float, flip: float) -> tuple[float, float]:
        ends = tuple(min(max(0.5 + (end - 0.5) * scale, 0), 1) for end in ends)
        ends = tuple(min(max((end + low) / (1 + low + high), 0), 1) for end in ends)
        return (1 - ends[1], 1 - ends[0]) if flip else ends

    (x1, x2), (y1, y2) = along((x1, x2), sx, left, right, flip_x), along((y1, y2), sy, top, bottom, flip_y)
    return found, [x1, y1, x2, y2]


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """The four nearest pixels; beyond the image lies 0."""
    total = torch.zeros(3)
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            if 0 <= row < SIDE and 0 <= column < SIDE:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


def decoded(row: Tensor) -> list[float]:
    x, y, w, h = row.tolist()
    return [min(max(v, 0), 1) for v in (x, y, x + w, y + h)]


def encoded(box: list[float]) -> Tensor:
    return torch.tensor([box[0], box[1], box[2] - box[0], box[3] - box[1]])


def confidence(classifier: nn.Module, image: Tensor, box: list[float]) -> float:
    x1, y1 = (min(max(int(v * SIDE // 1), 0), SIDE - 1) for v in box[:2])
    x2, y2 = (max(min(int(-(-v * SIDE // 1)), SIDE), low + 1) for v, low in zip(box[2:], (x1, y1), strict=True))
    crop = F.interpolate(image[None, :, y1:y2, x1:x2], (SIDE, SIDE), mode="bilinear", align_corners=False)
    return float(logits_of(classifier, crop).softmax(dim=1).max())


def visible(box: list[float]) -> bool:
    return (box[2] - box[0]) * SIDE >= 1 and (box[3] - box[1]) * SIDE >= 1


class Plain:
    """The whole training, without the engine."""

    def __init__(self, run: LocalizationConfig, folder: Path) -> None:
        data = LOCATED.open(folder)
        method = localization_method(run)
        torch.manual_seed(run.seed)
        self.model = method.build_model(len(data.class_names)).train()
        self.momentum = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}
        self.loader = LocationLoader(data.labeled, run, method.stage_at, method.strong, rank=0, world=1)
        self.decay = run.optim.weight_decay

    def step(self, s: int) -> dict[str, float]:
        views = self.loader.take(s)
        images, n = views.pixels.float() / 255, len(views.ids)
        model, losses = self.model, {}
        if s < FIRST:
            with torch.no_grad():
                fill = model.classifier.trunk.mean
                boxes = loop_boxes(model.pseudo_classifier, images, fill)
                masked = loop_masked(model.pseudo_classifier, images, fill)
            rows = [
                F.cross_entropy(logits_of(model.classifier, each), views.classes, reduction="none")
                for each in (images, masked)
            ]
            losses["init/cls"] = (rows[0] + rows[1]).sum() / (2 * n)  # (1)
            said = said_by(model.localizer, images)
            wanted = torch.stack([encoded([v / SIDE for v in box]) for box in boxes.tolist()])
            losses["init/reg"] = ((said - wanted) ** 2).sum() / n  # (2)
            total = losses["init/cls"] + ALPHA * losses["init/reg"]  # (3)
            rates = {"classifier": LR * 0.9 ** (s // 2), "localizer": LR}
        else:
            total = torch.zeros(())
            with torch.no_grad():
                targets = [decoded(row) for row in said_by(model.localizer, images)]  # (4)
            for image, box, p in zip(images, targets, views.strong, strict=True):
                with torch.no_grad():
                    sure = confidence(model.classifier, image, box) > TAU and visible(box)
                    seen, moved = strong(image, box, p)
                if sure and visible(moved):
                    total = total + ((said_by(model.localizer, seen[None])[0] - encoded(moved)) ** 2).sum() / n  # (6)
            losses["refine/reg"] = total
            rates = {"localizer": REFINE_LR}
        if s == FIRST:
            self.momentum = {name: torch.zeros_like(value) for name, value in self.momentum.items()}
        self.descend(total, rates)
        if s < FIRST:
            self.follow()
        return {name: float(value.detach()) for name, value in losses.items()}

    def descend(self, loss: Tensor, rates: dict[str, float]) -> None:
        """SGD with momentum .9; biases and norms are not decayed."""
        named = {
            name: p for name, p in self.model.named_parameters() if name.split(".")[0] in rates and p.requires_grad
        }
        grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        with torch.no_grad():
            for (name, p), grad in zip(named.items(), grads, strict=True):
                assert grad is not None, name
                grad = grad + self.decay * p if p.ndim > 1 else grad
                self.momentum[name] = 0.9 * self.momentum[name] + grad
                p -= rates[name.split(".")[0]] * self.momentum[name]

    @torch.no_grad()
    def follow(self) -> None:
        ours = dict(self.model.classifier.named_parameters())
        for name, p in self.model.pseudo_classifier.named_parameters():
            p.copy_(BETA * p + (1 - BETA) * ours[name])  # (7)


def loop_boxes(classifier: nn.Module, images: Tensor, fill: Tensor) -> Tensor:
    from raydet.families.localization.attention import AttentionRule

    return loop(lambda x: attention(classifier, x), images, AttentionRule(DELTA), fill[:, :1, :1].reshape(3, 1, 1))


def loop_masked(classifier: nn.Module, images: Tensor, fill: Tensor) -> Tensor:
    """The first region of each image, filled with the mean colour."""
    found = images.clone()
    for image in found:
        enlarged = F.interpolate(attention(classifier, image[None])[None], (SIDE, SIDE), mode="bilinear")[0, 0]
        rows, columns = torch.nonzero((enlarged - enlarged.min()) / (enlarged.max() - enlarged.min()) > DELTA).unbind(1)
        image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = fill
    return found


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[dict[str, float]], list[dict[str, float]], Plain, Path]:
    run = config(tmp_path_factory.mktemp("lchp") / "run")
    folder = launch(run)
    lines = [line for line in read_metrics(folder.metrics) if line["kind"] == "step"]
    plain = Plain(run, folder.data)
    return lines, [plain.step(s) for s in range(STEPS)], plain, folder.path


def test_every_loss_of_every_step_is_the_plain_loops(both: tuple) -> None:
    lines, expected, _, _ = both
    assert len(lines) == STEPS
    for line, losses in zip(lines, expected, strict=True):
        for name, value in losses.items():
            assert line[f"loss/{name}/raw"] == pytest.approx(value, rel=2e-4, abs=1e-7), (line["step"], name)
    assert sum(losses.get("refine/reg", 0) > 0 for losses in expected) >= 3  # some boxes pass
    kept = [line["gate/kept"] for line in lines if "gate/kept" in line]
    assert any(0 < share < 1 for share in kept), kept  # and some do not


def test_the_weights_at_the_end_are_the_plain_loops(both: tuple) -> None:
    _, _, plain, path = both
    saved = latest_checkpoint(path / "checkpoints").tensors("student")
    mine = plain.model.state_dict()
    assert saved.keys() == mine.keys()
    for name, value in saved.items():
        assert torch.allclose(value, mine[name], rtol=1e-3, atol=1e-5), name
