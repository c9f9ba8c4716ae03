"""Some of many, evenly spaced."""

from __future__ import annotations

from raydet.data.evenly import evenly


def test_places_are_evenly_spaced_from_the_first_to_the_last():
    assert evenly(9, 3) == [0, 4, 8]
    assert evenly(10, 4) == [0, 3, 6, 9]
    assert evenly(6, 4) == [0, 2, 3, 5]  # 5/3 and 10/3, rounded
    assert evenly(100, 1) == [0]


def test_of_few_all_are_taken_once():
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(1, 5) == [0]
    assert evenly(0, 5) == []
