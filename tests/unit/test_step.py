"""Losses as sums and counts, and what must and must not change a run. The ranks' part is in parity/test_ranks.py."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from raydet.contract import LossTerm, Outputs
from raydet.errors import NonFiniteLossError
from raydet.families.detection.batch import StudentBatch, ViewedImage
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.group import Group
from raydet.metrics import read_metrics
from raydet.records import Target
from raydet.registry import build_method
from raydet.settings import resolve
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from raydet.train.state import load_optimizer
from raydet.train.step import StepLosses, StepModule, backward
from raydet.vision.geometry import View
from tests.helpers import TINY

CPU = torch.device("cpu")
NO_VOTES = torch.zeros(1)
UT = {"name": "unbiased_teacher", "burn_in_steps": 2, "ema_keep_rate": 0.5, "score_threshold": 0.16}


def config_of(run_dir: Path, method: dict[str, object], **changes: object) -> DetectionConfig:
    dotted = {"run.dir": str(run_dir), "optim.steps": 4, **{k.replace("__", "."): v for k, v in changes.items()}}
    return resolve({**TINY, "method": method}, dotted)


ROLES = {"s": "labeled-strong", "w": "labeled-weak", "u": "unlabeled"}


def view(name: str, fill: int = 7) -> ViewedImage:
    pixels = torch.full((3, 64, 96), fill, dtype=torch.uint8)
    return ViewedImage(name, pixels, View.identity(64, 96), Target.empty(), ROLES[name[0]], slot=int(name[1:]))


def batch(labeled: int, unlabeled: int) -> StudentBatch:
    """Views named s0 s1 ... w0 w1 ... u0 u1 ..., the box of each view as wide as its position."""
    names = [f"s{i}" for i in range(labeled)] + [f"w{i}" for i in range(labeled)] + [f"u{i}" for i in range(unlabeled)]
    targets = [Target.truth(torch.tensor([[0.0, 0, i + 8.0, 20]]), torch.tensor([0])) for i in range(len(names))]
    return StudentBatch(5, tuple(map(view, names)), tuple(targets), num_labeled=2 * labeled)


# how losses are put together


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # sup .52 + 4 * (.03 + .05) + 1 * (.02 + .06) + 4 * .01 = .52 + .32 + .08 + .04
        ({"name": "il_net", "burn_in_steps": 2}, 0.96),
        # sup .50 + 4 * (.03 + .05)
        ({"name": "unbiased_teacher", "burn_in_steps": 2}, 0.82),
        ({"name": "il_net", "burn_in_steps": 2, "unsup_reg_weight": 0.0, "iou_branch_enabled": False}, 0.82),
        ({"name": "supervised", "burn_in_steps": 2}, 0.50),
    ],
)
def test_fact_10_the_loss_is_the_papers_sum(method: dict[str, object], expected: float, tmp_path: Path):
    raw = {
        "sup": {"rpn_cls": 0.1, "rpn_reg": 0.05, "roi_cls": 0.2, "roi_reg": 0.15, "iou": 0.02, "iou_positive": 0.5},
        "unsup": {"rpn_cls": 0.03, "rpn_reg": 0.02, "roi_cls": 0.05, "roi_reg": 0.06, "iou": 0.01, "iou_positive": 0.5},
    }
    weights = build_method(config_of(tmp_path, method)).loss_weights
    total = sum(weight * raw[name.split("/")[0]][name.split("/")[1]] for name, weight in weights.items())
    assert total == pytest.approx(expected, abs=1e-9)


class Given(torch.nn.Module):
    """Stands for the student: its loss sums are its parameters times two, counts are given per call."""

    def __init__(self, counts: list[list[float]]) -> None:
        super().__init__()
        self.sums = torch.nn.Parameter(torch.tensor([6.0, 10.0]))
        self.counts = [torch.tensor(each) for each in counts]

    def forward(self, batch: StudentBatch, teacher: None, state: None) -> tuple[Tensor, Tensor, Outputs]:
        totals, counts = self.sums * 2, self.counts.pop(0)
        terms = {
            "sup/a": LossTerm(totals[0], counts[0], "labeled"),
            "unsup/b": LossTerm(totals[1], counts[1], "unlabeled"),
        }
        return totals, counts, Outputs(terms)


def test_each_term_is_its_sum_divided_by_its_count_and_weighted():
    module = Given([[4.0, 5.0]])
    losses = backward(module, batch(1, 1), torch.tensor([1.0, 3.0]), Group(), names=("sup/a", "unsup/b"))
    assert losses.raw.tolist() == [3.0, 4.0]  # 12 / 4, 20 / 5
    assert module.sums.grad.tolist() == pytest.approx([0.5, 1.2])  # 1 * 2 / 4, 3 * 2 / 5


def test_one_sample_is_divided_by_one():
    losses = backward(Given([[1.0, 2.0]]), batch(1, 1), torch.tensor([1.0, 1.0]), Group(), names=("sup/a", "unsup/b"))
    assert losses.raw.tolist() == [12.0, 10.0]


def test_a_term_without_samples_is_zero_and_not_nan():
    module = Given([[0.0, 5.0]])
    module.sums.data[0] = 0.0
    losses = backward(module, batch(1, 1), torch.tensor([1.0, 1.0]), Group(), names=("sup/a", "unsup/b"))
    assert losses.raw.tolist() == [0.0, 4.0]


def test_passes_are_weighted_by_their_share_of_the_images():
    # 3 labelled images in passes of 1 and 2; 2 unlabelled in passes of 1 and 1.
    module = Given([[4.0, 5.0], [8.0, 10.0]])
    names = ("sup/a", "unsup/b")
    losses = backward(module, batch(3, 2), torch.tensor([1.0, 1.0]), Group(), names=names, accumulate=2)
    # 12 / 4 * 1/3 + 12 / 8 * 2/3 = 2;  20 / 5 * 1/2 + 20 / 10 * 1/2 = 3
    assert losses.raw.tolist() == pytest.approx([2.0, 3.0])


class Counting(Given):
    """Says beside its losses how often each of two classes was seen; `group` is what its first term is about."""

    def __init__(self, counts: list[list[float]], group: str = "labeled") -> None:
        super().__init__(counts)
        self.group, self.seen = group, [torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])]

    def forward(self, batch: StudentBatch, teacher: None, state: None) -> tuple[Tensor, Tensor, Outputs]:
        totals, counts, found = super().forward(batch, teacher, state)
        terms = {**found.losses, "sup/a": dataclasses.replace(found.losses["sup/a"], group=self.group)}
        rows = torch.arange(float(len(batch.views)))
        return totals, counts, Outputs(terms, {"row": rows}, {"seen": self.seen.pop(0)})


def test_a_methods_sums_are_added_over_passes_and_rows_come_back_group_by_group():
    names, weights = ("sup/a", "unsup/b"), torch.tensor([1.0, 1.0])
    module = Counting([[4.0, 5.0], [8.0, 10.0]])
    losses = backward(module, batch(3, 2), weights, Group(), names=names, accumulate=2)
    assert losses.sums["seen"].tolist() == [[11.0, 22.0]]  # its shape is kept
    # passes of 2 + 1 and 4 + 1 views: first all labelled ones, then the last of each pass
    assert losses.per_view["row"].tolist() == [0, 1, 0, 1, 2, 3, 2, 4]
    assert losses.raw.tolist() == pytest.approx([2.0, 3.0])  # as without sums


def test_a_term_about_an_unknown_group_of_views_is_an_error():
    module = Counting([[4.0, 5.0]], group="labelled")
    with pytest.raises(KeyError, match="labelled"):
        backward(module, batch(1, 1), torch.tensor([1.0, 1.0]), Group(), names=("sup/a", "unsup/b"))


def test_splitting_keeps_the_two_views_of_an_image_together():
    parts = batch(3, 2).split(2)
    assert [[v.image_id for v in part.views] for part in parts] == [["s0", "w0", "u0"], ["s1", "s2", "w1", "w2", "u1"]]
    assert [part.num_labeled for part in parts] == [2, 4]
    assert {part.step for part in parts} == {5}
    whole = batch(3, 2)
    box_of = {v.image_id: float(t.boxes[0, 2]) for v, t in zip(whole.views, whole.targets, strict=True)}
    for part in parts:
        for v, t in zip(part.views, part.targets, strict=True):
            assert float(t.boxes[0, 2]) == box_of[v.image_id]  # each view keeps its own target
    assert whole.split(1) == [whole]


def test_a_batch_is_split_without_unlabelled_images_too():
    assert [len(part.views) for part in batch(4, 0).split(4)] == [2, 2, 2, 2]


def test_a_loss_that_is_not_finite_names_term_step_and_images():
    raw = torch.tensor([float("nan"), 1.0, float("inf")])
    losses = StepLosses(("sup/rpn_cls", "unsup/roi_cls", "sup/iou"), raw, NO_VOTES)
    with pytest.raises(NonFiniteLossError) as caught:
        losses.check_finite(None, batch(1, 1), Group())
    assert "step 5: sup/rpn_cls, sup/iou not finite" in str(caught.value)
    assert "[['s0', 'u0', 'w0']]" in str(caught.value)
    StepLosses(("sup/rpn_cls",), torch.tensor([1.0]), NO_VOTES).check_finite(torch.tensor(2.0), batch(1, 1), Group())


def test_a_student_gone_wrong_ends_the_step_with_that_error(tmp_path: Path):
    config = config_of(tmp_path, {**UT})
    method = build_method(config)
    student = method.build_model(2).train()
    with torch.no_grad():
        student.roi_heads.box_predictor.cls_score.bias.fill_(float("nan"))
    module = StepModule(student, method, device=CPU, dtype=None)
    weights = torch.tensor(list(method.loss_weights.values()))
    losses = backward(module, batch(1, 1), weights, Group(), names=tuple(method.loss_weights))
    with pytest.raises(NonFiniteLossError, match="step 5: sup/roi_cls, unsup/roi_cls not finite"):
        losses.check_finite(None, batch(1, 1), Group())


def test_counts_may_lie_on_the_cpu_whatever_device_the_losses_are_on():
    def losses(*_: object) -> Outputs:
        total, there = torch.zeros((), device="meta"), torch.ones((), dtype=torch.int64, device="meta")
        return Outputs({"a": LossTerm(total, torch.tensor(3)), "b": LossTerm(total, there)})

    method = SimpleNamespace(losses=losses, loss_weights={"a": 1.0, "b": 1.0})
    module = StepModule(torch.nn.Identity(), method, device=CPU, dtype=None)
    totals, counts, _ = module(batch(1, 1), None, None)
    assert (totals.device.type, counts.device.type) == ("meta", "meta")
    assert counts.shape == (2,) and counts.dtype == torch.float32


@pytest.mark.parametrize(("is_fused", "counter"), [(True, "meta"), (False, "cpu")])
def test_a_fused_optimiser_gets_its_step_counters_where_its_parameters_are(is_fused: bool, counter: str):
    student = torch.nn.Linear(2, 1, bias=False, device="meta")
    optimizer = torch.optim.AdamW(student.parameters())
    optimizer.param_groups[0]["fused"] = is_fused
    saved = {"step/weight": torch.tensor(7.0), "exp_avg/weight": torch.ones(1, 2)}
    load_optimizer(SimpleNamespace(student=student, optimizer=optimizer), saved, "a checkpoint")
    found = optimizer.state[student.weight]
    assert {name: value.device.type for name, value in found.items()} == {"step": counter, "exp_avg": "meta"}


def test_samples_of_a_view_do_not_depend_on_the_views_around_it(tmp_path: Path):
    method = build_method(config_of(tmp_path, {**UT}))
    torch.manual_seed(0)
    module = StepModule(method.build_model(2).train(), method, device=CPU, dtype=None)
    whole = batch(2, 2)
    (first, second), total = whole.split(2), module(whole, None, None)
    for i in range(2):  # sums, then counts
        assert torch.allclose(module(first, None, None)[i] + module(second, None, None)[i], total[i], rtol=1e-5)
    later = dataclasses.replace(whole, step=6)
    assert not torch.allclose(module(later, None, None)[0], total[0], rtol=1e-5)  # another step draws other samples


# what must not change a run: whole runs of four steps, compared bit for bit


def bits(run: Path) -> dict[str, Tensor]:
    checkpoint = latest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 4
    return {
        f"{role}.{name}": value for role in ("student", "teacher") for name, value in checkpoint.tensors(role).items()
    }


def pseudo_boxes(run: Path) -> float:
    return sum(line.get("pseudo/boxes_per_image", 0) for line in read_metrics(run / "metrics.jsonl"))


def equal(one: Path, other: Path) -> bool:
    mine, theirs = bits(one), bits(other)
    assert mine.keys() == theirs.keys()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def ut_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = launch(config_of(tmp_path_factory.mktemp("ut") / "run", UT)).path
    assert pseudo_boxes(run) > 0  # else nothing below would test anything
    return run


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Path]:
    def train(name: str, method: dict[str, object], **changes: object) -> Path:
        return launch(config_of(tmp_path / name, method, **changes)).path

    return train


def test_fact_12_il_net_without_its_additions_is_unbiased_teacher(ut_run: Path, trained: Callable[..., Path]):
    plain = {**UT, "name": "il_net", "unsup_reg_weight": 0.0, "iou_branch_enabled": False}
    # An irrelevant switch may say what it likes: without the branch there is nothing to filter by.
    assert equal(trained("plain", {**plain, "iou_filter_threshold": 0.99, "iou_target_threshold": 0.5}), ut_run)


def test_box_regression_on_pseudo_boxes_does_change_a_run(ut_run: Path, trained: Callable[..., Path]):
    assert not equal(trained("beta", {**UT, "name": "il_net", "iou_branch_enabled": False}), ut_run)


def test_hidden_truth_is_out_of_reach_of_training(
    ut_run: Path, trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    prepare = BOXES.prepare

    def poisoned(config, folder):  # type: ignore[no-untyped-def]
        data = prepare(config, folder)
        assert data.unlabeled is not None
        assert data.unlabeled.num_boxes == 0
        assert (folder / "hidden.arrow").is_file()
        (folder / "hidden.arrow").write_bytes(b"not a single box in here")
        annotations = list(folder.glob("generated/labeled/*/annotations.json"))
        assert annotations
        for file in annotations:
            file.write_text("{")
        return data

    monkeypatch.setattr(BOXES, "prepare", poisoned)
    assert equal(trained("poisoned", UT), ut_run)


def test_the_boxes_of_labelled_images_do_matter(
    ut_run: Path, trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    # The counterpart: were the two runs above compared by something that training does not touch, this would fail.
    prepare = BOXES.prepare

    def without_truth(config, folder):  # type: ignore[no-untyped-def]
        data = prepare(config, folder)
        shutil.copy(folder / "unlabeled.arrow", folder / "labeled.arrow")
        return data

    monkeypatch.setattr(BOXES, "prepare", without_truth)
    assert not equal(trained("without", UT), ut_run)
