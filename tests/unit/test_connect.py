"""A local Ray that does not come up."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from raydet.cluster.connect import connected
from raydet.config.run import ClusterConfig
from raydet.errors import RunError


def fails(message: str) -> Any:
    def init(**options: Any) -> None:
        raise Exception(message)  # what Ray itself raises

    return init


def test_a_ray_that_does_not_come_up_in_time_is_one_message(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails("The current node timed out during startup. This could happen because ..."))
    said = r"^no Ray came up on this machine in time: \d+ programs want its \d+ cores"
    with pytest.raises(RunError, match=said), connected(ClusterConfig(), cpus=1):
        pass


def test_what_nobody_expects_stays_what_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails("something else"))
    with pytest.raises(Exception, match="something else"), connected(ClusterConfig(), cpus=1):
        pass
