from hypothesis import given
from hypothesis import strategies as st

from raydet.pool.scaling import PoolTiming, Sizer

TIMING = PoolTiming(late_s=3.0, idle_s=30.0)


def size_after(sizer, size, now, *, waiting=0, idle_for_s=0.0, is_starting=False):
    return sizer.next_size(size, now=now, waiting=waiting, idle_for_s=idle_for_s, is_starting=is_starting)


def test_the_pool_grows_by_one_when_labels_have_waited_long_enough_and_then_waits_again():
    sizer = Sizer(1, 4, TIMING)
    assert [size_after(sizer, 2, now, waiting=5) for now in (10.0, 12.9, 13.0)] == [2, 2, 3]  # 13.0 - 10.0 = late_s
    assert [size_after(sizer, 3, now, waiting=5) for now in (14.0, 16.9, 17.0)] == [3, 3, 4]
    assert [size_after(sizer, 4, now, waiting=5) for now in (18.0, 99.0)] == [4, 4]


def test_a_queue_that_empties_in_between_is_not_late():
    sizer = Sizer(1, 4, TIMING)
    assert [size_after(sizer, 2, now, waiting=w) for now, w in ((0.0, 5), (2.0, 0), (2.5, 5), (5.0, 5))] == [2] * 4


def test_while_a_teacher_starts_the_pool_does_not_grow():
    sizer = Sizer(1, 4, TIMING)
    assert [size_after(sizer, 2, now, waiting=5, is_starting=True) for now in (0.0, 60.0)] == [2, 2]
    assert size_after(sizer, 2, 61.0, waiting=5) == 3


def test_the_pool_shrinks_to_its_minimum_when_a_teacher_has_nothing_to_do():
    sizer = Sizer(1, 4, TIMING)
    assert size_after(sizer, 2, 0.0, idle_for_s=29.0) == 2
    assert size_after(sizer, 2, 1.0, idle_for_s=30.0) == 1
    assert size_after(sizer, 1, 2.0, idle_for_s=99.0) == 1


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 3), st.floats(0, 60), st.booleans()), max_size=60),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_the_size_stays_in_its_range_and_moves_one_at_a_time(events, low, room):
    sizer, size, now = Sizer(low, low + room, TIMING), low, 0.0
    for passed, waiting, idle_for_s, is_starting in events:
        now += passed
        following = size_after(sizer, size, now, waiting=waiting, idle_for_s=idle_for_s, is_starting=is_starting)
        assert low <= following <= low + room and abs(following - size) <= 1
        size = following
