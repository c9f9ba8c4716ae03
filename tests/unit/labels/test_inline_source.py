import pytest

from raydet.errors import LabelConflictError, RunError
from raydet.labels.schedule import LabelSchedule
from raydet.labels.source import InlineSource, LabelSource, check_labels
from raydet.labels.store import PseudoLabelStore
from raydet.records import TeacherRef
from tests.unit.labels.fakes import FakeAnnotator, fake_label, ref_of, same, weights_of


def source_at(folder, annotator=None) -> InlineSource:
    source: LabelSource = InlineSource(annotator or FakeAnnotator(), PseudoLabelStore(folder, "rank0"))
    source.rewind(0)
    return source


def expected(image_id, version):
    return fake_label(image_id, ref_of(version), 8.0 * version)  # the fake's weights: 8 times the version


def test_take_returns_exactly_what_was_asked_in_order(tmp_path):
    source = source_at(tmp_path)
    source.publish(ref_of(5), weights_of(5))
    source.request(["a", "b"], 5)
    found = source.take(["b", "c", "a", "b"], 5)
    assert all(same(x, expected(i, 5)) for x, i in zip(found, "bcab", strict=True))
    assert source.take([], 5) == []


def test_labels_are_made_once_and_with_the_teacher_of_the_request(tmp_path):
    annotator = FakeAnnotator()
    source = source_at(tmp_path, annotator)
    source.publish(ref_of(5), weights_of(5))
    source.request(["a", "a"], 5)
    source.request(["a"], 5)
    source.publish(ref_of(6), weights_of(6))  # a newer teacher is out when the label of step 5 is taken
    assert same(source.take(["a"], 5)[0], expected("a", 5))
    assert annotator.calls == [(5, "a")]


def test_a_resumed_run_reads_the_store_instead_of_labelling(tmp_path):
    before = source_at(tmp_path)
    before.publish(ref_of(5), weights_of(5))
    before.request(["a", "b"], 5)
    before.flush()
    annotator = FakeAnnotator()
    after = InlineSource(annotator, PseudoLabelStore(tmp_path, "rank0"))
    after.rewind(6)
    after.publish(ref_of(6), weights_of(6))
    assert all(same(x, expected(i, 5)) for x, i in zip(after.take(["b", "a"], 5), "ba", strict=True))
    assert annotator.calls == []


def test_a_label_that_can_no_longer_be_made_is_an_error_that_names_it(tmp_path):
    source = source_at(tmp_path)
    source.publish(ref_of(6), weights_of(6))
    with pytest.raises(RuntimeError, match="version 5 .*'gone'"):
        source.request(["gone"], 5)


def test_after_a_rewind_newer_labels_are_made_again(tmp_path):
    annotator = FakeAnnotator()
    source = source_at(tmp_path, annotator)
    for version in (5, 6):
        source.publish(ref_of(version), weights_of(version))
        source.request(["a"], version)
    source.rewind(5)
    other = weights_of(60)  # a different teacher 6 this time
    source.publish(ref_of(6, other), other)
    assert same(source.take(["a"], 6)[0], fake_label("a", ref_of(6, other), 480.0))
    assert same(source.take(["a"], 5)[0], expected("a", 5))
    assert annotator.calls == [(5, "a"), (6, "a"), (6, "a")]


def test_one_version_has_one_set_of_weights(tmp_path):
    source = source_at(tmp_path)
    source.publish(ref_of(5), weights_of(5))
    source.publish(ref_of(5), weights_of(5))  # again, after a resume: fine
    with pytest.raises(LabelConflictError, match="version 5"):
        source.publish(TeacherRef(5, "other"), weights_of(5))


def test_an_annotator_error_names_the_images(tmp_path):
    source = source_at(tmp_path, FakeAnnotator(bad=["broken"]))
    source.publish(ref_of(5), weights_of(5))
    with pytest.raises(OSError) as caught:
        source.request(["fine", "broken"], 5)
    assert "broken" in caught.value.__notes__[0] and "version 5" in caught.value.__notes__[0]


def test_labels_of_others_are_not_accepted():
    label = expected("a", 5)
    check_labels([label], ["a"], 5, label.teacher.digest)
    with pytest.raises(RuntimeError, match="asked for labels of"):
        check_labels([label], ["b"], 5, None)
    with pytest.raises(RuntimeError, match="asked for teacher version 6"):
        check_labels([label], ["a"], 6, None)
    with pytest.raises(LabelConflictError):
        check_labels([label], ["a"], 5, "other")


def run(source, schedule, first, last, taken):
    """The training loop's use of a source, with a flush before step 8."""
    asked = first
    for step in range(first, last):
        if step == 8:
            source.flush()
        if schedule.is_publish_step(step):
            source.publish(ref_of(step), weights_of(step))
            source.retire(schedule.version_for(step))
        while asked <= step + schedule.lookahead:
            version = schedule.version_for(asked)
            if version is not None and version > step:
                break
            if version is not None:
                source.request([f"{asked}", "always"], version)
            asked += 1
        version = schedule.version_for(step)
        if version is not None:
            labels = source.take([f"{step}", "always"], version)
            assert all(step - label.teacher.version <= schedule.max_age for label in labels)
            taken[step] = labels


@pytest.mark.parametrize("lookahead", [0, 2, 5])
@pytest.mark.parametrize("publish_every", [1, 3])
def test_a_run_killed_and_resumed_from_a_checkpoint_takes_the_same_labels(tmp_path, lookahead, publish_every):
    schedule = LabelSchedule.moving(2, publish_every=publish_every, lookahead=lookahead)
    straight, resumed = {}, {}
    run(source_at(tmp_path / "straight"), schedule, 0, 20, straight)
    run(source_at(tmp_path / "resumed"), schedule, 0, 13, resumed)  # killed at step 13, checkpoint of step 8
    run(source_at_step(tmp_path / "resumed", 8, schedule), schedule, 8, 20, resumed)
    assert resumed.keys() == straight.keys() == set(range(2, 20))
    assert all(same(a, b) for s in straight for a, b in zip(straight[s], resumed[s], strict=True))


def test_a_source_that_lives_on_can_be_rewound_and_takes_the_same_labels(tmp_path):
    schedule, taken, again = LabelSchedule.moving(2, publish_every=3, lookahead=4), {}, {}
    source = source_at(tmp_path)
    run(source, schedule, 0, 18, taken)
    run(source_at_step(tmp_path, 8, schedule, source), schedule, 8, 18, again)
    assert again.keys() == set(range(8, 18))
    assert all(same(a, b) for s in again for a, b in zip(taken[s], again[s], strict=True))


def source_at_step(folder, step, schedule, source=None):
    source = source or InlineSource(FakeAnnotator(), PseudoLabelStore(folder, "rank0"))
    source.rewind(step)
    published = max(s for s in range(step) if schedule.is_publish_step(s))
    source.publish(ref_of(published), weights_of(published))
    return source


def test_a_rewind_keeps_the_teacher_and_the_digest_of_its_own_version(tmp_path):
    annotator = FakeAnnotator()
    source = source_at(tmp_path, annotator)
    source.publish(ref_of(5), weights_of(5))
    source.rewind(5)
    assert same(source.take(["new"], 5)[0], expected("new", 5))  # its teacher is still there
    with pytest.raises(LabelConflictError, match="version 5"):
        source.publish(TeacherRef(5, "other"), weights_of(5))


def test_a_rewind_forgets_a_newer_teacher(tmp_path):
    source = source_at(tmp_path)
    source.publish(ref_of(6), weights_of(6))
    source.rewind(5)
    with pytest.raises(RunError, match="the teacher loaded now is None"):
        source.request(["a"], 6)


def test_labels_and_their_seconds_are_counted_from_nothing(tmp_path, monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr("raydet.labels.source.time.perf_counter", lambda: next(clock))
    source = source_at(tmp_path)
    assert source.stats() == {"labels/made": 0, "labels/label_s": 0}
    source.publish(ref_of(5), weights_of(5))
    source.take(["a", "b"], 5)
    assert source.stats() == {"labels/made": 2, "labels/label_s": 2.5}
    source.take(["a", "c"], 5)  # one of them is stored
    assert source.stats() == {"labels/made": 3, "labels/label_s": 3.5}


def test_labels_that_were_taken_are_in_the_store_alone(tmp_path):
    annotator = FakeAnnotator()
    source = source_at(tmp_path, annotator)
    source.publish(ref_of(5), weights_of(5))
    source.request(["a", "b"], 5)
    source.take(["a"], 5)
    assert list(source._ready[5]) == ["b"]  # a frozen teacher labels every image: they must not stay in memory
    assert same(source.take(["a"], 5)[0], expected("a", 5))
    assert annotator.calls == [(5, "a"), (5, "b")]


@pytest.mark.parametrize("wrong", ["other images", "other weights"])
def test_an_annotator_that_answers_something_else_is_found_out(tmp_path, wrong):
    class Wrong(FakeAnnotator):
        def label(self, image_ids):
            if wrong == "other images":
                return super().label(["z"] * len(image_ids))
            return [fake_label(i, TeacherRef(5, "another"), 40.0) for i in image_ids]

    source = source_at(tmp_path, Wrong())
    source.publish(ref_of(5), weights_of(5))
    with pytest.raises(RunError if wrong == "other images" else LabelConflictError):
        source.request(["a"], 5)
    assert not PseudoLabelStore(tmp_path, "other").has((5, "a"))


def test_stored_labels_of_other_weights_are_not_taken(tmp_path):
    before = source_at(tmp_path)
    before.publish(ref_of(5), weights_of(5))
    before.request(["a"], 5)
    before.flush()
    after = InlineSource(FakeAnnotator(), PseudoLabelStore(tmp_path, "rank0"))
    after.rewind(5)
    after.publish(TeacherRef(5, "another"), weights_of(5))
    with pytest.raises(LabelConflictError, match="version 5 has weights another"):
        after.take(["a"], 5)


def test_labels_with_a_digest_of_an_older_kind_are_taken_and_new_ones_may_stand_beside_them(tmp_path):
    """A run that was begun with SHA-256, resumed from a checkpoint before the step whose labels it had made."""
    before = source_at(tmp_path)
    before.publish(TeacherRef(5, "a" * 64), weights_of(5))
    before.request(["a"], 5)
    before.flush()
    after = InlineSource(FakeAnnotator(), PseudoLabelStore(tmp_path, "rank0"))
    after.rewind(5)
    after.publish(TeacherRef(5, "b" * 32), weights_of(5))
    old, new = after.take(["a", "b"], 5)
    assert (old.teacher.digest, new.teacher.digest) == ("a" * 64, "b" * 32)
    after.flush()
    assert PseudoLabelStore(tmp_path, "rank0").has((5, "a"))  # both are read again


def test_what_is_retired_is_forgotten_and_what_is_not_is_kept(tmp_path):
    annotator = FakeAnnotator()
    source = source_at(tmp_path, annotator)
    for version in (4, 5):
        source.publish(ref_of(version), weights_of(version))
        source.request(["a"], version)
    source.retire(5)
    assert list(source._ready) == [5]
    assert not source._store.has((4, "a")) and source._store.has((5, "a"))
    with pytest.raises(LabelConflictError, match="version 5"):
        source.publish(TeacherRef(5, "other"), weights_of(5))
    source.publish(TeacherRef(4, "other"), weights_of(4))  # nobody asks for that version again
    assert same(source.take(["a"], 5)[0], expected("a", 5))
    assert annotator.calls == [(4, "a"), (5, "a")]
