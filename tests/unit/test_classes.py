from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.families.classification.accuracy import count, result_of

NAMES = ("cat", "dog", "owl")


def labels(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_accuracy_is_the_share_of_images_whose_best_class_is_theirs():
    logits = torch.tensor([[3.0, 1, 2], [0, 5, 1], [9, 0, 0], [0, 0, 1]])
    result = result_of([count(logits, labels(0, 1, 1, 2))], NAMES)
    assert (result.accuracy, result.error, result.images) == (0.75, 0.25, 4)
    assert result.score == 0.75
    assert result.top5_error is None  # of three classes every one is among the five best
    assert result.as_json()["per_class"] == {
        "cat": {"accuracy": 1.0, "images": 1},
        "dog": {"accuracy": 0.5, "images": 2},
        "owl": {"accuracy": 1.0, "images": 1},
    }


def test_top_5_counts_images_with_at_most_four_better_classes():
    logits = torch.arange(7.0).repeat(4, 1)  # class 6 is the best, class 2 the fifth, class 1 the sixth
    result = result_of([count(logits, labels(6, 2, 1, 0))], [f"c{n}" for n in range(7)])
    assert result.top5_error == 0.5
    assert result.accuracy == 0.25


def test_images_without_a_label_do_not_count():
    logits = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    result = result_of([count(logits, labels(0, -1, 0))], NAMES)
    assert (result.images, result.accuracy) == (2, 0.5)
    assert result.per_class["dog"].accuracy is None


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_parts_add_up_to_the_whole(seed: int, parts: int):
    rng = torch.Generator().manual_seed(seed)
    logits, truth = torch.randn(23, 8, generator=rng), torch.randint(-1, 8, (23,), generator=rng).numpy()
    names = [f"c{n}" for n in range(8)]
    counts = [count(logits[part::parts], truth[part::parts]) for part in range(parts)]
    assert result_of(counts, names).as_json() == result_of([count(logits, truth)], names).as_json()


def test_no_images_give_no_figure():
    result = result_of([count(torch.zeros(0, 6), labels())], [f"c{n}" for n in range(6)])
    assert (result.accuracy, result.error, result.top5_error, result.images) == (None, None, None, 0)
    assert "accuracy     -" in result.as_text()


def test_a_diverged_model_is_named_as_such():
    with pytest.raises(ValueError, match="logits contain NaN or infinity"):
        count(torch.tensor([[float("nan"), 0.0]]), labels(0))


def test_the_table_for_people_is_in_percent():
    logits = torch.tensor([[3.0, 1, 2], [0, 5, 1], [9, 0, 0], [0, 0, 1]])
    assert result_of([count(logits, labels(0, 1, 1, 2))], NAMES).as_text().splitlines() == [
        "4 images",
        "accuracy 75.00  error 25.00",
        "  cat  accuracy 100.00  of 1",
        "  dog  accuracy 50.00  of 2",
        "  owl  accuracy 100.00  of 1",
    ]
