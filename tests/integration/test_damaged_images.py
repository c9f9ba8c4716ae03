"""Pictures that are damaged while a run is going on: it ends with the way out, and the way out works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raydet.errors import DataError
from raydet.families.detection.data import BOXES
from raydet.metrics import read_metrics
from raydet.train.launch import launch
from tests.helpers import tiny_config
from tests.integration.runs import assert_same_bits, label_keys, losses
from tests.ranks import Ranks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(480)]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended because of a picture: stopped after a few steps, damaged, and resumed in vain."""
    run = tmp_path_factory.mktemp("broken") / "run"
    launch(tiny_config(run, optim__steps=14, run__stop_at=9))
    data = BOXES.open(run / "data")
    assert data.unlabeled is not None and data.val is not None
    for file in (data.unlabeled.file_at(0), data.unlabeled.file_at(3), data.val.file_at(1)):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=r"bytes, not .* go on without such pictures: --resume data.on_bad_image=skip"):
        launch(tiny_config(run, optim__steps=14), resume=True)
    return run


def resumed(run: Path, **changes: object) -> Path:
    launch(tiny_config(run, optim__steps=14, data__on_bad_image="skip", **changes), resume=True)
    return run


@pytest.fixture(scope="module")
def mended(broken: Path) -> Path:
    """The same run after the advice was followed."""
    return resumed(Path(shutil.copytree(broken, broken.parent / "mended")))


def test_the_advice_works_and_the_pictures_are_listed(mended: Path, broken: Path):
    assert [line["reason"] for line in read_metrics(mended / "metrics.jsonl") if line["kind"] == "end"][-1] == "done"
    before = BOXES.open(broken / "data")
    assert before.unlabeled is not None and before.val is not None
    lines = [json.loads(line) for line in (mended / "data" / "skipped.jsonl").read_text().splitlines()]
    damaged = {before.unlabeled.id_at(0), before.unlabeled.id_at(3)}
    assert {line["id"] for line in lines if line["set"] == "unlabeled"} == damaged
    assert [line["id"] for line in lines if line["set"] == "val"] == [before.val.id_at(1)]
    late = {image_id for version, image_id in label_keys(mended) if version > 9}
    assert late and late.isdisjoint(damaged)


def test_how_it_goes_on_is_a_function_of_seed_and_step(mended: Path, broken: Path, tmp_path: Path):
    again = resumed(Path(shutil.copytree(broken, tmp_path / "again")), run__stop_at=12)
    assert_same_bits(resumed(again), mended)


def test_it_goes_on_alike_on_two_workers(mended: Path, broken: Path, tmp_path: Path, ranks: Ranks):
    with ranks.instead_of_ray():
        two = resumed(Path(shutil.copytree(broken, tmp_path / "two")), cluster__backend="ray", cluster__workers=2)
    assert label_keys(two) == label_keys(mended)  # the same images by the same teacher versions
    for line, other in zip(losses(two), losses(mended), strict=True):
        for name, value in other.items():
            assert line[name] == pytest.approx(value, rel=2e-3, abs=1e-5), (line["step"], name)
