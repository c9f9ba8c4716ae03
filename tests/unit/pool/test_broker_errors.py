"""What the broker fails with in the background reaches the training processes as what it is; without Ray."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import OutOfMemoryError

from raydet.config.run import PoolConfig
from raydet.errors import LabelConflictError, StorageError
from raydet.labels.segment import LabelStoreError
from raydet.pool.broker import LabelBroker
from raydet.pool.messages import Reply, TeacherError
from raydet.pool.scaling import PoolTiming
from raydet.pool.source import PoolSource


def replied(monkeypatch: pytest.MonkeyPatch, *answers: Reply | Exception) -> PoolSource:
    """Return a source whose broker gives these answers, one a call."""
    left = iter(answers)

    def get(call: object, timeout: float) -> Reply:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("raydet.pool.source.ray.get", get)
    monkeypatch.setattr("raydet.pool.source.time.sleep", lambda seconds: None)
    call = SimpleNamespace(remote=lambda *arguments: None)
    return PoolSource(SimpleNamespace(rewind=call), rank=0, attempt=1)


@pytest.mark.parametrize(
    "error",
    [
        StorageError("/run/labels/.unflushed.broker.arrows: the disk is full; make room there"),
        LabelStoreError("/run/labels/v1.arrow: damaged"),
        LabelConflictError("version 3 has labels of two teachers"),
        TeacherError("a teacher actor could not be set up"),
    ],
)
def test_an_error_with_a_message_is_raised_again_as_itself(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broker = LabelBroker(PoolConfig(), b"", str(tmp_path), None, PoolTiming())
    broker._attempt = 1
    broker._fail(error)
    reply = pickle.loads(pickle.dumps(broker._reply(1)))
    with pytest.raises(type(error)) as found:
        replied(monkeypatch, reply).rewind(0)
    assert (type(found.value), str(found.value)) == (type(error), str(error))


def test_a_bug_keeps_its_traceback(tmp_path: Path):
    broker = LabelBroker(PoolConfig(), b"", str(tmp_path), None, PoolTiming())
    broker._fail(KeyError("odd"))
    assert type(broker._reply(1).error) is TeacherError
    assert str(broker._reply(1).error) == "KeyError: 'odd'\n"


def test_a_broker_that_is_ended_for_its_memory_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    source = replied(monkeypatch, OutOfMemoryError("ended by Ray's memory monitor"), Reply(incarnation="second"))
    source.rewind(0)
    assert source._incarnation == "second"
