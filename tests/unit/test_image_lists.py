"""Which labels a rebuild counts: the newest of every image among the steps of its window, each by one rank."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.data.order import Listing, Rebuilds
from raydet.errors import LabelConflictError
from raydet.group import Group
from raydet.labels.convert import to_table
from raydet.labels.schedule import LabelSchedule
from raydet.labels.store import PseudoLabelStore
from raydet.records import PseudoBoxes, TeacherRef
from raydet.train.listing import ImageLists
from tests.helpers import tiny_config

ROWS = {4: [0, 1], 5: [2, 0], 6: [1, 1], 7: [3, 0]}  # the images of each step
REBUILDS = Rebuilds(start=4, every=3, lookahead=1)  # rebuilds at 7, 10, ...: of steps 4 to 6, 7 to 9, ...
SCHEDULE = LabelSchedule.moving(0, publish_every=2, lookahead=1)  # steps 5 and 6 are labelled by version 4


class Loader:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[list[Listing], int | None]] = []

    def list_anew(self, listings: list[Listing], until: int | None) -> None:
        self.told.append((listings, until))

    def all_unlabeled_rows(self, step: int) -> np.ndarray:
        return np.array(ROWS[step])


class Method:
    """Counts nothing, and remembers what it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[int, dict[int, tuple[str, int]]]] = []

    def rebuilds(self) -> Rebuilds:
        return REBUILDS

    def schedule(self) -> LabelSchedule:
        return SCHEDULE

    def listings(self, state: Any, sizes: Any) -> list[Listing]:
        return [Listing("unlabeled", 8, np.ones(5))] if self.given else []

    def rebuild(self, state: Any, sizes: Any, step: int, labels: Any, group: Group) -> None:
        assert sizes.sets is not None
        self.given.append((step, {row: (each.image_id, each.teacher.version) for row, each in labels}))


class Source:
    """A source that has everything on disk."""

    def flush(self) -> None:
        pass


class Images:
    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def id_at(self, row: int) -> str:
        return f"u{row}"


class Data:
    labeled, unlabeled, class_names = Images(2), Images(5), ("a",)


class Alone(Group):
    """A rank of several that waits for nobody."""

    def barrier(self) -> None:
        pass


def stored(folder: Path, *keys: tuple[str, int]) -> None:
    store = PseudoLabelStore(folder, "rank0")
    empty = torch.zeros(0)
    for image_id, version in keys:
        ref = TeacherRef(version, f"d{version}")
        label = PseudoBoxes(image_id, ref, empty.reshape(0, 4), empty.long(), empty, empty, 0.05)
        store.append(to_table([label]))
    store.flush()


def lists(folder: Path, group: Group) -> tuple[ImageLists, Method, Loader]:
    parts: tuple[Any, ...] = (tiny_config(folder), Method(), Data(), Source(), group)
    return ImageLists(*parts), parts[1], Loader()


def versions(step: int) -> int:
    found = SCHEDULE.version_for(step)
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    every = [(f"u{row}", versions(step)) for step, rows in ROWS.items() for row in rows]
    stored(tmp_path / "labels", *dict.fromkeys(every))
    return tmp_path


def test_the_newest_label_of_every_image_of_the_window_counts(folder: Path):
    assert [versions(step) for step in (4, 5, 6, 7)] == [2, 4, 4, 6]
    chosen, method, loader = lists(folder, Group())
    for step in range(4, 8):
        chosen.update(loader, None, {}, step)  # type: ignore[arg-type]
    # Of steps 4 to 6: image 0 last in step 5, 1 in step 6, 2 in step 5; image 3 comes in step 7, image 4 never.
    assert method.given == [(7, {0: ("u0", 4), 1: ("u1", 4), 2: ("u2", 4)})]
    assert len(loader.told) == 1 and loader.told[0][1] == 11  # settled are the steps below the next rebuild's listing


def test_the_ranks_share_the_images_by_number(folder: Path):
    parts = []
    for rank in range(2):
        chosen, method, loader = lists(folder, Alone(rank, 2))
        chosen.update(loader, None, {}, 7)  # type: ignore[arg-type]
        parts.append(method.given[0][1])
    assert [sorted(part) for part in parts] == [[0, 2], [1]]


def test_labels_of_another_run_are_not_counted(folder: Path):
    chosen, method, loader = lists(folder, Group())
    file = next((folder / "labels").glob("*.arrow"))
    said = f"{file}: labels of version 4 are of teacher d4, and this run's was mine: they are another run's"
    with pytest.raises(LabelConflictError, match=re.escape(said)):
        chosen.update(loader, None, {2: "d2", 4: "mine", 6: "d6"}, 7)  # type: ignore[arg-type]
    assert not method.given


def test_teachers_are_remembered_until_no_rebuild_counts_their_labels(folder: Path):
    chosen, _, loader = lists(folder, Group())
    teachers: dict[int, str] = {}
    for version in (0, 2, 4, 6):
        chosen.note(teachers, TeacherRef(version, f"d{version}"))
    assert teachers == {0: "d0", 2: "d2", 4: "d4", 6: "d6"}
    chosen.update(loader, None, teachers, 7)  # type: ignore[arg-type]
    assert teachers == {6: "d6"}  # of step 7, the next window's first


def test_before_the_first_rebuild_the_loader_knows_how_far_it_may_look(folder: Path):
    chosen, _, loader = lists(folder, Group())
    chosen.begin(loader, None, 0)  # type: ignore[arg-type]
    assert loader.told == [([], 8)]  # the listing of step 7 begins at 8


def test_a_loader_that_lists_every_image_once_is_a_mistake_of_ours(folder: Path):
    chosen, _, _ = lists(folder, Group())
    with pytest.raises(AssertionError, match="object lists every image once"):
        chosen.begin(object(), None, 0)  # type: ignore[arg-type]
