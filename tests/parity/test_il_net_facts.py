"""Numbers worked out by hand for IL-net's formulas. Inside the models class 0 is background."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from raydet.config.detector import ModelConfig
from raydet.families.detection.batch import LABELED
from raydet.families.detection.config import IoUBranchConfig
from raydet.families.detection.gates import by_quality
from raydet.families.detection.iou_branch import IoUBranch, IoUPass, gate_quality, iou_pass, iou_terms, placement
from raydet.families.detection.passes import compared
from raydet.records import Candidates
from raydet.vision.ema import EmaTeacher
from raydet.vision.geometry import paired_iou
from raydet.vision.losses import binary_focal, cross_entropy, focal_cross_entropy
from raydet.vision.roi import RoiScores, SampledRois, box_coder

MU, THETA = 0.75, 0.4


def near(values: list[float]) -> object:
    return pytest.approx(values, abs=1.5e-6)  # the facts are given to six digits


def branch(**config: object) -> IoUBranch:
    return IoUBranch(IoUBranchConfig.model_validate(config), feature_dim=1024, num_classes=80, target_threshold=MU)


def test_fact_1_focal_class_loss_of_one_row():
    # logits (2, 0, 0): p_0 = e^2 / (e^2 + 2) = .786986, CE = .239545; (1 - .786986)^1.5 * .239545 = .023550
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    labels = torch.tensor([0, 1])
    assert logits.softmax(1)[0, :2].tolist() == near([0.786986, 0.106507])
    assert cross_entropy(logits, labels).tolist() == near([0.239545, 2.239545])
    assert focal_cross_entropy(logits, labels, 1.5).tolist() == near([0.023550, 1.891457])


def test_fact_2_focal_class_loss_of_four_rows():
    logits = torch.tensor([[2.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0], [1.0, 1.0, 1.0]])
    labels = torch.tensor([0, 1, 2, 0])
    rows = focal_cross_entropy(logits, labels, 1.5)
    assert rows.tolist() == near([0.023550, 0.152185, 0.002587, 0.598009])
    assert float(rows.mean()) == near(0.194083)
    assert float(cross_entropy(logits, labels).mean()) == near(0.496131)


def test_fact_3_binary_focal_loss():
    q = torch.tensor([0.9, 0.8, 0.5, 0.5, 0.3, 0.3, 0.9])
    t = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    rows = binary_focal(torch.logit(q), t, 1.5)
    # e.g. (.8, 1): .2^1.5 * -ln .8 = .0894427 * .223144 = .019959
    assert rows.tolist() == near([0.003332, 0.019959, 0.245065, 0.245065, 0.705121, 0.058608, 1.965981])
    assert rows.tolist() == near(sigmoid_focal_loss(torch.logit(q), t, alpha=-1, gamma=1.5).tolist())
    balanced = sigmoid_focal_loss(torch.logit(q[1:2]), t[1:2], alpha=0.25, gamma=1.5)
    assert float(balanced) == near(0.004990)  # a quarter: not our loss


def test_fact_4_the_loss_at_initialisation():
    torch.manual_seed(0)
    fresh = branch()
    logits = fresh(torch.randn(6, 1024), torch.randn(6, 81), torch.randn(6, 324))[:, 1]
    rows, _ = fresh.loss_rows(logits, torch.tensor([0.9] * 3 + [0.1] * 3))
    assert float(rows.mean().detach()) == pytest.approx(0.245065, abs=0.02)  # .5^1.5 * ln 2
    assert float(fresh.loss_rows(torch.zeros(1), torch.ones(1))[0]) == near(0.245065)


def test_fact_5_iou_and_strict_target():
    truth = torch.tensor([[0.0, 0, 10, 10]]).expand(5, 4)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [2, 0, 12, 10], [0, 0, 10, 7.5], [5, 5, 15, 15]])
    iou = paired_iou(boxes, truth)
    assert iou.tolist() == near([1.0, 0.8, 0.666667, 0.75, 0.142857])
    assert branch().loss_rows(torch.zeros(5), iou)[1].tolist() == [1, 1, 0, 0, 0]  # exactly .75 is not above .75


class Fixed(IoUBranch):
    """The branch, with logits `[F]` for the own classes of the foreground RoIs that somebody has written down."""

    def forward(self, shared: Tensor, class_logits: Tensor, box_deltas: Tensor) -> Tensor:
        return self.says[:, None].expand(-1, class_logits.shape[1])


def judged(mu: float, q: list[float], rois: SampledRois, own_deltas: list[list[float]]) -> IoUPass:
    """What `iou_pass` makes of one image's RoIs, two classes, the deltas of whose own classes are given."""
    fixed = Fixed(IoUBranchConfig(), feature_dim=4, num_classes=2, target_threshold=mu)
    fixed.says = torch.logit(torch.tensor(q))
    number, fg = len(rois.labels), torch.arange(rois.num_foreground)
    deltas = torch.zeros(number, 3, 4)
    deltas[fg, rois.labels[fg]] = torch.tensor(own_deltas)
    said = RoiScores(torch.zeros(number, 4), torch.zeros(number, 3), deltas.flatten(1))
    found = compared(ModelConfig(backbone="small_gn"), (rois,), said)
    return iou_pass(SimpleNamespace(iou_branch=fixed), found, [rois.matched])


def test_fact_6_the_target_looks_at_the_decoded_box():
    proposal = torch.tensor([[10.0, 10, 30, 50]])
    decoded = box_coder.decode(torch.tensor([[1.0, -0.5, 0.5, -0.25]]), proposal)
    assert decoded[0].tolist() == pytest.approx([10.948291, 8.975412, 33.051708, 47.024590], abs=1e-5)
    truth = torch.tensor([[10.0, 10, 30, 48]])
    assert float(paired_iou(proposal, truth)) == near(0.95)  # (20 * 38) / (20 * 40)
    assert float(placement(decoded, truth, truth, best=False)) == near(0.787577)
    rois = SampledRois(proposal, torch.tensor([1]), truth)
    for mu, target in ((0.75, 1), (0.78, 1), (0.79, 0), (0.9, 0)):  # the RoI itself would say 1 up to .95
        found = judged(mu, [0.8], rois, [[1.0, -0.5, 0.5, -0.25]])
        assert found.positives.tolist() == [target], mu
        # .2^1.5 * -ln .8 = .019959 for target 1, .8^1.5 * -ln .2 = 1.151620 for target 0
        assert float(found.loss) == near([1.151620, 0.019959][target]), mu


def test_fact_7_the_loss_is_divided_by_all_sampled_rois():
    # Of eight RoIs two are foreground: one lies on its true box, the other on less than half of it.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4]] + [[50.0, 50, 60, 60]] * 6)
    rois = SampledRois(boxes, torch.tensor([1, 2] + [0] * 6), torch.tensor([[0.0, 0, 10, 10]] * 2))
    found = judged(MU, [0.8, 0.3], rois, [[0.0] * 4] * 2)
    assert found.positives.tolist() == [1] and found.foreground.tolist() == [2]
    assert found.loss.tolist() == near([0.078567])  # (.8, target 1) .019959 + (.3, target 0) .058608
    batch = SimpleNamespace(rows=lambda group: slice(0, 1))
    term = iou_terms(found, batch, LABELED, "sup")["sup/iou"]
    assert float(term.total / term.count) == near(0.009821)  # by foreground it would be .039283


def test_fact_8_the_gate():
    # In the papers' order (background last): best classes 0, 1, background, 0.
    p = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6], [0.75, 0.05, 0.2]], dtype=torch.float64)
    q = torch.tensor([[0.39, 0.9, 0.5], [0.9, 0.41, 0.5], [0.1, 0.1, 0.1], [0.4, 0.2, 0.2]], dtype=torch.float64)
    first = [2, 0, 1]  # background first
    quality = gate_quality(p[:, first].log(), torch.logit(q[:, first]))
    assert quality.tolist() == pytest.approx([0.39, 0.41, 1.0, 0.4])
    quality = quality.float()  # the last row is exactly theta, and theta must be exceeded
    rows = Candidates(torch.zeros(4, 4), torch.arange(4), torch.ones(4), quality, 0.05)
    assert by_quality(rows, THETA).classes.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["roi_features", "class_logits", "box_deltas"], 1_543_249),  # (1024 + 81 + 320 + 1) * 1024 + 1025 * 81
        (["roi_features", "class_logits"], 1_215_569),
        (["roi_features"], 1_132_625),
    ],
)
def test_fact_9_parameters_of_the_branch(inputs: list[str], expected: int):
    assert sum(p.numel() for p in branch(inputs=inputs).parameters()) == expected


def test_fact_11_the_teachers_memory():
    assert math.log(0.5) / math.log(0.9996) == pytest.approx(1732.5, abs=0.05)
    student = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(student.weight)
    teacher = EmaTeacher(student)
    torch.nn.init.zeros_(student.weight)
    for _ in range(2000):
        teacher.update(student, keep=0.9996)
    assert float(teacher.model.weight) == pytest.approx(0.449257, abs=2e-5)  # .9996^2000, in float32


def permuted(branch: IoUBranch, classes: Tensor, features: int) -> IoUBranch:
    """Return the same function with its classes renamed: column c becomes column classes[c]."""
    twin = IoUBranch(branch.config, feature_dim=features, num_classes=len(classes) - 1, target_threshold=MU)
    inverse = torch.argsort(classes)
    deltas = (inverse[1:, None] - 1) * 4 + torch.arange(4)
    columns = torch.cat([torch.arange(features), features + inverse, features + len(classes) + deltas.flatten()])
    with torch.no_grad():
        twin.hidden.weight.copy_(branch.hidden.weight[:, columns])
        twin.hidden.bias.copy_(branch.hidden.bias)
        twin.score.weight.copy_(branch.score.weight[inverse])
        twin.score.bias.copy_(branch.score.bias[inverse])
    return twin


def test_fact_13_classes_are_exchangeable_and_background_is_never_trained():
    torch.manual_seed(0)
    config = IoUBranchConfig(inputs=("roi_features", "class_logits", "box_deltas"), hidden=16)
    original = IoUBranch(config, feature_dim=5, num_classes=3, target_threshold=MU)
    torch.nn.init.normal_(original.score.weight)
    shared, logits, deltas = torch.randn(6, 5), torch.randn(6, 4), torch.randn(6, 16)
    labels, iou = torch.tensor([1, 2, 3, 1, 2, 3]), torch.rand(6)

    def loss(branch: IoUBranch, logits: Tensor, deltas: Tensor, labels: Tensor) -> Tensor:
        own = branch(shared, logits, deltas).gather(1, labels[:, None])[:, 0]
        return branch.loss_rows(own, iou)[0].sum()

    classes = torch.tensor([0, 3, 1, 2])  # background stays
    inverse = torch.argsort(classes)
    renamed_deltas = deltas.reshape(6, 4, 4)[:, inverse].reshape(6, 16)
    twin = permuted(original, classes, features=5)
    expected = loss(original, logits, deltas, labels)
    torch.testing.assert_close(loss(twin, logits[:, inverse], renamed_deltas, classes[labels]), expected)

    expected.backward()
    assert original.score.weight.grad[0].abs().max() == 0
    assert original.score.bias.grad[0] == 0
    assert original.score.weight.grad[1:].abs().min() > 0
