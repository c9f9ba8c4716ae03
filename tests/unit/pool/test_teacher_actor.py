import subprocess
import sys

import pytest
from ray import cloudpickle

from raydet.errors import DataError
from raydet.pool.actors import TeacherActor
from tests.unit.labels.fakes import FakeAnnotator, ref_of, weights_of


class Unreadable(FakeAnnotator):
    def label(self, image_ids):
        raise DataError(f"{image_ids[0]}.jpg: not an image")


def actor_with(annotator) -> TeacherActor:
    actor = TeacherActor(cloudpickle.dumps(lambda: annotator), threads=1)
    actor.start()
    return actor


def test_a_teacher_refuses_a_version_that_it_has_not_loaded():
    annotator = FakeAnnotator()
    actor = actor_with(annotator)
    actor._annotator.load(ref_of(1), weights_of(1))
    actor._loaded = (1, ref_of(1).digest)
    assert actor.label(1, ref_of(1).digest, [], ["a"]).table["version"].to_pylist() == [1]
    for version, digest in ((2, ref_of(1).digest), (1, "other")):
        with pytest.raises(RuntimeError, match=f"asked to label with teacher {version}"):
            actor.label(version, digest, [], ["a"])


def test_one_bad_image_costs_the_others_nothing():
    actor = actor_with(FakeAnnotator(bad=["b"]))
    actor._annotator.load(ref_of(1), weights_of(1))
    actor._loaded = (1, ref_of(1).digest)
    answer = actor.label(1, ref_of(1).digest, [], ["a", "b", "c"])
    assert answer.table["image_id"].to_pylist() == ["a", "c"]
    assert list(answer.failures) == ["b"] and "Traceback" in answer.failures["b"]


def test_a_users_mistake_is_told_without_a_traceback():
    actor = actor_with(Unreadable())
    actor._loaded = (1, "d")
    answer = actor.label(1, "d", [], ["a"])
    assert answer.table is None and answer.failures == {"a": "a.jpg: not an image"}


def test_the_broker_restarts_fast_because_it_needs_no_torch():
    code = "import sys, raydet.pool.broker; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
