"""Weak views that teacher and loader share: made once, waited for, dropped in time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.errors import DataError
from raydet.families.detection.loader import TeacherViews
from tests.unit.data.boxes.loader_fakes import FakeData, FakeIndex, assert_same, config, recipe, some_images


@pytest.fixture
def data(tmp_path: Path) -> FakeData:
    return FakeData(some_images(tmp_path / "l", 5, "l"), some_images(tmp_path / "u", 7, "u"))


def shared(data: FakeData, keep: int) -> TeacherViews:
    each: Any = data
    return TeacherViews(each, config(), recipe(config()), keep=keep)


def test_the_second_user_of_a_weak_view_gets_what_the_first_one_made(data: FakeData) -> None:
    views = shared(data, keep=2)
    assert data.unlabeled is not None
    one, other = views.take("u1", 3), views.take("u1", 3)
    assert one is other and data.unlabeled.read == ["u1"]
    third = views.take("u1", 3)  # both have had theirs: nothing is kept
    assert third is not one and data.unlabeled.read == ["u1", "u1"]
    assert_same((third,), (one,))
    assert views.take("u1", 4) is not third  # another teacher's view


def test_views_that_nobody_comes_back_for_are_dropped_oldest_first(data: FakeData) -> None:
    views = shared(data, keep=2)
    assert data.unlabeled is not None
    made = {name: views.take(name, 0) for name in ("u0", "u1", "u2")}
    assert len(views._waiting) == 2
    assert views.take("u2", 0) is made["u2"] and views.take("u1", 0) is made["u1"]
    assert_same((views.take("u0", 0),), (made["u0"],))
    assert data.unlabeled.read == ["u0", "u1", "u2", "u0"]
    alone = shared(data, keep=0)
    alone.take("u0", 0)
    assert len(alone._waiting) == 0


def test_a_view_in_the_making_is_waited_for_and_its_error_reaches_both(
    data: FakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, real = shared(data, keep=2), FakeIndex.pixels_at
    begun, go_on = threading.Event(), threading.Event()

    def slow(index: FakeIndex, i: int) -> torch.Tensor:
        begun.set()
        assert go_on.wait(30)
        return real(index, i)

    monkeypatch.setattr(FakeIndex, "pixels_at", slow)
    assert data.unlabeled is not None
    with ThreadPoolExecutor(2) as threads:
        for damaged in (False, True):
            begun.clear(), go_on.clear()
            data.unlabeled.read.clear()
            first = threads.submit(views.take, "u5", 1)
            assert begun.wait(30)
            second = threads.submit(views.take, "u5", 1)
            while views._waiting:  # until the second has found what the first is making
                assert not second.done()
            go_on.set()
            if damaged:
                for each in (first, second):
                    with pytest.raises(DataError, match=r"u5\.png.*was 2x1"):
                        each.result()
            else:
                assert first.result() is second.result()
            assert data.unlabeled.read == ["u5"]
            data.unlabeled.sizes = [(1, 2)] * 7
