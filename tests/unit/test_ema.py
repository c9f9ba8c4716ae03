from __future__ import annotations

import pytest
import torch
from torch import nn

from raydet.errors import CheckpointError
from raydet.vision.digests import digest
from raydet.vision.ema import EmaTeacher
from raydet.vision.weights import from_arrays, load_weights, to_arrays, weights_of


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_teacher_starts_as_an_exact_independent_copy():
    student = net().train()
    teacher = EmaTeacher(student)
    assert digest(weights_of(teacher.model)) == digest(weights_of(student))
    nn.init.zeros_(student[0].weight)
    assert digest(weights_of(teacher.model)) != digest(weights_of(student))
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert student.training and student[0].weight.requires_grad


def test_updates_follow_the_closed_form():
    # Student constant at s: teacher after n updates is keep^n * t + (1 - keep^n) * s.
    student = net()
    teacher = EmaTeacher(student)
    start = student[0].weight.detach().clone()
    with torch.no_grad():
        student[0].weight.fill_(2.0)
        student[1].running_mean.fill_(1.0)
    for _ in range(5):
        teacher.update(student, keep=0.9)
    kept = 0.9**5  # .59049
    torch.testing.assert_close(teacher.model[0].weight, kept * start + (1 - kept) * 2.0)
    torch.testing.assert_close(teacher.model[1].running_mean, torch.full((4,), 1 - kept))  # buffers too


def test_integer_buffers_are_copied():
    # Averaged, .9996 * 100 + .0004 * 101 = 100.0004 would be truncated to 100 for ever.
    student = net()
    student[1].num_batches_tracked.fill_(100)
    teacher = EmaTeacher(student)
    student[1].num_batches_tracked.fill_(101)
    teacher.update(student, keep=0.9996)
    assert int(teacher.model[1].num_batches_tracked) == 101


def test_weights_that_never_change_stay_equal_to_the_last_bit():
    student = net()
    teacher = EmaTeacher(student)
    before = digest(weights_of(teacher.model))
    for _ in range(1000):
        teacher.update(student, keep=0.9996)
    assert digest(weights_of(teacher.model)) == before


def test_a_snapshot_shares_nothing_with_the_teacher():
    student = net()
    teacher = EmaTeacher(student)
    snapshot = weights_of(teacher.model)
    before = digest(snapshot)
    nn.init.zeros_(student[0].weight)
    teacher.update(student, keep=0.5)
    assert digest(snapshot) == before
    teacher.load(snapshot)
    assert digest(weights_of(teacher.model)) == before


def test_loading_accepts_read_only_arrays_without_a_warning(recwarn: pytest.WarningsRecorder):
    arrays = to_arrays(weights_of(net()))
    for array in arrays.values():
        array.setflags(write=False)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_weights(other, from_arrays(arrays))
    assert digest(weights_of(other)) == digest(from_arrays(arrays)) == digest(net().state_dict())
    nn.init.zeros_(other[0].weight)  # the array is not what the module now writes to
    assert arrays["0.weight"].any()
    assert not recwarn.list


def test_loading_weights_that_do_not_fit_names_what_is_wrong_and_changes_nothing():
    model = net()
    before = digest(weights_of(model))
    weights = weights_of(model)
    weights["0.bias"] = torch.zeros(7)
    weights["extra"] = torch.zeros(1)
    del weights["1.weight"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, weights)
    message = str(caught.value)
    assert "1.weight is missing" in message
    assert "extra is unknown" in message
    assert "0.bias has shape [7], the model wants [4]" in message
    assert digest(weights_of(model)) == before


@pytest.mark.parametrize("keep", [1.0, -0.1, 1.5])
def test_a_keep_rate_that_freezes_or_explodes_is_refused(keep: float):
    with pytest.raises(ValueError, match="it must be in"):
        EmaTeacher(net()).update(net(), keep=keep)
