"""Joining images and labels: what is remembered, what is new, and what of it counts as changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.families.classification.assemble import LogitStats, assemble
from raydet.families.classification.batch import ClassBatch
from raydet.families.classification.label_table import NEVER, LabelTable
from raydet.families.classification.loader import StepImages
from raydet.families.classification.method import ClassificationMethod
from raydet.records import PseudoLogits, TeacherRef
from raydet.registry import build_method
from raydet.window import Window
from tests.helpers import tiny_classes

ROWS = [4, 0, 2]  # of the unlabelled images here, in slot order


def method(**changes: Any) -> ClassificationMethod:
    """R2-D2; labels of version 4 up to step 10, then of version 10."""
    found = build_method(tiny_classes(Path("unused"), **changes))
    assert isinstance(found, ClassificationMethod)
    return found


def images(rank: int = 0) -> StepImages:
    """One of two ranks: two labelled images and three unlabelled ones of four and six."""
    labeled, unlabeled = np.array([1, 0, 1, 3]), np.array([*ROWS, 1, 5, 3])
    own, others = slice(2 * rank, 2 * rank + 2), slice(3 * rank, 3 * rank + 3)
    return StepImages(
        ids=[f"l{row}" for row in labeled[own]] + [f"u{row}" for row in unlabeled[others]],
        pixels=torch.zeros(5, 3, 8, 8, dtype=torch.uint8),
        classes=torch.tensor([2, 0]),
        labeled_rows=labeled[own],
        unlabeled_rows=unlabeled[others],
        labeled_slots=range(own.start, own.stop),
        unlabeled_slots=range(others.start, others.stop),
        all_labeled_rows=labeled,
        all_unlabeled_rows=unlabeled,
    )


def label(row: int, *logits: float, version: int = 4) -> PseudoLogits:
    return PseudoLogits(f"u{row}", TeacherRef(version, "digest"), torch.tensor(logits))


def assembled(
    step: int,
    labels: list[PseudoLogits],
    memory: LabelTable | None,
    *,
    rank: int = 0,
    **changes: Any,
) -> tuple[ClassBatch, LogitStats]:
    version = method(**changes).schedule().version_for(step)
    return assemble(step, images(rank), labels, memory, version=version, num_classes=3)


def table(*rows: tuple[int, list[float], int], num_labeled: int = 0) -> LabelTable:
    """A table of six unlabelled images with these rows: number, logits, version."""
    found = LabelTable(6, 3, num_labeled=num_labeled)
    for row, logits, version in rows:
        found.write(torch.tensor([row]), torch.tensor([logits]), version)
    return found


def test_images_without_a_new_label_have_the_remembered_one():
    memory = table((4, [1.0, 0, 0], 4), (2, [0, 0, 5.0], 4))
    batch, stats = assembled(6, [label(0, 0.0, 3.0, 0.0)], memory)
    assert batch.pseudo_logits.tolist() == [[1, 0, 0], [0, 3, 0], [0, 0, 5]]
    assert (batch.num_labeled, batch.num_unlabeled, batch.step) == (2, 3, 6)
    assert batch.image_ids == ["l1", "l0", "u4", "u0", "u2"]
    assert batch.learned_logits is None
    assert (stats.repredicted, stats.had_a_label, stats.changed) == (1, 0, 0)  # the first label changes nothing
    assert stats.ages == [2]  # 6 - 4
    assert memory.versions.tolist() == [NEVER, NEVER, 4, NEVER, 4, NEVER]  # assembling only reads


def test_a_new_label_replaces_the_remembered_one_and_is_counted_where_its_class_differs():
    memory = table((4, [1.0, 0, 0], 4), (0, [1.0, 0, 0], 4), (2, [0, 0, 5.0], 10))
    # u4: class 0 -> 1; u0: class 0 -> 0; u2 was predicted anew before, and asks for nothing.
    labels = [label(4, 0.0, 9.0, 0.0, version=10), label(0, 2.0, 0.0, 1.0, version=10)]
    batch, stats = assembled(11, labels, memory)
    assert batch.pseudo_logits.tolist() == [[0, 9, 0], [2, 0, 1], [0, 0, 5]]
    assert (stats.repredicted, stats.had_a_label, stats.changed) == (2, 2, 1)
    assert stats.ages == [1, 1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_names_the_rows_of_all_ranks_and_the_places_of_its_own(rank: int):
    batch, _ = assembled(6, [], table(), rank=rank)
    assert batch.rows is not None
    assert batch.rows.rows.tolist() == [4, 0, 2, 1, 5, 3]
    assert batch.rows.own.tolist() == [[0, 1, 2], [3, 4, 5]][rank]
    assert batch.rows.version == 4
    later, _ = assembled(10, [], table(), rank=rank)
    assert later.rows is not None and later.rows.version == 10


@pytest.mark.parametrize("rank", [0, 1])
def test_labels_of_labelled_images_come_first_where_they_are_learned(rank: int):
    memory = table((6 + 1, [0.0, 4.0, 6.0], 4), num_labeled=4)  # l1 has been learned before
    batch, _ = assembled(6, [], memory, rank=rank, method__update_labeled=True)
    assert batch.rows is not None and batch.learned_logits is not None
    assert batch.rows.rows.tolist() == [4, 0, 2, 1, 5, 3, 7, 6, 7, 9]
    # own views: two labelled ones, then three unlabelled ones
    assert batch.rows.own.tolist() == [[6, 7, 0, 1, 2], [8, 9, 3, 4, 5]][rank]
    assert batch.learned_logits[0].tolist() == [0, 4, 6]
    assert batch.learned_logits[1].isnan().all()  # l0 and l3 have not been learned yet


def test_without_a_memory_every_image_has_a_new_label():
    labels = [label(row, float(row), 0.0, 0.0) for row in ROWS]
    batch, stats = assembled(6, labels, None, method={"name": "mean_teacher"})
    assert batch.pseudo_logits[:, 0].tolist() == [4, 0, 2]
    assert batch.rows is None
    assert (stats.repredicted, stats.had_a_label) == (3, 0)


def test_a_burn_in_step_has_labelled_images_only():
    own = images()
    own = StepImages(
        own.ids[:2], own.pixels[:2], own.classes, own.labeled_rows, own.unlabeled_rows[:0], own.labeled_slots,
        range(0), own.all_labeled_rows, own.all_unlabeled_rows[:0],
    )  # fmt: skip
    batch, stats = assemble(2, own, [], table(), version=None, num_classes=3)
    assert (batch.num_labeled, batch.num_unlabeled, batch.rows) == (2, 0, None)
    assert batch.pseudo_logits.shape == (0, 3)
    window = Window()
    stats.observe({"logits": torch.zeros(2, 3)})
    stats.add_to(window)
    assert (window.sums["labeled"], window.sums["images"]) == (2, 0)


def test_passes_of_a_step_keep_labels_with_their_images():
    memory = table(*((row, [float(row), 0.0, 0.0], 4) for row in [*ROWS, 6 + 0, 6 + 1]), num_labeled=4)
    batch, _ = assembled(6, [], memory, method__update_labeled=True)
    first, second = batch.split(2)
    assert [part.image_ids for part in (first, second)] == [["l1", "u4"], ["l0", "u0", "u2"]]
    assert [part.classes.tolist() for part in (first, second)] == [[2], [0]]
    assert [part.pseudo_logits[:, 0].tolist() for part in (first, second)] == [[4], [0, 2]]
    assert [part.learned_logits[:, 0].tolist() for part in (first, second)] == [[7], [6]]
    assert batch.split(1) == [batch]


def test_figures_are_of_unlabelled_images_alone():
    stats = LogitStats(1, torch.tensor([[0.0, 0.0], [20.0, -20.0]]), [3, 5], repredicted=2)
    stats.observe({"logits": torch.tensor([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]])})
    window = Window()
    stats.add_to(window)
    assert window.sums["pseudo/confidence"] == pytest.approx(1.5)  # 1/2 + 1
    assert window.sums["pseudo/entropy"] == pytest.approx(0.693147, abs=1e-6)  # ln 2 + 0
    assert window.sums["student/logit_sum"] == pytest.approx(10.0)  # 1 + 2 + 3 + 4; the labelled 18 is left out
    assert window.sums["student/logit_sum_squared"] == pytest.approx(58.0)  # 3^2 + 7^2
    assert (window.sums["age"], window.sums["aged"], window.highest["age_max"]) == (8, 2, 5)
    assert window.per_class == {0: 2}
