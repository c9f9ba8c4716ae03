from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.families.detection.gates import after_nms, by_quality, by_score
from raydet.records import Candidates, PseudoBoxes, Target, TeacherRef

A, B = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]  # IoU 90 / 100 = .9


def candidates(
    boxes: list[list[float]], scores: list[float], quality: list[float], classes: list[int] | None = None
) -> Candidates:
    n = len(boxes)
    return Candidates(
        torch.tensor(boxes).reshape(n, 4),
        torch.tensor(classes or [0] * n, dtype=torch.int64),
        torch.tensor(scores),
        torch.tensor(quality),
        0.05,
    )


def test_the_quality_gate_must_come_before_nms():
    both = candidates([A, B], [0.90, 0.85], [0.20, 0.80])
    gate_then_nms = after_nms(by_quality(both, 0.4), 0.5, 100)
    assert gate_then_nms.boxes.tolist() == [B]
    nms_then_gate = by_quality(after_nms(both, 0.5, 100), 0.4)  # A suppresses B, then falls itself
    assert len(nms_then_gate) == 0


def test_gate_order_does_not_matter_where_the_best_box_is_well_placed():
    both = candidates([A, B], [0.90, 0.85], [0.41, 0.80])
    assert after_nms(by_quality(both, 0.4), 0.5, 100).boxes.tolist() == [A]
    assert by_quality(after_nms(both, 0.5, 100), 0.4).boxes.tolist() == [A]


def test_thresholds_are_strict():
    two = candidates([A, B], [0.5, 0.75], [0.5, 0.25])
    assert by_score(two, 0.5).scores.tolist() == [0.75]
    assert by_quality(two, 0.25).quality.tolist() == [0.5]


def test_nms_keeps_overlapping_boxes_of_other_classes():
    two = candidates([A, B], [0.9, 0.8], [1.0, 1.0], classes=[0, 1])
    assert after_nms(two, 0.5, 100).classes.tolist() == [0, 1]


def test_nms_returns_the_best_first_and_no_more_than_asked_for():
    far = [50.0, 50.0, 60.0, 60.0]
    three = candidates([A, far, [80.0, 0.0, 90.0, 5.0]], [0.3, 0.9, 0.6], [1.0] * 3)
    assert after_nms(three, 0.5, 2).scores.tolist() == torch.tensor([0.9, 0.6]).tolist()


def test_stored_labels_pass_the_same_gates():
    label = PseudoBoxes(
        "7",
        TeacherRef(3, "d"),
        torch.tensor([A, B]),
        torch.tensor([0, 0]),
        torch.tensor([0.9, 0.8]),
        torch.ones(2),
        0.1,
    )
    kept = by_score(after_nms(by_quality(label, 0.5), 0.5, 100), 0.7)
    assert isinstance(kept, PseudoBoxes)
    assert (kept.image_id, kept.teacher.version, len(kept)) == ("7", 3, 1)


def test_targets_pass_the_same_gates_and_keep_their_columns_together():
    far = [50.0, 50.0, 60.0, 60.0]
    target = Target(
        torch.tensor([B, far, A]),
        torch.tensor([0, 2, 0]),
        torch.tensor([0.75, 0.5, 0.875]),
        torch.tensor([0.25, 1.0, 0.5]),
    )
    placed = by_quality(target, 0.25)
    assert isinstance(placed, Target)
    assert (placed.boxes.tolist(), placed.classes.tolist()) == ([far, A], [2, 0])
    assert (placed.scores.tolist(), placed.quality.tolist()) == ([0.5, 0.875], [1.0, 0.5])
    assert by_score(target, 0.75).boxes.tolist() == [A]
    assert after_nms(target, 0.5, 100).scores.tolist() == [0.875, 0.5]  # A suppresses B; best first


def test_no_gate_below_one_drops_ground_truth():
    truth = Target.truth(torch.tensor([A, B]), torch.tensor([3, 4]))
    assert len(by_quality(by_score(truth, 0.999), 0.999)) == 2
    assert len(by_score(truth, 1.0)) == 0  # strict


def test_nothing_passes_through_all_gates_as_nothing():
    nothing = candidates([], [], [])
    assert len(by_score(after_nms(by_quality(nothing, 0.4), 0.5, 100), 0.7)) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8), st.floats(0.05, 0.95))
@settings()  # a busy machine is no failure
def test_a_score_threshold_commutes_with_nms(rows: list[tuple[float, float]], threshold: float):
    boxes = [[x * 10, 0.0, x * 10 + 10, 10.0] for x, _ in rows]
    found = candidates(boxes, [s for _, s in rows], [1.0] * len(rows))
    before = after_nms(by_score(found, threshold), 0.5, 100)
    after = by_score(after_nms(found, 0.5, 100), threshold)
    assert torch.equal(before.boxes, after.boxes)
