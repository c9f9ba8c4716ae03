"""Numbers worked out by hand for R2-D2's formulas, in float64 where the code lets them be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydet.contract import DataSizes
from raydet.errors import ConfigError
from raydet.families.classification.batch import ClassBatch, StepRows
from raydet.families.classification.label_table import LabelTable
from raydet.families.classification.methods.r2d2 import class_loss, entropy, label_gradient, theorem_1
from raydet.group import Group
from tests.r2d2_batches import batch_of, cifar, learned_by, share_of, tiny

ALPHA, BETA = 0.1, 0.03
STUDENT = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)  # y^
LABEL = torch.tensor([[1.0, 1.5, -0.5]], dtype=torch.float64)  # y~
KINDS = ("kl_pred_to_pseudo", "kl_pseudo_to_pred", "mse")

Logits = st.lists(st.floats(-8, 8), min_size=4, max_size=4)


def near(values: Any) -> Any:
    return pytest.approx(values, abs=1.5e-6)  # the facts are given to six digits


def rows(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def whole_loss(logits: Tensor, pseudo: Tensor, alpha: float = ALPHA, beta: float = BETA) -> Tensor:
    return alpha * class_loss(logits, pseudo, "kl_pred_to_pseudo") + beta * entropy(logits)


def gradients(kind: Any, logits: Tensor, pseudo: Tensor) -> tuple[Tensor, Tensor]:
    """Return what autograd says about L, for the network's logits and for the labels."""
    logits, pseudo = logits.clone().requires_grad_(), pseudo.clone().requires_grad_()
    (ALPHA * class_loss(logits, pseudo, kind) + BETA * entropy(logits)).sum().backward()
    assert logits.grad is not None and pseudo.grad is not None
    return logits.grad, pseudo.grad


# the formulas


def test_fact_1_predictions_labels_and_losses():
    assert STUDENT.softmax(1)[0].tolist() == near([0.665241, 0.244728, 0.090031])
    assert LABEL.softmax(1)[0].tolist() == near([0.348207, 0.574097, 0.077696])
    # L_c = .665241 ln(.665241 / .348207) + .244728 ln(.244728 / .574097) + .090031 ln(.090031 / .077696)
    assert float(class_loss(STUDENT, LABEL, "kl_pred_to_pseudo")) == near(0.235243)
    assert float(entropy(STUDENT)) == near(0.832396)
    assert float(whole_loss(STUDENT, LABEL)) == near(0.048496)  # .0235243 + .0249719


def test_a_batch_has_the_figures_of_its_images_one_by_one():
    logits = torch.cat([STUDENT.reshape(1, -1), torch.zeros_like(STUDENT.reshape(1, -1)), 3 * STUDENT.reshape(1, -1)])
    pseudo = logits.flip(0)
    assert torch.allclose(entropy(logits), torch.stack([entropy(row) for row in logits]))
    for kind in KINDS:
        rows = torch.stack([class_loss(a, b, kind) for a, b in zip(logits, pseudo, strict=True)])
        assert torch.allclose(class_loss(logits, pseudo, kind), rows), kind
    settings = {"class_weight": 0.4, "entropy_weight": 0.1}
    rows = torch.stack([theorem_1(a, b, **settings) for a, b in zip(logits, pseudo, strict=True)])
    assert torch.allclose(theorem_1(logits, pseudo, **settings), rows)


def test_fact_2_gradients_of_label_and_network():
    of_student, of_label = gradients("kl_pred_to_pseudo", STUDENT, LABEL)
    assert of_label[0].tolist() == near([-0.031703, 0.032937, -0.001233])
    assert (ALPHA * label_gradient(STUDENT, LABEL, "kl_pred_to_pseudo"))[0].tolist() == near(of_label[0].tolist())
    assert float(of_label.sum()) == pytest.approx(0, abs=1e-15)
    assert of_student[0].tolist() == near([0.018937, -0.022401, 0.003463])
    log_p, log_q = STUDENT.log_softmax(1), LABEL.log_softmax(1)  # Eq. 5: ((a - b) log p^ - a log p~ - L) p^
    eq_5 = ((ALPHA - BETA) * log_p - ALPHA * log_q - whole_loss(STUDENT, LABEL)) * log_p.exp()
    assert of_student[0].tolist() == pytest.approx(eq_5[0].tolist(), abs=1e-12)


def test_fact_3_the_two_other_class_losses():
    assert float(class_loss(STUDENT, LABEL, "kl_pseudo_to_pred")) == near(0.252642)
    assert float(class_loss(STUDENT, LABEL, "mse")) == near(0.209146)
    other = ALPHA * label_gradient(STUDENT, LABEL, "kl_pseudo_to_pred")
    assert other[0].tolist() == near([-0.031338, 0.034446, -0.003108])
    assert (ALPHA * label_gradient(STUDENT, LABEL, "mse"))[0].tolist() == near([-0.027492, 0.028892, -0.001400])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(student=Logits, label=Logits)
def test_closed_forms_are_the_gradients_and_leave_the_sum_of_a_label_alone(
    kind: Any, student: list[float], label: list[float]
):
    closed = ALPHA * label_gradient(rows(student), rows(label), kind)
    assert closed[0].tolist() == pytest.approx(gradients(kind, rows(student), rows(label))[1][0].tolist(), abs=1e-12)
    assert float(closed.sum()) == pytest.approx(0, abs=1e-14)
    moved = rows(label) - 4000 * closed  # the largest step of all: Eq. 7 read literally
    assert float(moved.sum()) == pytest.approx(sum(label), abs=1e-10)


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "reduction", "step", "label", "probs"),
    [
        (128, 384, "mean", 0.78125, [1.247682, 1.242681, -0.490363], [0.460644, 0.458346, 0.081011]),
        (32, 96, "mean", 3.125, [1.990730, 0.470723, -0.461453], None),
        (128, 384, "sum", 400.0, [127.81, -130.25, 4.43], [1.0, 0.0, 0.0]),
    ],
)
def test_fact_4_one_update_at_the_published_rate(
    labeled: int, unlabeled: int, reduction: str, step: float, label: list[float], probs: list[float] | None
):
    method = cifar(
        optim__labeled_batch=labeled, optim__unlabeled_batch=unlabeled, method__pseudo_grad_reduction=reduction
    )
    assert method.label_step == pytest.approx(step, rel=1e-12)  # 4000 x .1 / images
    moved = LABEL - method.label_step * label_gradient(STUDENT, LABEL, "kl_pred_to_pseudo")
    assert moved[0].tolist() == pytest.approx(label, abs=0.006 if reduction == "sum" else 1.5e-6)
    assert float(moved.sum()) == pytest.approx(2.0, abs=1e-12)  # 1 + 1.5 - .5
    if probs is not None:
        assert moved.softmax(1)[0].tolist() == near(probs)


def test_fact_4_is_what_learn_writes():
    for labeled, images, expected in ((2, 4, [1.247682, 1.242681, -0.490363]), (96, 128, [1.990730, 0.470723])):
        override = {"method__label_step_override": None, "method__label_lr": 0.78125 * images / ALPHA}
        if images == 128:
            override["method__label_lr"] = 4000.0
        method = tiny(optim__labeled_batch=labeled, optim__unlabeled_batch=images - labeled, **override)
        batch, logits = batch_of(labeled, images - labeled, row=LABEL[0], student=STUDENT[0])
        table = LabelTable(50, 3)
        method.update(table, batch, {"logits": logits}, {}, Group())
        assert table.logits[0, : len(expected)].tolist() == near(expected)


def test_fact_5_a_label_follows_a_fixed_prediction_and_keeps_its_sum():
    label = LABEL
    for _ in range(200):
        label = label - 0.78125 * label_gradient(STUDENT, label, "kl_pred_to_pseudo")
    assert label[0].tolist() == near([1.666667, 0.666667, -0.333333])  # y^ - 1/3: the sum is 2, that of y^ is 3
    assert label.softmax(1)[0].tolist() == pytest.approx(STUDENT.softmax(1)[0].tolist(), abs=1e-9)


def stationary(label: Tensor, alpha: float = ALPHA, beta: float = BETA) -> Tensor:
    """Return the logits at which the network's gradient is zero: p^ in proportion to p~^(alpha / (alpha - beta))."""
    return label.log_softmax(1) * alpha / (alpha - beta)


def test_fact_6_a_free_prediction_becomes_sharper_than_its_label():
    label, student = STUDENT, STUDENT.clone().requires_grad_()  # starts at the label
    for _ in range(3000):
        (grad,) = torch.autograd.grad(whole_loss(student, label).sum(), student)
        student = (student - 5.0 * grad).detach().requires_grad_()
    found = student.detach()
    assert found.softmax(1)[0].tolist() == near([0.770960, 0.184761, 0.044278])
    assert stationary(label).softmax(1)[0].tolist() == near(found.softmax(1)[0].tolist())  # exponent 1.428571
    claim = theorem_1(found, label, class_weight=ALPHA, entropy_weight=BETA)
    assert float(claim) == pytest.approx(0.66524, abs=5e-6)
    assert float(claim) == near(float(label.softmax(1)[0, 0]))  # Theorem 1
    assert float(label.softmax(1)[0, 0]) < float(found.softmax(1)[0, 0])  # Theorem 2


@settings(max_examples=60)
@given(label=Logits, alpha=st.floats(0.05, 2.0), ratio=st.floats(0.0, 0.9))
def test_theorems_1_and_2_hold_wherever_the_gradient_is_zero(label: list[float], alpha: float, ratio: float):
    beta = ratio * alpha
    given_label, at = rows(label), stationary(rows(label), alpha, beta).requires_grad_()
    (grad,) = torch.autograd.grad(whole_loss(at, given_label, alpha, beta).sum(), at)
    assert float(grad.abs().max()) < 1e-10
    at = at.detach()
    best = int(at.argmax())
    claim = theorem_1(at, given_label, class_weight=alpha, entropy_weight=beta)
    own = given_label.softmax(1)[0, best]
    assert float(claim) == pytest.approx(float(own), rel=1e-9)
    assert float(own) <= float(at.softmax(1)[0, best]) + 1e-12


@pytest.mark.parametrize(("classes", "share"), [(10, 0.999592), (100, 0.995526), (1000, 0.956613)])
def test_fact_7_labels_of_labelled_images(classes: int, share: float):
    batch = ClassBatch(30_000, ["image"], torch.zeros(1, 3, 8, 8), torch.tensor([3]), torch.zeros(0, classes))
    label = cifar().targets(batch)
    assert label[0, 3] == 10 and label.sum() == 10
    assert float(label.double().softmax(1)[0, 3]) == near(share)  # e^10 / (e^10 + N - 1)


def test_fact_10_a_constant_added_to_a_label_changes_nothing():
    for constant in (-7.0, 0.5, 300.0):
        moved = LABEL + constant
        assert moved.softmax(1)[0].tolist() == pytest.approx(LABEL.softmax(1)[0].tolist(), abs=1e-12)
        for kind in KINDS:
            for one, other in zip(gradients(kind, STUDENT, LABEL), gradients(kind, STUDENT, moved), strict=True):
                assert one[0].tolist() == pytest.approx(other[0].tolist(), abs=1e-12)


def test_fact_12_with_alpha_below_beta_the_best_prediction_is_a_vertex():
    label = STUDENT
    uniform = rows([0.0, 0.0, 0.0])
    first, last = (
        torch.tensor([each], dtype=torch.float64).log() for each in ([0.999, 5e-4, 5e-4], [5e-4, 5e-4, 0.999])
    )
    points = (uniform, first, last)
    assert [float(whole_loss(p, label, 0.02)) for p in points] == near([0.039138, 0.008268, 0.048208])
    assert [float(whole_loss(p, label, 0.1)) for p in points] == near([0.063858, 0.040309, 0.240009])
    assert float(whole_loss(stationary(label), label)) == near(0.022552)  # lower than at any of the three
    with pytest.raises(ConfigError, match=r"class_loss_weight=0\.02 must be greater than method\.entropy_weight=0\.03"):
        cifar(method__class_loss_weight=0.02)


# the schedule


def test_fact_9_repredictions_and_learning_rates_of_the_published_run():
    method = cifar()
    stage_2 = 300 * 100

    def step(epoch: float) -> int:
        return stage_2 + round(epoch * 119)

    assert list(method.repredictions) == [step(epoch) for epoch in (300, 375, 450, 525)]  # and not at 600
    assert method.schedule().boundaries == (stage_2, *method.repredictions)
    assert method.stage_ends == (stage_2, step(300), step(600))
    assert [method.lr_at(100 * epoch) / 0.05 for epoch in (0, 150)] == near([1.0, 0.611260])
    assert method.lr_at(stage_2 - 1) / 0.05 == pytest.approx(0.049516, abs=3e-5)  # at 300 itself stage 2 has begun
    rates = {0: 0.12, 299.9: 0.12, 300: 0.12, 374.9: 0.12, 375: 0.08, 449.9: 0.08, 450: 0.04, 524.9: 0.04, 525: 0.004}
    assert [method.lr_at(step(epoch)) for epoch in (*rates, 599.9)] == [*rates.values(), 0.004]
    assert method.lr_at(step(375) - 1) == 0.12
    fine = step(600)
    assert [method.lr_at(fine + n) for n in (0, 25 * 97, 50 * 97)] == pytest.approx([0.01, 0.005, 0.0])
    assert [method.stage_at(n).name for n in (0, stage_2 - 1, stage_2, fine - 1, fine)] == [
        *("supervised", "supervised", "D2", "D2", "fine-tuning")
    ]
    assert [method.stage_at(n).cutout for n in (0, stage_2, fine)] == [True, False, True]
    assert method.stage_at(0).batches(4000, 46_000) == (40, 0)
    assert method.stage_at(stage_2).batches(4000, 46_000) == (128, 384)
    assert method.stage_at(fine).batches(4000, 46_000) == (41, 471)  # 512 x 4000 / 50000 = 40.96


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learns_labeled", [False, True])
@pytest.mark.parametrize(("labeled", "unlabeled"), [(128, 384), (13, 37), (4, 5)])
def test_fact_11_the_table_does_not_depend_on_the_number_of_ranks(
    kind: str, learns_labeled: bool, labeled: int, unlabeled: int
):
    method = tiny(
        method__class_loss_type=kind,
        method__update_labeled=learns_labeled,
        optim__labeled_batch=labeled,
        optim__unlabeled_batch=unlabeled,
    )
    batch, logits = batch_of(labeled, unlabeled)
    if learns_labeled:
        numbers = torch.cat([unlabeled + torch.arange(labeled), torch.arange(unlabeled)])
        everybodys = torch.cat([torch.arange(unlabeled), unlabeled + torch.arange(labeled)])
        batch = replace(batch, learned_logits=method.targets(batch)[:labeled], rows=StepRows(everybodys, numbers, 4))
    tables = [
        table
        for world in (1, 2, 4)
        for table in learned_by(
            method,
            [share_of(batch, logits, rank, world) for rank in range(world)],
            lambda: method.build_state(DataSizes(labeled, unlabeled, 3)),
        )
    ]
    assert len(tables) == 7
    assert (tables[0].versions == 4).all()
    for table in tables[1:]:
        assert torch.equal(table.logits, tables[0].logits)
        assert torch.equal(table.versions, tables[0].versions)
    assert torch.allclose(tables[0].logits[:unlabeled].sum(1), batch.pseudo_logits.sum(1), atol=1e-5)
    assert not torch.equal(tables[0].logits[:unlabeled], batch.pseudo_logits)


def test_fact_8_labels_of_labelled_images_never_move():
    method = tiny()
    batch, logits = batch_of(4, 12)
    assert method.targets(batch)[:4].tolist() == [[10, 0, 0], [0, 10, 0], [0, 0, 10], [10, 0, 0]]
    table = method.build_state(DataSizes(4, 12, 3))
    assert len(table.logits) == 12 and not table.learns_labeled  # there is no row that could move
    method.update(table, batch, {"logits": logits}, {}, Group())
    assert (table.versions == 4).all()
    later = replace(batch, pseudo_logits=table.read(torch.arange(12)))
    assert torch.equal(method.targets(later)[:4], method.targets(batch)[:4])
    # So only the unlabelled rows move the loss: 12 of its 16 parts are others than before.
    parts, moved = (class_loss(logits, method.targets(each), "kl_pred_to_pseudo") for each in (batch, later))
    assert torch.equal(parts[:4], moved[:4]) and bool((parts[4:] > moved[4:]).all())  # labels come nearer


def test_gradients_flow_through_both_factors_of_the_prediction():
    # Detaching either p^ or log p^ of Eq. 2 would give another gradient than Eq. 5.
    method = tiny()
    batch, logits = batch_of(0, 12)
    student = logits.double().requires_grad_()
    terms = method.terms(student, replace(batch, pseudo_logits=batch.pseudo_logits.double()))
    sum(method.loss_weights[name] * term.total for name, term in terms.items()).backward()
    log_p, log_q = logits.double().log_softmax(1), batch.pseudo_logits.double().log_softmax(1)
    loss = (ALPHA * log_p.exp() * (log_p - log_q) - BETA * log_p.exp() * log_p).sum(1, keepdim=True)
    eq_5 = ((ALPHA - BETA) * log_p - ALPHA * log_q - loss) * log_p.exp()
    torch.testing.assert_close(student.grad, eq_5)
