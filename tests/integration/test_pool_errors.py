"""What cannot go on in the teacher pool is an error that says what and why, soon and once."""

import time

import pytest
import ray

from raydet.arithmetic import Arithmetic
from raydet.errors import LabelConflictError, LabelTimeoutError, StorageError
from raydet.labels.segment import LabelStoreError
from raydet.pool.messages import TeacherError
from raydet.pool.source import PoolSource
from raydet.records import TeacherRef
from tests.integration.pool_fakes import (
    CannotBeBuilt,
    DiesAtStart,
    Factory,
    SaysItsArithmetic,
    assert_right,
    client,
    names,
    pool,
    publish,
    teachers,
    wait_until,
)
from tests.unit.labels.fakes import weights_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(180)]


def test_a_bad_image_is_an_error_that_names_it_and_costs_the_others_nothing(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log", bad=("i2",)), actors=1, images_per_call=4) as broker:
        source = client(broker)
        publish(source, 1)
        source.request(names(8), 1)
        with pytest.raises(TeacherError, match="failed on images i2:\n(.|\n)*OSError: i2 is not an image"):
            source.take(names(8), 1)
        rest = [image_id for image_id in names(8) if image_id != "i2"]
        assert_right(source.take(rest, 1), rest, 1)
        with pytest.raises(TeacherError, match="i2"):
            source.flush()


def test_teachers_are_told_what_the_training_processes_compute_in_and_told_again_by_a_restarted_broker(tmp_path):
    with pool(tmp_path, SaysItsArithmetic(), actors=1) as broker:
        source = PoolSource(broker, rank=0, attempt=1, begun=Arithmetic("cpu", "bf16"), timeout_s=40, poll_s=0.5)
        source.rewind(0)
        publish(source, 1)
        with pytest.raises(TeacherError, match=r"a: Arithmetic\(device='cpu', dtype='bf16'\)"):
            source.take(["a"], 1)
        ray.kill(broker, no_restart=False)
        with pytest.raises(TeacherError, match=r"b: Arithmetic\(device='cpu', dtype='bf16'\)"):
            source.take(["b"], 1)


def test_an_image_that_kills_its_teachers_is_given_up(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log", deadly=("i2",)), actors=1, images_per_call=1) as broker:
        source = client(broker)
        publish(source, 1)
        with pytest.raises(TeacherError, match="failed on images i2:\ni2: 4 teacher actors died"):
            source.take(names(4), 1)


def test_a_teacher_that_cannot_be_built_is_an_error_at_once(tmp_path):
    with pool(tmp_path, CannotBeBuilt(), actors=1) as broker:
        source = client(broker)
        publish(source, 1)
        with pytest.raises(TeacherError, match="could not be set up(.|\n)*no such data folder"):
            source.take(["a"], 1)


def test_teachers_that_die_at_start_are_an_error_and_not_an_endless_loop(tmp_path):
    with pool(tmp_path, DiesAtStart(), actors=1) as broker:
        source = client(broker, timeout_s=80)
        with pytest.raises(TeacherError, match="5 teacher actors in a row died at start"):
            source.take(["a"], 1)


def test_timeouts_name_the_keys_and_the_cause(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log", delay_s=30), actors=1) as broker:
        wait_until(lambda: teachers(broker))
        source = client(broker, timeout_s=3)
        publish(source, 1)
        with pytest.raises(LabelTimeoutError, match=r"timeout_s=3 s for \(1, 'b'\). 1 teacher actor is at work"):
            source.take(["b"], 1)
        with pytest.raises(LabelTimeoutError, match=r"\(7, 'a'\). The weights of version 7 are not there"):
            source.take(["a"], 7)


def test_too_few_resources_are_named_as_the_cause(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1, resources={"teacher": 1}) as broker:
        assert teachers(broker) == {}  # the broker itself is up
        source = client(broker, timeout_s=3)
        publish(source, 1)
        with pytest.raises(LabelTimeoutError, match="No teacher actor has started"):
            source.take(["a"], 1)


def test_a_broker_that_is_gone_for_good_is_an_error_long_before_the_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr("raydet.pool.source._GONE_S", 1.0)
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        source = client(broker, timeout_s=80)
        source.request(["a"], 1)
        ray.kill(broker)
        with pytest.raises(LabelTimeoutError, match=r"broker does not answer, asked for \(1, 'a'\)"):
            source.take(["a"], 1)


def test_a_damaged_store_is_an_error_that_names_the_file(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        source = client(broker)
        publish(source, 1)
        source.take(["a"], 1)
        source.flush()
    (file,) = (tmp_path / "labels").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-1])
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        source = client(broker, version=1)
        with pytest.raises(LabelStoreError, match=file.name):
            source.take(["a"], 1)


def test_a_disk_that_is_full_in_the_background_is_an_error_that_says_so(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        source = client(broker)
        (tmp_path / "labels" / ".unflushed.broker.arrows").symlink_to("/dev/full")
        publish(source, 1)
        with pytest.raises(
            StorageError, match=r"\.unflushed\.broker\.arrows: the disk is full \(.* were to be written"
        ):
            source.take(["a"], 1)


def test_one_version_with_two_weights_is_an_error(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        source = client(broker)
        publish(source, 1)
        source.take(["a"], 1)
        source.publish(TeacherRef(1, "other"), weights_of(1))
        with pytest.raises(LabelConflictError, match="version 1"):
            for _ in range(50):
                source.take(["b"], 1)
                time.sleep(0.1)
