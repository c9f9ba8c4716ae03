"""Snapshots of a classifier's labels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raydet.families.classification.snapshot import LABELS, Sample, read_labels, read_sample, write_labels, write_sample
from raydet.labels.segment import LabelStoreError
from raydet.labels.snapshots import remove_after, steps_with


def some_labels(folder, step, classes=(1, 0)):
    write_labels(folder, step, torch.tensor([7, 2]), np.array(classes), torch.tensor([0.75, 0.5]), [0.5, 0.6875])


def sample(number, *, start=0, width=3, pseudo=None, features=None):
    logits = torch.arange(number * width, dtype=torch.float32).reshape(number, width)
    return Sample.of(torch.arange(start, start + number), logits, pseudo_logits=pseudo, features=features)


def test_labels_come_back_by_step_as_they_were_written(tmp_path):
    some_labels(tmp_path, 2000)
    some_labels(tmp_path, 100, classes=(2, 2))
    first, second = read_labels(tmp_path)
    assert (first.step, second.step) == (100, 2000)
    assert (second.rows.tolist(), second.classes.tolist()) == ([7, 2], [1, 0])
    assert (second.scores.tolist(), second.entropies.tolist()) == ([0.75, 0.5], [0.5, 0.6875])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_00000100.labels.arrow",
        "step_00002000.labels.arrow",
    ]


def test_a_sample_says_which_images_have_a_learned_label(tmp_path):
    pseudo = torch.tensor([[1.0, 2.0, 3.0], [float("nan")] * 3])
    write_sample(tmp_path, 30, sample(1), sample(2, start=5, pseudo=pseudo))
    found = read_sample(tmp_path, 30)
    assert found["labeled"].rows.tolist() == [0] and found["labeled"].logits.tolist() == [[0.0, 1.0, 2.0]]
    assert found["labeled"].has_label.tolist() == [False] and found["labeled"].features is None
    unlabeled = found["unlabeled"]
    assert unlabeled.rows.tolist() == [5, 6] and unlabeled.logits.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert unlabeled.has_label.tolist() == [True, False] and unlabeled.pseudo_logits[0].tolist() == [1.0, 2.0, 3.0]


def test_features_of_two_numbers_are_kept(tmp_path):
    write_sample(tmp_path, 3, sample(1, features=[[0.5, -1.0]]), sample(2, features=np.ones((2, 2))))
    found = read_sample(tmp_path, 3)
    assert found["labeled"].features.tolist() == [[0.5, -1.0]] and found["unlabeled"].features.shape == (2, 2)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.tuples(st.integers(0, 4), st.integers(0, 4)), width=st.integers(1, 5), data=st.data())
def test_any_sample_comes_back(tmp_path, numbers, width, data):
    labeled, unlabeled = numbers
    known = data.draw(st.lists(st.booleans(), min_size=unlabeled, max_size=unlabeled))
    pseudo = np.where(np.array(known, dtype=bool)[:, None], np.ones((unlabeled, width)), np.nan)
    write_sample(tmp_path, 1, sample(labeled, width=width), sample(unlabeled, width=width, pseudo=pseudo))
    found = read_sample(tmp_path, 1)
    assert (len(found["labeled"].rows), found["unlabeled"].has_label.tolist()) == (labeled, known)
    if unlabeled:
        assert found["unlabeled"].logits.shape == (unlabeled, width)


def test_a_folder_that_is_not_there_has_no_snapshots(tmp_path):
    assert list(read_labels(tmp_path / "none")) == [] and steps_with(tmp_path / "none", "sample") == []


def test_snapshots_beyond_a_step_can_be_removed(tmp_path):
    for step in (10, 20, 30):
        some_labels(tmp_path, step)
        write_sample(tmp_path, step, sample(1), sample(1))
    remove_after(tmp_path, 20)
    assert steps_with(tmp_path, "labels") == steps_with(tmp_path, "sample") == [10, 20]


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-40])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("hello")
    else:
        columns = {"row": [0], "class": [-1 if how == "class" else 0], "score": [2.0 if how == "score" else 0.5]}
        schema = LABELS if how != "schema" else LABELS.set(0, pa.field("line", pa.int64(), nullable=False))
        arrays = [pa.array(v, f.type) for v, f in zip([*columns.values(), [0.1]], LABELS, strict=True)]
        with pa.ipc.new_file(str(path), schema) as out:
            out.write_table(pa.Table.from_arrays(arrays, schema=schema))


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "class", "score", "schema"])
def test_a_damaged_file_is_named(tmp_path, how):
    some_labels(tmp_path, 10)
    damage(tmp_path / "step_00000010.labels.arrow", how)
    with pytest.raises(LabelStoreError, match="step_00000010.labels.arrow: damaged"):
        list(read_labels(tmp_path))


def test_a_sample_of_uneven_rows_or_of_another_kind_is_damaged(tmp_path):
    some_labels(tmp_path, 10)
    (tmp_path / "step_00000010.labels.arrow").rename(tmp_path / "step_00000010.sample.arrow")
    with pytest.raises(LabelStoreError, match="not a snapshot"):
        read_sample(tmp_path, 10)
    write_sample(tmp_path, 20, sample(1, width=3), sample(1, width=2))
    with pytest.raises(LabelStoreError, match="sample.arrow: damaged: lists of 2, 3 numbers where 2 belong"):
        read_sample(tmp_path, 20)
    with pytest.raises(LabelStoreError, match="step_00000030.sample.arrow"):
        read_sample(tmp_path, 30)
