"""With which numbers of samples a search goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ray import tune

from raydet.config.run import RunConfig
from raydet.errors import ConfigError
from raydet.sweep.definition import read_definition
from raydet.sweep.folder import SweepFolder
from raydet.sweep.run import _planned, _resumed
from raydet.sweep.space import Sweep
from tests.helpers import tiny_config

RANDOM = Sweep("?", {"method.unsup_reg_weight": tune.uniform(0.5, 1.0)}, samples=4)
OPTUNA = replace(RANDOM, search="optuna")


@pytest.fixture
def base(tmp_path: Path) -> RunConfig:
    return tiny_config(tmp_path / "run")


def begun(home: Path, sweep: Sweep, base: RunConfig, *, samples: int | None = None) -> SweepFolder:
    if sweep.search == "optuna":
        pytest.importorskip("optuna")
    home.mkdir()
    folder = SweepFolder(home)
    folder.begin(*_planned(folder, sweep, "name", base, samples, [base.seed]))
    return folder


def resumed(folder: SweepFolder, sweep: Sweep, base: RunConfig, *, samples: int | None = None) -> tuple[int, int]:
    """Go on; return the samples that the search then has, and its trials."""
    header, trials = _resumed(folder, sweep, "name", base, samples, [], retry_failed=False)
    folder.save_header(header)
    return read_definition(folder.path).samples, len(trials)


def test_other_samples_in_the_space_file_are_refused(tmp_path: Path, base: RunConfig):
    folder = begun(tmp_path / "home", RANDOM, base)
    for samples in (32, 2):
        with pytest.raises(ConfigError, match=f"the space file's samples: 4 -> {samples}\nset it back, or start"):
            resumed(folder, replace(RANDOM, samples=samples), base)
    assert resumed(folder, RANDOM, base) == (4, 4)


def test_more_samples_in_the_space_file_are_asked_of_optuna_and_fewer_are_refused(tmp_path: Path, base: RunConfig):
    folder = begun(tmp_path / "home", OPTUNA, base)
    with pytest.raises(ConfigError, match="the space file's samples: 4 -> 2"):
        resumed(folder, replace(OPTUNA, samples=2), base)
    assert resumed(folder, replace(OPTUNA, samples=32), base) == (32, 0)
    assert resumed(folder, replace(OPTUNA, samples=32), base) == (32, 0)
    assert resumed(folder, replace(OPTUNA, samples=32), base, samples=64) == (64, 0)
    with pytest.raises(ConfigError, match="--samples: 64 -> 32"):
        resumed(folder, replace(OPTUNA, samples=32), base, samples=32)


def test_a_search_goes_on_with_the_samples_of_its_command_line_while_its_file_is_as_it_was(
    tmp_path: Path, base: RunConfig
):
    folder = begun(tmp_path / "home", RANDOM, base, samples=6)
    assert resumed(folder, RANDOM, base) == (6, 6)
    assert resumed(folder, RANDOM, base, samples=6) == (6, 6)
    with pytest.raises(ConfigError, match="--samples: 6 -> 4"):
        resumed(folder, RANDOM, base, samples=4)
    assert resumed(folder, replace(RANDOM, samples=6), base) == (6, 6)  # the file now says the same


def test_a_search_that_does_not_say_what_its_file_said_goes_on(tmp_path: Path, base: RunConfig):
    folder = begun(tmp_path / "home", RANDOM, base, samples=6)
    header = json.loads(folder.header_file.read_text())
    del header["file_samples"]  # up to version 0.1
    folder.header_file.write_text(json.dumps(header))
    assert resumed(folder, RANDOM, base) == (6, 6)
