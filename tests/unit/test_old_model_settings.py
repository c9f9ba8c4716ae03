"""Run folders of before `weights` had to be chosen are still read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydet.train.rundir import RunFolder
from tests.helpers import tiny_config


@pytest.mark.parametrize("backbone", ["resnet50_fpn", "small_gn"])
def test_a_saved_configuration_with_null_weights_is_that_of_a_run_from_scratch(tmp_path: Path, backbone: str):
    config = tiny_config(tmp_path / "run", model={"backbone": backbone, "weights": None})
    RunFolder(tmp_path / "run").prepare(config, resume=False)
    file = tmp_path / "run" / "config.json"
    tree = json.loads(file.read_text())
    assert tree["model"]["weights"] is None
    del tree["model"]["fpn_strides"]  # older ones had none
    file.write_text(json.dumps(tree))
    assert RunFolder(tmp_path / "run").load_config() == config
    RunFolder(tmp_path / "run").check(config, resume=True)  # and may be resumed
