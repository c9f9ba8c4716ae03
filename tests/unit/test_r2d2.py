"""R2-D2: what each switch changes, what each stage minimises, what a user is told."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raydet.contract import DataSizes
from raydet.errors import ConfigError
from raydet.families.classification.batch import ClassBatch, StepRows
from raydet.families.classification.config import ClassificationConfig
from raydet.families.classification.label_table import NEVER, LabelTable
from raydet.families.classification.methods.r2d2 import R2D2, class_loss, entropy
from raydet.group import Group
from raydet.train import loop
from raydet.train.launch import launch
from tests.helpers import tiny_classes
from tests.r2d2_batches import batch_of, cifar, tiny


def test_without_repetition_the_run_ends_where_it_would_begin():
    method = cifar(method__repeat_stage2=False)
    assert method.run.length == 300 * 100 + 300 * 119 + 50 * 97
    assert list(method.repredictions) == []
    assert method.schedule().boundaries == (30_000,)
    assert method.stage_ends == (30_000, 65_700, 65_700)
    assert method.lr_at(65_699) == 0.12
    assert method.lr_at(65_700) == 0.01 and method.stage_at(65_700).name == "fine-tuning"


def test_reprediction_and_the_falling_rate_are_switched_off_apart():
    still = cifar(method__reprediction_enabled=False)
    assert still.schedule().boundaries == (30_000,)
    assert still.lr_at(30_000 + 375 * 119) == 0.08
    level = cifar(method__reduce_lr_enabled=False)
    assert len(level.repredictions) == 4
    assert {level.lr_at(30_000 + epoch * 119) for epoch in (0, 375, 450, 525, 599)} == {0.12}


def test_fine_tuning_can_be_left_out_or_take_new_predictions():
    none = cifar(method__finetune_enabled=False)
    assert none.run.length == none.stage2_end == 101_400  # 30000 + 600 x 119
    assert len(none.repredictions) == 4
    anew = cifar(method__finetune_label_source="reprediction")
    assert anew.schedule().boundaries[-2:] == (30_000 + 525 * 119, 101_400)
    assert anew.schedule().version_for(101_400) == 101_400
    neither = cifar(method__finetune_label_source="reprediction", method__finetune_enabled=False)
    assert neither.schedule() == none.schedule()


def test_labels_that_are_asked_for_beyond_the_end_are_of_the_last_stage():
    # Lookahead asks for steps beyond the end; without fine-tuning no pooled batch of 512 may be meant there.
    for changes in ({}, {"method__repeat_stage2": False}):
        none = cifar(method__finetune_enabled=False, **changes)
        length = none.run.length
        assert none.stage_at(length - 1) == none.stage_at(length) == none.stage_at(length + 2)
        assert none.stage_at(length).name == "D2" and not none.stage_at(length).is_pooled


def test_settings_of_a_stage_that_is_left_out_are_held_against_no_run():
    small = {"method__finetune_batch": 2, "optim__accumulate": 4}
    with pytest.raises(ConfigError, match="twice as many for fine-tuning"):
        cifar(**small)
    assert cifar(**small, method__finetune_enabled=False).run.length > 0
    # 30,000 + 35,700 + 4,850 make the length where stage 2 is not repeated, whatever optim.steps says
    assert cifar(method__repeat_stage2=False, optim__steps=100).run.length == 70_550


def test_more_intervals_than_rates_stay_at_the_last_rate():
    method = tiny(optim__steps=30, method__repeat_lrs=[0.05, 0.02])  # intervals begin at 10, 13, 16, 19, 22, 25
    assert [method.lr_at(step) for step in (9, 10, 12, 13, 16, 25)] == [0.05, 0.05, 0.05, 0.02, 0.02, 0.02]


def test_a_run_says_how_far_a_label_moves():
    def first_note(**changes: object) -> str:
        return cifar(**changes).notes(DataSizes(4000, 46_000, 10))[0]

    assert first_note() == "label step: 0.78125 = 4000 x 0.1 / (128 + 384 images)"
    assert first_note(method__pseudo_grad_reduction="sum") == "label step: 400 = 4000 x 0.1"
    assert first_note(method__label_step_override=0.5) == "label step: 0.5 = label_step_override"
    assert cifar().notes(DataSizes(4000, 46_000, 10))[1:] == [
        "label table: 46,000 x 10 logits, 2.2 MB in every rank",  # 46000 x (40 + 8) bytes
        "supervised until 30000: 40 images, learning rate 0.05 and falling",
        "D2 until 101400: 128 + 384 images, learning rate 0.12, from 65700 on 0.12, 0.08, 0.04, 0.004; "
        "repredictions at 65700, 74625, 83550, 92475",
        "fine-tuning until 106250: 512 images, learning rate 0.01 and falling",
    ]
    assert (
        cifar(method__update_labeled=True).notes(DataSizes(4000, 46_000, 10))[1].startswith("label table: 50,000 x 10")
    )
    assert (
        cifar(method__repeat_stage2=False)
        .notes(DataSizes(4000, 46_000, 10))[3]
        .endswith("0.12; repredictions at no step")
    )


def test_a_rate_that_rises_at_a_reprediction_is_noted():
    sizes = DataSizes(4000, 46_000, 10)
    assert cifar(optim__lr=0.05).notes(sizes)[-1] == (
        "warning: method.repeat_lrs=[0.12, 0.08, 0.04, 0.004] goes above optim.lr=0.05: the learning rate rises at a "
        "reprediction, where the paper lowers it"
    )
    for changes in ({}, {"method__reduce_lr_enabled": False}, {"method__repeat_stage2": False}):
        lr = 0.05 if changes else 0.12
        assert not any(note.startswith("warning") for note in cifar(optim__lr=lr, **changes).notes(sizes))


def test_labels_of_labelled_images_are_learned_where_that_is_asked_for():
    method = tiny(method__update_labeled=True)
    batch, logits = batch_of(4, 12)
    numbers = torch.cat([12 + torch.arange(4), torch.arange(12)])
    learned = torch.tensor([[torch.nan] * 3, [1.0, 2.0, 3.0], [torch.nan] * 3, [torch.nan] * 3])
    batch = replace(batch, learned_logits=learned, rows=StepRows(torch.arange(16), numbers, 4))
    table = method.build_state(DataSizes(4, 12, 3))
    method.update(table, batch, {"logits": logits}, {}, Group())
    first = torch.tensor([[10.0, 0, 0], [1, 2, 3], [0, 0, 10], [10, 0, 0]])  # classes 0 1 2 0; one was learned before
    expected = first - 0.78125 * (first.softmax(1) - logits[:4].softmax(1))
    torch.testing.assert_close(table.logits[12:], expected)
    torch.testing.assert_close(table.logits[12:].sum(1), torch.tensor([10.0, 6, 10, 10]))


def terms_of(method: R2D2, batch: ClassBatch, logits: Tensor) -> dict[str, tuple[float, int]]:
    """Return total and count of every term that is not absent."""
    found = method.terms(logits, batch)
    assert found.keys() == method.loss_weights.keys()
    return {name: (float(term.total), int(term.count)) for name, term in found.items() if int(term.count)}


def test_the_loss_of_stage_2_is_a_mean_over_labelled_and_unlabelled_images():
    method = tiny()
    batch, logits = batch_of(4, 12)
    label = torch.cat([10.0 * torch.eye(3)[batch.classes], batch.pseudo_logits]).double()
    found = terms_of(method, batch, logits)
    assert found == {
        "d2/class": (pytest.approx(float(class_loss(logits.double(), label, "kl_pred_to_pseudo").sum()), rel=1e-5), 16),
        "d2/entropy": (pytest.approx(float(entropy(logits.double()).sum()), rel=1e-5), 16),
    }
    assert (method.loss_weights["d2/class"], method.loss_weights["d2/entropy"]) == (0.1, 0.03)
    assert set(method.loss_weights.values()) == {1.0, 0.1, 0.03}


def test_each_stage_has_its_own_loss():
    method = tiny()
    batch, logits = batch_of(4, 12)
    burn_in = replace(batch, step=3, pseudo_logits=batch.pseudo_logits[:0], rows=None)
    truth = torch.nn.functional.cross_entropy(logits[:4], batch.classes, reduction="sum")
    assert terms_of(method, burn_in, logits[:4]) == {"sup/ce": (pytest.approx(float(truth)), 4)}
    hard = torch.cat([batch.classes, batch.pseudo_logits.argmax(1)])
    whole = torch.nn.functional.cross_entropy(logits, hard, reduction="sum")
    assert terms_of(method, replace(batch, step=16), logits) == {"finetune/ce": (pytest.approx(float(whole)), 16)}
    table = LabelTable(12, 3)
    method.update(table, replace(batch, step=16), {"logits": logits}, {}, Group())
    assert (table.versions == NEVER).all()  # fine-tuning leaves labels alone
    method.update(table, burn_in, {"logits": logits[:4]}, {}, Group())
    assert (table.versions == NEVER).all()


def test_fine_tuning_takes_the_truth_of_labelled_images_even_where_their_labels_were_learned():
    method = tiny(method__update_labeled=True)
    batch, logits = batch_of(4, 12, step=17)
    turned = replace(batch, learned_logits=10.0 * torch.eye(3)[(batch.classes + 1) % 3])
    assert terms_of(method, turned, logits) == terms_of(method, batch, logits)


def test_labelled_images_of_stage_2_can_have_cross_entropy():
    method = tiny(method__labeled_loss="ce")
    batch, logits = batch_of(4, 12)
    found = terms_of(method, batch, logits)
    truth = torch.nn.functional.cross_entropy(logits[:4], batch.classes, reduction="sum")
    own = class_loss(logits[4:], batch.pseudo_logits, "kl_pred_to_pseudo").sum()
    assert found["d2/ce"] == (pytest.approx(float(truth)), 16)  # all parts are means over the same 16 images
    assert found["d2/class"] == (pytest.approx(float(own), rel=1e-5), 16)
    assert found["d2/entropy"] == (pytest.approx(float(entropy(logits[4:]).sum()), rel=1e-5), 16)
    assert set(found) == {"d2/ce", "d2/class", "d2/entropy"}
    assert method.loss_weights["d2/ce"] == 1.0


def test_the_stages_of_a_run_are_whole_and_in_order():
    for changes in ({}, {"method__repeat_stage2": False}, {"method__finetune_enabled": False}):
        method = tiny(**changes)
        assert isinstance(method.run, ClassificationConfig)
        names = [method.stage_at(step).name for step in range(method.run.length)]
        order = [name for name, after in pairwise([*names, ""]) if name != after]
        assert order == ["supervised", "D2", "fine-tuning"][: 2 if "method__finetune_enabled" in changes else 3]
        assert all(math.isfinite(method.lr_at(step)) and method.lr_at(step) > 0 for step in range(method.run.length))


def test_an_interval_shorter_than_an_epoch_is_noted():
    notes = cifar(method__reprediction_interval_steps=118).notes(DataSizes(4000, 46_000, 10))
    assert notes[-1] == (
        "warning: method.reprediction_interval_steps=118 is less than the 119 steps of an epoch: some labels will miss "
        "a reprediction"  # floor(46000 / 384) = 119
    )
    assert (
        not cifar(method__reprediction_interval_steps=119).notes(DataSizes(4000, 46_000, 10))[-1].startswith("warning")
    )


def gathered(config: ClassificationConfig, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Train, and return for each step how many parameters the optimiser has gathered something about before it."""
    found, real = [], loop.set_lrs

    def watched(optimizer: torch.optim.Optimizer, rates: dict[str, float | None]) -> None:
        found.append(len(optimizer.state))
        real(optimizer, rates)

    monkeypatch.setattr(loop, "set_lrs", watched)
    launch(config)
    return found


def test_each_stage_starts_with_an_optimiser_of_its_own_and_repredictions_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = gathered(tiny_classes(tmp_path / "run"), monkeypatch)
    # stages start at 0, 4 and 16; repredictions are at 10 and 13
    assert [step for step, number in enumerate(found) if number == 0] == [0, 4, 16]


@pytest.mark.parametrize(("name", "fresh"), [("pseudo_label", [0, 4]), ("supervised_classifier", [0])])
def test_the_methods_beside_it_start_fresh_where_pseudo_labels_come_in(
    name: str, fresh: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = gathered(tiny_classes(tmp_path / "run", method={"name": name, "burn_in_steps": 4}), monkeypatch)
    assert [step for step, number in enumerate(found) if number == 0] == fresh
