"""Where a search may begin."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest
from ray import tune

from raydet.errors import ConfigError, StorageError
from raydet.sweep.folder import SweepFolder, Trial, header_of
from raydet.sweep.space import Sweep
from tests.helpers import tiny_config

SWEEP = Sweep("?", {"method.unsup_reg_weight": tune.grid_search([0.5])})
TRIAL = Trial("0000", 0, 3, {}, {})


def begin(folder: SweepFolder) -> None:
    folder.check_free()
    folder.begin(header_of("beta", SWEEP, tiny_config(folder.path), (3,), 1), [TRIAL])


def test_logs_notes_and_hidden_files_may_lie_where_a_search_begins(tmp_path: Path):
    for name in ("tune.log", "slurm-1.out", "notes.md", "job.sh", "mine.yaml", ".gitignore", ".lock"):
        (tmp_path / name).write_text("x")
    begin(SweepFolder(tmp_path))
    assert (tmp_path / "sweep.json").is_file() and (tmp_path / "notes.md").read_text() == "x"


def test_a_search_begins_where_an_earlier_start_was_killed_and_removes_what_it_was_writing(tmp_path: Path):
    folder = SweepFolder(tmp_path)
    folder.save(TRIAL)
    (folder.run_dir("0000") / ".writing-12345678-trial.json").write_text("{")
    folder.save(Trial("0007", 7, 3, {}, {}))  # of a start with more points
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labeled.arrow").write_bytes(b"")
    (tmp_path / ".writing-12345678-sweep.json").write_text("{")
    begin(folder)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "sweep.json", "trials"]
    assert [each.name for each in tmp_path.glob("trials/*/*")] == ["trial.json"]


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("picture.png", "picture.png"),
        ("data/picture.png", "data"),
        ("trials/picture.png", "trials"),
        ("trials/0000/metrics.jsonl", "trials"),
        ("best/config.json", "best"),
    ],
)
def test_a_search_does_not_begin_beside_what_somebody_else_has_put_there(tmp_path: Path, file: str, named: str):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("x")
    with pytest.raises(ConfigError, match=f"{tmp_path} holds {named} and no search; choose another run.dir"):
        SweepFolder(tmp_path).check_free()


def test_a_file_of_the_name_of_the_trials_folder_is_not_taken_for_it(tmp_path: Path):
    (tmp_path / "trials").write_text("x")
    with pytest.raises(ConfigError, match="holds trials and no search"):
        SweepFolder(tmp_path).check_free()


def test_a_file_system_without_locks_is_named_when_a_searcher_adds_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    with (
        pytest.raises(
            StorageError, match=rf"{tmp_path}/\.count: the file system has no locks \(.*; mount it with them"
        ),
        SweepFolder(tmp_path).counting(),
    ):
        pass


def test_one_who_adds_a_trial_waits_for_another_who_does_so(tmp_path: Path):
    folder, seen = SweepFolder(tmp_path), []

    def count() -> None:
        with folder.counting():
            seen.append("second")

    with folder.counting():
        other = threading.Thread(target=count)
        other.start()
        other.join(0.3)
        seen.append("first")
    other.join(10)
    assert seen == ["first", "second"]
