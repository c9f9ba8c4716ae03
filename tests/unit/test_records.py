from __future__ import annotations

import pytest
import torch

from raydet.records import Target


def test_ground_truth_is_sure_of_every_box() -> None:
    target = Target.truth(torch.tensor([[0.0, 0, 4, 4], [1.0, 1, 3, 3]]), torch.tensor([2, 0]))
    assert target.scores.tolist() == target.quality.tolist() == [1, 1]
    assert target.scores.dtype == target.quality.dtype == torch.float32
    assert len(target) == 2 and len(Target.empty()) == 0


def test_rows_of_a_target_are_kept_by_mask_and_by_index_in_its_order() -> None:
    target = Target(
        torch.tensor([[0.0, 0, 1, 1], [0.0, 0, 2, 2], [0.0, 0, 3, 3]]),
        torch.tensor([5, 6, 7]),
        torch.tensor([0.25, 0.5, 0.75]),
        torch.tensor([1.0, 2.0, 3.0]),
    )
    ends = target.where(torch.tensor([True, False, True]))
    assert ends.boxes[:, 2].tolist() == [1, 3] and ends.classes.tolist() == [5, 7]
    assert ends.scores.tolist() == [0.25, 0.75] and ends.quality.tolist() == [1, 3]
    turned = target.where(torch.tensor([2, 0]))
    assert turned.classes.tolist() == [7, 5] and turned.quality.tolist() == [3, 1]


@pytest.mark.parametrize("short", ["boxes", "classes", "scores", "quality"])
def test_a_target_with_a_column_too_short_is_refused(short: str) -> None:
    columns = {
        "boxes": torch.zeros(2, 4),
        "classes": torch.zeros(2, dtype=torch.int64),
        "scores": torch.ones(2),
        "quality": torch.ones(2),
    }
    columns[short] = columns[short][:1]
    with pytest.raises(ValueError, match="different lengths"):
        Target(**columns)
