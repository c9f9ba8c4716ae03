import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from raydet.labels.desk import LabelDesk


def desk_with(version: int, *ids: str) -> LabelDesk:
    desk = LabelDesk()
    desk.publish(version)
    desk.request(version, ids)
    return desk


def test_oldest_version_first_then_the_order_of_requests():
    desk = desk_with(20, "c", "b")
    desk.publish(10)
    desk.request(10, ["z", "a", "a"])
    assert desk.assign("x", 8) == [(10, "z"), (10, "a")]  # one version per call, though 8 were asked for
    assert desk.assign("x", 1) == [(20, "c")]
    assert desk.assign("x", 8) == [(20, "b")]
    assert desk.assign("x", 8) == []


def test_only_published_versions_are_assigned():
    desk = LabelDesk()
    desk.request(5, ["a"])
    assert desk.assign("x", 1) == []
    assert desk.unpublished() == [5]
    desk.publish(5)
    assert desk.assign("x", 1) == [(5, "a")]


def test_asking_again_changes_nothing_in_any_state():
    desk = desk_with(1, "wanted", "assigned", "ready", "failed")
    for _ in range(4):
        desk.assign("x", 1)
    desk.actor_died("x")
    assert desk.assign("x", 4) == [(1, "wanted"), (1, "assigned"), (1, "ready"), (1, "failed")]
    desk.answer("x", (1, "ready"))
    desk.fail("x", (1, "failed"), "why")
    desk.give_back("x", [(1, "wanted")])
    assert desk.request(1, ["failed", "ready", "assigned", "wanted", "wanted"]) == []
    counts = desk.counts()
    assert (counts.wanted, counts.assigned, counts.ready, counts.failed, counts.requested) == (1, 1, 1, 1, 4)


def test_a_second_answer_is_ignored_and_so_is_one_from_a_replaced_actor():
    desk = desk_with(1, "a")
    desk.assign("old", 1)
    desk.actor_died("old")
    desk.assign("new", 1)
    assert not desk.answer("old", (1, "a"))
    assert desk.answer("new", (1, "a"))
    assert not desk.answer("new", (1, "a"))
    assert not desk.fail("new", (1, "a"), "too late")
    assert desk.counts().ignored == 3
    assert desk.is_ready((1, "a"))


def test_a_dead_actors_keys_come_before_newer_requests():
    desk = desk_with(1, "a", "b", "c", "d")
    desk.assign("x", 2)
    assert desk.actor_died("x") == [(1, "a"), (1, "b")]
    assert desk.assign("y", 4) == [(1, "a"), (1, "b"), (1, "c"), (1, "d")]


def test_an_actor_gives_back_only_what_it_holds():
    desk = desk_with(1, "a", "b")
    desk.assign("x", 1)
    desk.assign("y", 1)
    desk.give_back("x", [(1, "a"), (1, "b"), (2, "never asked for")])
    assert desk.assign("z", 4) == [(1, "a")]
    assert desk.answer("y", (1, "b"))


def test_answers_for_dropped_keys_are_ignored():
    desk = desk_with(7, "a")
    desk.assign("x", 1)
    desk.drop_newer(6)
    assert not desk.answer("x", (7, "a"))
    assert desk.request(7, ["a"]) == ["a"]
    assert desk.assign("x", 1) == []  # version 7 has to be published again


def test_retiring_forgets_older_versions_only():
    desk = desk_with(1, "a")
    desk.publish(2)
    desk.request(2, ["b"])
    desk.retire(2)
    assert desk.counts().forgotten == 1
    assert desk.assign("x", 2) == [(2, "b")]


def test_what_the_store_has_is_ready_without_an_actor():
    desk = LabelDesk()
    desk.request(3, ["a", "b"])
    desk.found(3, ["a"])
    assert desk.missing(3, ["a", "b"]) == ["b"]
    with pytest.raises(KeyError):
        desk.found(3, ["unknown"])


def test_what_is_ready_failed_or_unpublished_waits_for_no_actor():
    desk = desk_with(1, "a", "b", "c")
    desk.request(2, ["a", "b"])
    assert desk.assignable() == 3  # two more wait for their teacher
    assert desk.unpublished() == [2]
    desk.found(1, ["b"])
    assert desk.assignable() == 2 and desk.is_ready((1, "b"))
    assert desk.assign("x", 0) == [] and desk.assign("x", -1) == []
    assert desk.assign("x", 3) == [(1, "a"), (1, "c")]
    assert desk.assignable() == 0


def test_every_return_of_a_dead_actor_counts():
    desk = desk_with(1, "a", "b", "c")
    desk.assign("x", 2)
    desk.actor_died("x")
    desk.assign("y", 1)
    desk.actor_died("y")
    assert desk.counts().returned == 3


def test_what_was_forgiven_has_not_failed():
    desk = desk_with(1, "a")
    desk.assign("x", 1)
    desk.fail("x", (1, "a"), "unreadable")
    desk.forgive()
    assert desk.failures(1, ["a"]) == {} and desk.counts().failed == 0
    assert desk.assign("x", 1) == [(1, "a")]


def test_failures_are_kept_until_they_are_forgiven():
    desk = desk_with(1, "a", "b")
    desk.assign("x", 2)
    desk.fail("x", (1, "a"), "not an image")
    assert desk.failures(1, ["a", "b"]) == {"a": "not an image"}
    assert desk.assign("x", 2) == []
    desk.forgive()
    assert desk.assign("x", 2) == [(1, "a")]


VERSIONS, IDS, ACTORS = st.integers(0, 4), st.sampled_from("abcdef"), st.sampled_from(["x", "y"])
KEYS = st.tuples(VERSIONS, IDS)


class DeskMachine(RuleBasedStateMachine):
    """Any order of events, against a model that is one dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = LabelDesk()
        self.state: dict[tuple[int, str], str] = {}
        self.published: set[int] = set()

    @rule(version=VERSIONS, ids=st.lists(IDS))
    def request(self, version, ids):
        self.desk.request(version, ids)
        for image_id in ids:
            self.state.setdefault((version, image_id), "wanted")

    @rule(version=VERSIONS)
    def publish(self, version):
        self.desk.publish(version)
        self.published.add(version)

    @rule(version=VERSIONS)
    def unpublish(self, version):
        self.desk.unpublish(version)
        self.published.discard(version)

    @rule(actor=ACTORS, number=st.integers(0, 4))
    def assign(self, actor, number):
        ready_to_go = {v for (v, _), state in self.state.items() if state == "wanted" and v in self.published}
        keys = self.desk.assign(actor, number)
        assert len(keys) <= number
        assert bool(keys) == bool(ready_to_go and number)
        for key in keys:
            assert self.state[key] == "wanted"
            assert key[0] == min(ready_to_go)
            self.state[key] = actor

    @rule(actor=ACTORS, key=KEYS)
    def answer(self, actor, key):
        assert self.desk.answer(actor, key) == (self.state.get(key) == actor)
        if self.state.get(key) == actor:
            self.state[key] = "ready"

    @rule(actor=ACTORS, key=KEYS)
    def fail(self, actor, key):
        assert self.desk.fail(actor, key, "why") == (self.state.get(key) == actor)
        if self.state.get(key) == actor:
            self.state[key] = "failed"

    @rule(actor=ACTORS)
    def die(self, actor):
        lost = {key for key, state in self.state.items() if state == actor}
        assert set(self.desk.actor_died(actor)) == lost
        self.state.update(dict.fromkeys(lost, "wanted"))

    @rule(version=VERSIONS)
    def drop_newer(self, version):
        self.desk.drop_newer(version)
        self.state = {key: state for key, state in self.state.items() if key[0] <= version}
        self.published = {v for v in self.published if v <= version}

    @rule(version=VERSIONS)
    def retire(self, version):
        self.desk.retire(version)
        self.state = {key: state for key, state in self.state.items() if key[0] >= version}
        self.published = {v for v in self.published if v >= version}

    @invariant()
    def nothing_is_lost(self):
        counts = self.desk.counts()
        states = list(self.state.values())
        assert counts.wanted == states.count("wanted")
        assert counts.assigned == states.count("x") + states.count("y")
        assert counts.ready == states.count("ready")
        assert counts.failed == states.count("failed")
        assert counts.wanted + counts.assigned + counts.ready + counts.failed == counts.requested - counts.forgotten


TestDeskMachine = DeskMachine.TestCase


@given(st.lists(IDS, unique=True, min_size=1), st.integers(1, 3), st.data())
def test_every_label_is_made_in_the_end_however_often_actors_die(ids, number, data):
    desk = desk_with(0, *ids)
    for _ in range(30):
        keys = desk.assign("x", number)
        if data.draw(st.booleans()):
            desk.actor_died("x")
        for key in keys:
            desk.answer("x", key)
    while keys := desk.assign("x", number):
        for key in keys:
            assert desk.answer("x", key)
    assert desk.missing(0, ids) == []
