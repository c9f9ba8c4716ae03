"""The teacher pool on a local Ray, with a teacher that costs nothing. Every wait has a timeout."""

import os
import signal
import time

import pytest
import ray

from raydet.labels.schedule import LabelSchedule
from raydet.labels.source import InlineSource
from raydet.labels.store import PseudoLabelStore, read_all
from raydet.pool.source import PoolSource
from tests.integration.pool_fakes import (
    Factory,
    Owner,
    Rank,
    assert_right,
    broker_pid,
    client,
    is_alive,
    names,
    pool,
    publish,
    teachers,
    wait_until,
)
from tests.unit.labels.fakes import FakeAnnotator, fake_label, ref_of, same, weights_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(180)]


def train(source, schedule, last, *, first=0, images=4):
    """The training loop's use of a source, with a checkpoint every 10 steps; returns every label taken."""
    source.rewind(first)
    published = [step for step in range(first) if schedule.is_publish_step(step)]
    publish(source, *published[-1:])
    asked, taken = first, {}
    for step in range(first, last):
        if step > first and step % 10 == 0:
            source.flush()
        if schedule.is_publish_step(step):
            publish(source, step)
            source.retire(schedule.version_for(step))
        while asked <= step + schedule.lookahead:
            version = schedule.version_for(asked)
            if version is not None and version > step:
                break
            if version is not None:
                source.request(names(images, f"{asked % 7}-"), version)
            asked += 1
        version = schedule.version_for(step)
        if version is not None:
            taken[step] = source.take(names(images, f"{step % 7}-"), version)
    return taken


SCHEDULE = LabelSchedule.moving(3, publish_every=2, lookahead=4)


class Overheard:
    """A broker whose calls of `take` are noted, with the images."""

    def __init__(self, broker) -> None:
        self.broker, self.taken, self.take = broker, [], self

    def remote(self, attempt, incarnation, version, image_ids, wait_s):
        self.taken.append(list(image_ids))
        return self.broker.take.remote(attempt, incarnation, version, image_ids, wait_s)

    def __getattr__(self, name):
        return getattr(self.broker, name)


def test_the_next_labels_are_called_for_while_the_step_trains(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log")) as broker:
        heard = Overheard(broker)
        source = PoolSource(heard, rank=0, attempt=1, timeout_s=100, poll_s=50)  # no call runs out
        source.rewind(0)
        publish(source, 0)
        for prefix in ("a", "b"):
            source.request(names(2, prefix), 0)
        assert_right(source.take(names(2, "a"), 0), names(2, "a"), 0)
        assert heard.taken[-1] == ["b0", "b1"]  # before anybody took them
        calls = len(heard.taken)
        assert_right(source.take(names(2, "c"), 0), names(2, "c"), 0)  # others than those that come next
        assert heard.taken[calls:] == [["c0", "c1"], ["b0", "b1"]]
        assert_right(source.take(names(2, "b"), 0), names(2, "b"), 0)
        assert len(heard.taken) == calls + 2  # that call was used


@pytest.mark.parametrize("actors", [1, 2, 3])
def test_the_pool_gives_the_labels_that_the_inline_source_gives(tmp_path, actors):
    inline = train(InlineSource(FakeAnnotator(), PseudoLabelStore(tmp_path / "inline", "rank0")), SCHEDULE, 25)
    with pool(tmp_path, Factory(tmp_path / "log", delay_s=0.005), actors=actors) as broker:
        wait_until(lambda: len(teachers(broker)) == actors)
        pooled = train(PoolSource(broker, rank=0, attempt=1, timeout_s=40), SCHEDULE, 25)
    assert inline.keys() == pooled.keys() == set(range(3, 25))
    assert all(same(a, b) for s in inline for a, b in zip(inline[s], pooled[s], strict=True))


@pytest.mark.parametrize("fault", ["workers only", "workers and broker"])
def test_a_worker_group_that_is_restarted_takes_the_same_labels(tmp_path, fault):
    inline = train(InlineSource(FakeAnnotator(), PseudoLabelStore(tmp_path / "inline", "rank0")), SCHEDULE, 25)
    with pool(tmp_path, Factory(tmp_path / "log", delay_s=0.002), actors=1) as broker:
        train(PoolSource(broker, rank=0, attempt=1, timeout_s=40), SCHEDULE, 18)
        if fault == "workers and broker":
            os.kill(broker_pid(broker), signal.SIGKILL)
        again = train(PoolSource(broker, rank=0, attempt=2, timeout_s=40), SCHEDULE, 25, first=10)
    assert again.keys() == set(range(10, 25))
    assert all(same(a, b) for s in again for a, b in zip(inline[s], again[s], strict=True))


def test_labels_are_shared_made_once_and_on_disk_after_a_flush(tmp_path):
    factory = Factory(tmp_path / "log")
    with pool(tmp_path, factory, actors=2) as broker:
        source = client(broker)
        publish(source, 1)
        source.request(names(6), 1)
        source.request(names(6), 1)
        source.flush()
        assert sum(table.num_rows for table in read_all(tmp_path / "labels")) == 6
        assert_right(source.take(["i3", "i0", "i3"], 1), ["i3", "i0", "i3"], 1)
        assert_right(client(broker, rank=1).take(["i3"], 1), ["i3"], 1)
        assert source.take([], 1) == []
        assert source.stats()["labels/made"] == 6
    assert sorted(image_id for _, image_id, _ in factory.made()) == names(6)


def test_killed_teachers_are_replaced_and_nothing_is_lost(tmp_path):
    factory = Factory(tmp_path / "log", delay_s=0.05)
    with pool(tmp_path, factory, actors=2) as broker:
        source = client(broker)
        publish(source, 1)
        source.request(names(60), 1)
        wait_until(lambda: len(factory.made()) > 5 and len(teachers(broker)) == 2)
        first = teachers(broker)
        os.kill(next(iter(first.values())), signal.SIGKILL)
        assert_right(source.take(names(60), 1), names(60), 1)
        wait_until(lambda: len(teachers(broker)) == 2 and teachers(broker) != first)
        source.take(["i1"], 1)
        assert source.stats()["labels/relabelled"] > 0


def test_a_killed_broker_comes_back_with_what_is_on_disk_and_is_told_the_rest(tmp_path):
    factory = Factory(tmp_path / "log", delay_s=0.05)
    with pool(tmp_path, factory, actors=2) as broker:
        source = client(broker)
        publish(source, 1)
        source.request(names(10), 1)
        source.flush()
        publish(source, 2)
        source.request(names(40), 2)
        wait_until(lambda: len(factory.made()) > 15)
        orphans = teachers(broker)
        os.kill(broker_pid(broker), signal.SIGKILL)
        assert_right(source.take(names(40), 2), names(40), 2)
        assert_right(source.take(names(10), 1), names(10), 1)
        made = [key[:2] for key in factory.made()]
        assert all(made.count((1, image_id)) == 1 for image_id in names(10))  # flushed, hence not made again
        assert source.stats()["pool/repairs"] == 1
        wait_until(lambda: not any(map(is_alive, orphans.values())))


def test_a_broker_killed_while_nobody_was_looking_loses_no_request(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        source = client(broker)
        publish(source, 1)
        os.kill(broker_pid(broker), signal.SIGKILL)
        source.request(names(5), 1)  # lost, or not: nobody can tell
        publish(source, 2)
        source.request(names(5), 2)
        source.flush()
        assert sum(table.num_rows for table in read_all(tmp_path / "labels")) == 10
        assert_right(source.take(names(5), 1), names(5), 1)
        assert_right(source.take(names(5), 2), names(5), 2)


def start_ranks(broker, number):
    return [ray.remote(num_cpus=0.1)(Rank).remote(broker, rank) for rank in range(number)]


def test_any_rank_repairs_a_restarted_broker_while_rank_0_is_busy_elsewhere(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log", delay_s=0.02), actors=1) as broker:
        ranks = start_ranks(broker, 2)
        ray.get([rank.publish.remote(1) for rank in ranks], timeout=40)
        ray.get(ranks[0].take.remote(names(4, "a"), 1), timeout=40)
        os.kill(broker_pid(broker), signal.SIGKILL)
        # rank 0, which alone sends weights, now does nothing: it waits for rank 1 in a reduction
        stats = ray.get(ranks[1].take.remote(names(20, "b"), 1), timeout=60)
        assert stats["pool/repairs"] == 1
        ray.get(ranks[0].take.remote(names(4, "a"), 1), timeout=40)


def test_ranks_that_ask_before_the_teacher_is_published_get_their_labels(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        ranks = start_ranks(broker, 2)
        waiting = ranks[1].take.remote(names(3), 1)  # it has not been told of version 1 either
        time.sleep(1)
        ray.get(ranks[0].publish.remote(1), timeout=40)
        ray.get(waiting, timeout=40)


def test_weights_outlive_the_process_that_sent_them(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        ranks = start_ranks(broker, 2)
        ray.get([rank.publish.remote(1) for rank in ranks], timeout=40)
        ray.get(ranks[0].take.remote(names(2), 1), timeout=40)
        ray.kill(ranks[0])
        (old,) = teachers(broker).values()
        os.kill(old, signal.SIGKILL)  # the next teacher has to load version 1 anew
        stats = ray.get(ranks[1].take.remote(names(8, "b"), 1), timeout=60)
        assert stats["pool/repairs"] == 0


def test_after_a_rewind_newer_labels_are_made_again_and_the_old_group_is_ignored(tmp_path):
    factory = Factory(tmp_path / "log", delay_s=0.05)
    with pool(tmp_path, factory, actors=2) as broker:
        old = client(broker, attempt=1)
        publish(old, 1, 2)
        old.request(names(4), 1)
        old.flush()
        old.request(names(20), 2)
        wait_until(lambda: (2, "i1") in [key[:2] for key in factory.made()])
        new = client(broker, attempt=2, version=1)  # with calls of the old group in flight
        other = weights_of(20)
        new.publish(ref_of(2, other), other)
        old.request(["late"], 2)
        found = new.take(names(20), 2)
        expected = [fake_label(image_id, ref_of(2, other), 160.0) for image_id in names(20)]  # 8 times 20
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
        assert_right(new.take(names(4), 1), names(4), 1)
        with pytest.raises(RuntimeError, match="attempt 1 .* replaced"):
            old.take(["i0"], 2)
        new.flush()
    made = [key[:2] for key in factory.made()]
    assert made.count((1, "i0")) == 1 and made.count((2, "i1")) >= 2 and (2, "late") not in made
    stored = [row for table in read_all(tmp_path / "labels") for row in table.to_pylist() if row["version"] == 2]
    assert len(stored) == 20 and len({row["digest"] for row in stored}) == 1


def test_weights_that_the_object_store_lost_are_sent_again(tmp_path):
    owner = ray.remote(num_cpus=0)(Owner).remote()
    lost = ray.get(owner.put.remote(), timeout=40)
    ray.kill(owner)  # and with it the object

    def lose(broker, lost):
        broker._weights = {version: (digest, lost[0]) for version, (digest, _) in broker._weights.items()}

    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        source = client(broker)
        publish(source, 1, 2)
        assert_right(source.take(["a"], 1), ["a"], 1)
        ray.get(broker.__ray_call__.remote(lose, lost), timeout=30)
        assert_right(source.take(["a"], 2), ["a"], 2)


def test_the_pool_grows_when_labels_are_late_and_shrinks_when_idle(tmp_path):
    factory = Factory(tmp_path / "log", delay_s=0.05)
    settings = {"actors": 1, "min_actors": 1, "max_actors": 3, "images_per_call": 1}
    with pool(tmp_path, factory, **settings) as broker:
        source = client(broker)
        publish(source, 1)
        source.request(names(900), 1)  # 45 s for one teacher: others take seconds to start on a busy machine
        wait_until(lambda: len(teachers(broker)) == 3, timeout_s=60)
        assert_right(source.take(names(900), 1), names(900), 1)
        wait_until(lambda: len(teachers(broker)) == 1)
        assert_right(source.take(["again"], 1), ["again"], 1)
    assert len({pid for _, _, pid in factory.made()}) >= 2


def test_actors_can_be_added_and_removed_while_they_work(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log", delay_s=0.05), actors=1) as broker:
        source = client(broker)
        publish(source, 1)
        source.request(names(60), 1)
        ray.get(broker.resize.remote(2), timeout=30)
        wait_until(lambda: len(teachers(broker)) == 2)
        ray.get(broker.resize.remote(1), timeout=30)
        assert_right(source.take(names(60), 1), names(60), 1)
        assert len(teachers(broker)) == 1


def test_retired_versions_are_forgotten(tmp_path):
    with pool(tmp_path, Factory(tmp_path / "log"), actors=1) as broker:
        source = client(broker)
        publish(source, 1, 2)
        for version in (1, 2):
            source.take(names(3), version)
        source.retire(2)
        assert_right(source.take(names(3), 2), names(3), 2)
        assert source.stats()["pool/ready"] == 3
        source.flush()
        assert sum(table.num_rows for table in read_all(tmp_path / "labels")) == 6
