"""That `benchmarks/gpu.py`, which wants a GPU, would work on one: its measuring code on a double of it."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.device_double import DEVICE, waits

pytestmark = pytest.mark.timeout(600)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module, each of its steps on the double: a mode of torch is one thread's, and its loop has one of
    its own."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    script, common = importlib.import_module("gpu"), importlib.import_module("common")
    loop = common.SteppedTrainer._run

    def on_the_double(self: object) -> None:
        with waits():
            loop(self)

    monkeypatch.setattr(common.SteppedTrainer, "_run", on_the_double)
    monkeypatch.setattr(script, "SKIPPED", 1)
    yield script
    for name in {"gpu", "gpu_reference", "common"} - before:
        del sys.modules[name]


def test_the_gpu_benchmark_measures_raydets_step_and_torchvisions_on_the_device(gpu: ModuleType, tmp_path: Path):
    options = Namespace(smoke=True, out=tmp_path, loader_threads=0, steps=1)
    with waits():
        row, batch = gpu.measure(gpu.config_for(options, 1, "fp32", False, None), DEVICE, steps=1)
        beside = gpu.measure_torchvision(batch, "fp32", DEVICE, steps=1, is_tiny=True)
    assert (row.kind, row.images, row.views) == ("raydet", 2, 3)  # a labelled image has two views
    assert min(row.step_s, row.network_s, row.publish_s) > 0
    assert (beside.kind, beside.images, beside.views) == ("torchvision", 3, 3)
    assert min(beside.step_s, beside.network_s) > 0 and beside.publish_s is None
    assert [str(each).count(" | ") for each in (row, beside)] == [len(gpu.COLUMNS) - 1] * 2
