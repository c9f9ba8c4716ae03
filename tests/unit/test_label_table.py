from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydet.contract import DataSizes
from raydet.errors import CheckpointError
from raydet.families.classification.label_table import NEVER, LabelTable
from raydet.registry import build_method
from raydet.train.checkpoint import Checkpoint, open_checkpoint, write_checkpoint
from raydet.train.optim import build_optimizer
from raydet.train.state import TrainState, digest_of_images
from tests.helpers import tiny_classes


def ids(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def test_a_new_table_has_no_labels_and_saves_nothing():
    table = LabelTable(3, 2)
    assert table.needs([0, 2], 7) == [True, True]
    assert table.versions.tolist() == [NEVER] * 3
    assert table.tensors() == {}
    assert not table.learns_labeled


def test_a_row_is_read_as_it_was_written_and_belongs_to_the_teacher_it_started_from():
    table = LabelTable(4, 2)
    table.write(ids(2, 0), torch.tensor([[1.0, 2], [3, 4]]), version=7)
    assert table.read(ids(0, 2, 0)).tolist() == [[3, 4], [1, 2], [3, 4]]
    assert table.needs([0, 1, 2], 7) == [False, True, False]
    assert table.needs([0, 1, 2], 9) == [True, True, True]  # a reprediction: every row wants its new start
    table.write(ids(0), torch.tensor([[5.0, 6]]), version=9)
    assert table.needs([0, 2], 9) == [False, True]
    assert table.read(ids(2)).tolist() == [[1, 2]]  # until then it stays what it was


def test_what_was_read_is_a_copy():
    table = LabelTable(2, 2)
    table.read(ids(0)).fill_(5.0)
    assert table.logits.tolist() == [[0, 0], [0, 0]]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_of_a_row_given_twice_the_later_one_stays(rows: list[int]):
    table = LabelTable(5, 1)
    table.write(torch.tensor(rows), torch.arange(1.0, len(rows) + 1)[:, None], version=3)
    expected = [0.0] * 5
    for place, row in enumerate(rows):
        expected[row] = place + 1.0
    assert table.logits[:, 0].tolist() == expected
    assert table.versions.tolist() == [3 if value else NEVER for value in expected]


def test_rows_of_labelled_images_lie_behind_the_others():
    table = LabelTable(3, 2, num_labeled=2)
    assert table.learns_labeled
    assert (len(table.logits), table.num_unlabeled) == (5, 3)


def test_a_table_knows_its_size():
    assert LabelTable(46_000, 10).nbytes == 2_208_000  # 46000 x (10 x 4 + 8) bytes


def test_a_saved_table_is_loaded_as_it_was():
    table, other = LabelTable(3, 2), LabelTable(3, 2)
    table.write(ids(1), torch.tensor([[0.1, -7.0]]), version=4)
    other.load({name: value.clone() for name, value in table.tensors().items()}, "there")
    assert torch.equal(other.logits, table.logits) and torch.equal(other.versions, table.versions)
    other.write(ids(2), torch.tensor([[1.0, 1.0]]), version=4)
    assert table.versions.tolist() == [NEVER, 4, NEVER]


@pytest.mark.parametrize(("images", "classes", "said"), [(1200, 2, "1,200 images and 2"), (3, 4, "3 images and 4")])
def test_a_table_of_another_size_is_refused(images: int, classes: int, said: str):
    saved = LabelTable(images, classes)
    saved.write(ids(0), torch.zeros(1, classes), version=1)
    with pytest.raises(CheckpointError) as error:
        LabelTable(3, 2).load(saved.tensors(), "RUN/step_9")
    assert str(error.value) == (
        f"RUN/step_9: its label table is of {said} classes, this run has 3 and 2; a table belongs to one data set: "
        f"use the run's own data"
    )


def saved_table() -> dict[str, torch.Tensor]:
    return {"logits": torch.zeros(3, 2), "versions": torch.zeros(3, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"versions": None},
            "its label table lacks 'versions' (there is: 'logits'), expected 'logits' and 'versions'; use another "
            "checkpoint",
        ),
        (
            {"logits": None, "versions": None, "\x1b[2J" + "x" * 99: torch.zeros(1)},
            f"its label table lacks 'logits' (there is: '\\x1b[2J{'x' * 36}'), expected 'logits' and 'versions'; use "
            "another checkpoint",
        ),
        (
            {"logits": torch.zeros(6)},
            "logits of its label table are torch.float32 [6], expected torch.float32 [3, 2]; use another checkpoint",
        ),
        (
            {"logits": torch.zeros(3, 2, dtype=torch.float64)},
            "logits of its label table are torch.float64 [3, 2], expected torch.float32 [3, 2]; use another checkpoint",
        ),
        (
            {"versions": torch.zeros(3)},
            "versions of its label table are torch.float32 [3], expected torch.int64 [3]; use another checkpoint",
        ),
        (
            {"versions": torch.zeros(4, dtype=torch.int64)},
            "its label table has logits of 3 images, but versions of 4; use another checkpoint",
        ),
        *(
            (
                {"logits": torch.tensor([[0.0, 1.0], [2.0, number], [4.0, 5.0]])},
                "its label table holds NaN or infinite logits, expected finite numbers; use another checkpoint",
            )
            for number in (float("nan"), float("inf"), float("-inf"))
        ),
    ],
)
def test_what_is_no_label_table_is_refused_and_nothing_of_it_taken(
    change: dict[str, torch.Tensor | None], said: str
) -> None:
    tensors = {name: tensor for name, tensor in {**saved_table(), **change}.items() if tensor is not None}
    table = LabelTable(3, 2)
    with pytest.raises(CheckpointError) as error:
        table.load(tensors, "RUN/step_9")
    assert str(error.value) == f"RUN/step_9: {said}"
    assert table.logits.tolist() == [[0, 0]] * 3 and table.versions.tolist() == [NEVER] * 3


# as part of a run's state


@dataclass(frozen=True)
class Images:
    """As much of prepared data as a digest looks at."""

    labeled: Ids
    unlabeled: Ids | None
    class_names: tuple[str, ...] = ("circle", "square", "triangle")


@dataclass(frozen=True)
class Ids:
    found: tuple[str, ...]

    @property
    def content(self) -> str:
        return " ".join(self.found)


DATA = Images(Ids(("a", "b")), Ids(("c", "d", "e")))


def state_of(data: Images = DATA, unlabeled: int = 3, classes: int = 3) -> TrainState:
    config = tiny_classes(Path("unused"))
    method = build_method(config)
    student = method.build_model(classes)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    learned = method.build_state(DataSizes(2, unlabeled, classes))
    optimizer = build_optimizer(student, method.param_groups(), config.optim)
    return TrainState(student, optimizer, scaler, learned, digest_of_images(data))


Save = Callable[[TrainState], Checkpoint]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(state: TrainState) -> Checkpoint:
        return open_checkpoint(
            write_checkpoint(tmp_path, state.step, state.tensors(is_publish_step=False), state.record())
        )

    return save


def learned() -> TrainState:
    state = state_of()
    state.step = 5
    state.learned.write(ids(1), torch.tensor([[1.0, 2.0, 3.0]]), version=4)
    return state


def test_a_checkpoint_holds_the_table_once_something_was_learned(save: Save):
    assert not save(state_of()).has("memory")
    checkpoint, fresh = save(learned()), state_of()
    fresh.restore(checkpoint, teacher=None)
    assert fresh.learned.logits.tolist() == [[0, 0, 0], [1, 2, 3], [0, 0, 0]]
    assert fresh.learned.versions.tolist() == [NEVER, 4, NEVER]
    assert fresh.step == 5


@pytest.mark.parametrize(
    "data",
    [
        Images(DATA.labeled, Ids(("d", "c", "e"))),  # the same images in another order: rows mean others
        Images(DATA.labeled, Ids(("c", "d", "f"))),
        Images(Ids(("a", "x")), DATA.unlabeled),
        Images(DATA.labeled, DATA.unlabeled, ("circle", "triangle", "square")),
        Images(Ids(("e", "a", "b")), Ids(("c", "d"))),  # one more is labelled
    ],
)
def test_what_was_learned_about_other_images_or_classes_is_refused(data: Images, save: Save):
    with pytest.raises(CheckpointError) as error:
        state_of(data).restore(save(learned()), teacher=None)
    assert str(error.value).endswith(
        "step_00000005: what it has learned is about other images or other classes than this run's; restore the data "
        "that the run was started with, or start a new run"
    )


def test_a_checkpoint_with_learned_labels_is_no_burn_in_to_fork_from(save: Save):
    with pytest.raises(CheckpointError, match="already has what it learns beside the weights; fork from the one at"):
        state_of().fork(save(learned()), drops=lambda name: False)
    state_of().fork(save(state_of()), drops=lambda name: False)
