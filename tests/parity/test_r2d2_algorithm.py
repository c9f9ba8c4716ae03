"""R2-D2's three stages written down as one plain loop, against the engine.

The loop knows nothing of schedules, label sources, terms with counts, or a table whose rows take a new start when their
image comes up: at a boundary all images are predicted there and then, and the labels are learned by autograd.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydet.data.order import BatchOrder
from raydet.families.classification.config import ClassificationConfig
from raydet.families.classification.data import IMAGES, PreparedImages
from raydet.families.classification.loader import fill_color
from raydet.families.classification.views import augmented_view, plain_view
from raydet.metrics import read_metrics
from raydet.randomness import stream
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from raydet.vision.classifier import Classifier
from tests.helpers import TINY_CLASSES, tiny_classes

D2, REPREDICTIONS, FINETUNING, END = 4, (10, 13), 16, 20  # steps, as TINY_CLASSES has them
BURN_IN_BATCH, LABELED, UNLABELED = 8, 4, 12  # images; in stage 3, 16 x 12 / 54 = 3.6 with true labels: 4 again
ALPHA, BETA, K = 0.1, 0.03, 10.0
LAMBDA = 125.0  # 4000 for a mean over 512 images: for one over 16 the same move of a label
LR_1, LR_2, LR_3, DECAY = 0.06, {4: 0.5, 10: 0.3, 13: 0.1}, 0.02, 0.01  # by stage, the second's from a step on


def views_of(
    config: ClassificationConfig, data: PreparedImages, kind: str, count: int, step: int
) -> tuple[list[int], Tensor]:
    """Which images the engine draws, and how it augments them: with Cutout, but for D2."""
    index = data.labeled if kind == "labeled" else data.unlabeled
    stage, first = ("supervised", 0) if step < D2 else ("D2", D2) if step < FINETUNING else ("fine-tuning", FINETUNING)
    order = BatchOrder(len(index), count, config.seed, f"{kind} {stage}", whole_epochs=kind == "unlabeled")
    rows, views, fill = order.positions(step - first).tolist(), [], fill_color(config)
    for slot, row in enumerate(rows):
        rng = stream(config.seed, kind, index.id_at(row), step, slot)
        views.append(augmented_view(index.pixels_at(row), config.data.views, rng, fill=fill, cutout=stage != "D2"))
    return rows, torch.stack(views)


def class_loss(p: Tensor, q: Tensor, kind: str) -> Tensor:
    """L_c of each image, p predicted and q its label: (2), and the two others of Table 4."""
    if kind == "kl_pred_to_pseudo":
        return (p * (p.log() - q.log())).sum(dim=1)  # KL(p^ || p~)
    return (q * (q.log() - p.log())).sum(dim=1) if kind == "kl_pseudo_to_pred" else ((q - p) ** 2).sum(dim=1)


def rate(step: int) -> float:
    """A law for each stage; the second's learning rate is reduced at each reprediction."""
    if step < D2:  # the cosine would end at 350 epochs, and is left at 300
        return LR_1 / 2 * (1 + math.cos(math.pi * step / (D2 * 350 / 300)))
    if step < FINETUNING:
        return LR_2[max(begun for begun in LR_2 if begun <= step)]
    return LR_3 / 2 * (1 + math.cos(math.pi * (step - FINETUNING) / (END - FINETUNING)))


def sgd(network: nn.Module) -> torch.optim.SGD:
    """Nesterov momentum 0.9; biases and norms are not decayed (R2D2-D2)."""
    matrices, vectors = ([p for p in network.parameters() if (p.ndim > 1) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=LR_1, momentum=0.9, nesterov=True)


def reference(
    config: ClassificationConfig, data: PreparedImages
) -> tuple[list[dict[str, float]], nn.Module, Tensor, Tensor]:
    """Train as the paper says; return the losses of each step, the network, and of every unlabelled image its label as
    (7) left it last, with the boundary at which this label began."""
    torch.manual_seed(config.seed)
    network = Classifier(config.model, len(data.class_names)).train()
    every = range(len(data.unlabeled))
    clean = torch.stack([plain_view(data.unlabeled.pixels_at(row), config.data.views) for row in every])
    learned, begun, relabeled, history = torch.zeros(len(every), 3), torch.full((len(every),), -1), 0, []
    for step in range(END):
        if step in (0, D2, FINETUNING):
            optimizer = sgd(network)  # one for each stage; a reprediction leaves its momentum alone
        if step in (D2, *REPREDICTIONS):
            with torch.no_grad():
                pseudo, start = network.eval()(clean).logits, step  # y~: logits of all images, without augmentation
            network.train()
        rows, pixels = views_of(config, data, "labeled", BURN_IN_BATCH if step < D2 else LABELED, step)
        truth, unlabeled = torch.tensor([data.labeled.label_at(row) for row in rows]), []
        if step >= D2:
            unlabeled, others = views_of(config, data, "unlabeled", UNLABELED, step)
            pixels = torch.cat([pixels, others])
        said = network(pixels).logits  # y^, of one forward: batch norm is over all images of the step
        if step < D2:
            terms = {"sup/ce": F.cross_entropy(said, truth)}
            loss = terms["sup/ce"]
        elif step < FINETUNING:
            pseudo.requires_grad_()
            p, q = said.softmax(dim=1), torch.cat([K * F.one_hot(truth, 3), pseudo[unlabeled]]).softmax(dim=1)
            l_c, l_e = class_loss(p, q, config.method.class_loss_type).mean(), -(p * p.log()).sum(dim=1).mean()
            terms, loss = {"d2/class": l_c, "d2/entropy": l_e}, ALPHA * l_c + BETA * l_e  # (2)
        else:
            relabeled += int((pseudo.argmax(dim=1) != learned.argmax(dim=1))[unlabeled].sum())
            terms = {"finetune/ce": F.cross_entropy(said, torch.cat([truth, pseudo[unlabeled].argmax(dim=1)]))}
            loss = terms["finetune/ce"]
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        if D2 <= step < FINETUNING:
            pseudo = (pseudo - LAMBDA * pseudo.grad).detach()  # (7); the gradient is (6) / B, for mse (15) / B
            learned[unlabeled], begun[unlabeled] = pseudo[unlabeled], start
        history.append({name: float(value.detach()) for name, value in terms.items()})
    assert relabeled, "the test needs an image of stage 3 that the last reprediction alone gave another class"
    top = pseudo.topk(2, dim=1).values
    assert (top[:, 0] - top[:, 1]).min() > 1e-4, "two classes of a label are too close for a comparison of two runs"
    return history, network, learned, begun


@pytest.mark.parametrize("kind", ["kl_pred_to_pseudo", "kl_pseudo_to_pred", "mse"])
def test_the_engine_learns_labels_exactly_as_the_paper_says(kind: str, tmp_path: Path):
    rates = {"burn_in_lr": LR_1, "repeat_lrs": [LR_2[10], LR_2[13]], "finetune_lr": LR_3}
    labels = {"class_loss_type": kind, "label_lr": LAMBDA, "label_step_override": None}
    config = tiny_classes(
        tmp_path / "run",
        seed=4,  # with it the last reprediction changes classes
        model__norm="batch",
        optim__lr=LR_2[D2],
        optim__weight_decay=DECAY,
        method={**TINY_CLASSES["method"], **rates, **labels},
    )
    folder = launch(config)
    expected, network, learned, begun = reference(config, IMAGES.open(folder.data))
    steps = [line for line in read_metrics(folder.metrics) if line["kind"] == "step"]
    assert len(steps) == END
    for line, terms in zip(steps, expected, strict=True):
        for name, value in terms.items():
            assert line[f"loss/{name}/raw"] == pytest.approx(value, rel=1e-6, abs=1e-6), (line["step"], name)
    checkpoint = latest_checkpoint(folder.checkpoints)
    torch.testing.assert_close(checkpoint.tensors("student"), dict(network.state_dict()), rtol=1e-5, atol=1e-5)
    # A row of the table is from the step at which its image came up last: until it comes up again nobody reads it.
    table = checkpoint.tensors("memory")
    assert torch.equal(table["versions"], begun)
    torch.testing.assert_close(table["logits"], learned, rtol=1e-5, atol=1e-5)
