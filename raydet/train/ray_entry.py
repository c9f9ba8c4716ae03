"""What Ray Train calls in each worker. Needs nothing before it is called: Ray Train's controller imports it, too, and
workers start only after the controller."""

from __future__ import annotations

from typing import Any


def worker(spec: dict[str, Any]) -> None:
    """Run one rank; see `raydet.train.on_ray.run_worker`."""
    from raydet.train.on_ray import run_worker

    run_worker(spec)
