import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet.labels.schedule import LabelSchedule

movings = st.builds(
    LabelSchedule.moving,
    st.integers(0, 50),
    publish_every=st.integers(1, 12),
    lookahead=st.integers(0, 12),
)
restarting = st.builds(
    lambda starts, **options: LabelSchedule.moving(*sorted(starts), **options),
    st.sets(st.integers(0, 150), min_size=1, max_size=5),
    publish_every=st.integers(1, 12),
    lookahead=st.integers(0, 12),
)
stages = st.sets(st.integers(0, 100), min_size=1).map(lambda steps: LabelSchedule.stages(*sorted(steps)))


def test_moving_takes_the_latest_publish_point_before_the_lookahead():
    schedule = LabelSchedule.moving(100, publish_every=10, lookahead=3)
    # step 112 looks at 109: the latest of 100, 110, ... not above it is 100; step 113 looks at 110
    assert [schedule.version_for(s) for s in (99, 100, 102, 112, 113, 122, 123)] == [None, 100, 100, 100, 110, 110, 120]
    assert [s for s in range(95, 125) if schedule.is_publish_step(s)] == [100, 110, 120]
    assert schedule.max_age == 12  # 3 + 10 - 1, e.g. step 112 with version 100


def test_after_a_restart_no_label_from_before_is_used():
    schedule = LabelSchedule.moving(100, 116, publish_every=10, lookahead=3)
    # step 115 looks at 112: the latest of 100, 110 not above it is 110; from 116 on nothing before 116 counts, and
    # step 129 looks at 126 = 116 + 10
    assert [schedule.version_for(s) for s in (115, 116, 118, 119, 128, 129)] == [110, 116, 116, 116, 116, 126]
    assert [s for s in range(95, 140) if schedule.is_publish_step(s)] == [100, 110, 116, 126, 136]
    assert schedule.max_age == 12  # 3 + 10 - 1, whatever the restarts


def test_no_lookahead_and_a_teacher_every_step_is_the_newest_teacher():
    schedule = LabelSchedule.moving(7)
    assert [schedule.version_for(s) for s in (6, 7, 8, 9)] == [None, 7, 8, 9]
    assert schedule.max_age == 0


def test_none_never_needs_labels():
    schedule = LabelSchedule.none()
    assert schedule.version_for(10**6) is None
    assert not any(schedule.is_publish_step(s) for s in range(100))
    assert schedule.max_age == 0


def test_stages_keep_their_teacher_until_the_next_boundary():
    schedule = LabelSchedule.stages(0, 50)
    assert [schedule.version_for(s) for s in (0, 49, 50, 10**6)] == [0, 0, 50, 50]
    assert [s for s in range(200) if schedule.is_publish_step(s)] == [0, 50]
    assert schedule.max_age > 10**12  # a frozen teacher's labels do not go stale


@pytest.mark.parametrize("build", [
    lambda: LabelSchedule.moving(-1),
    lambda: LabelSchedule.moving(0, publish_every=0),
    lambda: LabelSchedule.moving(0, lookahead=-1),
    lambda: LabelSchedule.moving(5, 5),
    lambda: LabelSchedule.moving(5, 3),
    lambda: LabelSchedule.stages(),
    lambda: LabelSchedule.stages(3, 3),
])  # fmt: skip
def test_impossible_schedules_are_refused(build):
    with pytest.raises(ValueError):
        build()


@given(st.one_of(movings, restarting, stages), st.integers(0, 300))
def test_versions_are_monotone_published_and_never_in_the_future(schedule, step):
    version, following = schedule.version_for(step), schedule.version_for(step + 1)
    if version is None:
        return
    assert version <= step
    assert following >= version
    assert schedule.is_publish_step(version)
    assert step - version <= schedule.max_age


@given(movings)
def test_the_age_bound_is_reached(schedule):
    start = schedule.boundaries[0]
    ages = [s - schedule.version_for(s) for s in range(start, start + 40)]
    assert max(ages) == schedule.max_age


@given(st.one_of(movings, restarting), st.integers(0, 200))
def test_a_label_is_asked_for_when_its_teacher_is_the_newest_one(schedule, step):
    # step s is asked for at max(latest restart, s - lookahead); its teacher must be the last one out by then
    version = schedule.version_for(step)
    if version is None:
        return
    asked_at = max(max(b for b in schedule.boundaries if b <= step), step - schedule.lookahead)
    assert version == max(s for s in range(asked_at + 1) if schedule.is_publish_step(s))


@given(st.one_of(movings, restarting, stages), st.integers(0, 200))
def test_publish_points_are_the_publish_steps(schedule, end):
    assert schedule.publish_points(end) == [step for step in range(end) if schedule.is_publish_step(step)]
