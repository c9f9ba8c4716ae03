"""What a search says at its end of trials that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.errors import RunError, StorageError
from raydet.sweep import trial as trials
from raydet.sweep.definition import read_definition
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.run import _check_came_to_something
from tests.sweeps import BETA, add_trial, write_search


def test_a_trial_that_found_the_disk_full_is_told_though_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 0.5}, {40: 0.3})

    def on_a_full_disk(*arguments: object, **options: object) -> None:
        raise StorageError("RUN/labels/part-1.arrow: the disk is full; make room there")

    monkeypatch.setattr(trials, "launch", on_a_full_disk)
    failing = home.save(Trial("0001", 1, 0, {BETA: 1.0}, {BETA: 1.0}))
    trials._Training(home, read_definition(home.path).base, failing).run()
    assert home.trial("0001").state == "failed"
    with pytest.raises(RunError) as found:
        _check_came_to_something(home)
    assert str(found.value) == (
        "1 of 2 trials failed; trial 0001: StorageError: RUN/labels/part-1.arrow: the disk is full; make room there. "
        "When that is mended, go on with --resume --retry-failed"
    )


def test_a_trial_that_failed_otherwise_is_no_error_of_the_search_while_another_is_done(tmp_path: Path):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 0.5}, {40: 0.3})
    add_trial(home, "0001", {BETA: 1.0}, state="failed", message="NonFiniteLossError: loss_cls is NaN at step 3")
    _check_came_to_something(home)
    home.save(home.trial("0000"), state="failed", message="NonFiniteLossError: loss_cls is NaN at step 1")
    with pytest.raises(RunError, match="2 of 2 trials failed; trial 0000: NonFiniteLossError"):
        _check_came_to_something(home)


def test_a_search_that_began_no_trial_has_failed(tmp_path: Path):
    home = SweepFolder(tmp_path)
    with pytest.raises(RunError, match=f"^{tmp_path}: no trial was begun; what stopped them is in the lines above"):
        _check_came_to_something(home)
