"""Checkpoints: visible only when complete, and every kind of damage is named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from raydet import __version__
from raydet.arithmetic import Arithmetic
from raydet.errors import CheckpointError
from raydet.train.checkpoint import (
    begun_with,
    clean_checkpoints,
    folder_of,
    latest_checkpoint,
    open_checkpoint,
    set_aside,
    steps_of,
    write_checkpoint,
)


def _list_in_commit(path: Path, name: str) -> None:
    """Do what a forger would: make COMMIT agree with the file."""
    commit, content = json.loads((path / "COMMIT").read_text()), (path / name).read_bytes()
    commit["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "COMMIT").write_text(json.dumps(commit))


def save(root: Path, step: int) -> Path:
    return write_checkpoint(root, step, {"student": {"w": torch.full((3,), float(step))}}, {"seed": 7})


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path):
    found = open_checkpoint(save(tmp_path, 20))
    assert found.step == 20
    assert found.state["seed"] == 7
    assert found.tensors("student")["w"].tolist() == [20.0, 20.0, 20.0]
    assert found.has("student") and not found.has("teacher")


def test_a_checkpoint_of_another_format_says_which_raydet_wrote_it(tmp_path: Path):
    path = save(tmp_path, 20)
    assert open_checkpoint(path).state["raydet_version"] == __version__
    state, commit = (json.loads((path / name).read_text()) for name in ("state.json", "COMMIT"))
    (path / "state.json").write_text(json.dumps(state | {"raydet_version": "900.1.0"}))
    (path / "COMMIT").write_text(json.dumps(commit | {"format": 2}))
    said = f"checkpoint format 2, written by raydet 900.1.0; this is raydet {__version__}, which reads format 1"
    with pytest.raises(CheckpointError, match=re.escape(said)):
        open_checkpoint(path)


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path):
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    assert latest_checkpoint(tmp_path).step == 20
    (newest / "COMMIT").unlink()  # as if the process had died before the end
    older = latest_checkpoint(tmp_path)
    assert (older.step, len(older.passed_over)) == (10, 1)
    assert f"{newest}: no COMMIT file" in older.passed_over[0]


def test_an_empty_folder_means_start_from_scratch_but_damage_everywhere_does_not(tmp_path: Path):
    assert latest_checkpoint(tmp_path) is None
    (save(tmp_path, 10) / "COMMIT").unlink()
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        latest_checkpoint(tmp_path)


def test_a_flipped_bit_and_a_truncation_are_named(tmp_path: Path):
    path = save(tmp_path, 10)
    file = path / "student.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"student\.safetensors: checksum differs"):
        open_checkpoint(path)
    file.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="truncated or replaced; use another checkpoint"):
        open_checkpoint(path)
    file.unlink()
    with pytest.raises(CheckpointError, match="listed in COMMIT but missing"):
        open_checkpoint(path)


def test_a_pickle_posing_as_safetensors_is_never_executed(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    path = save(tmp_path, 10)
    (path / "teacher.safetensors").write_bytes(pickle.dumps(Bomb()))
    _list_in_commit(path, "teacher.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        open_checkpoint(path).tensors("teacher")
    assert not (tmp_path / "executed").exists()


def test_a_listed_name_cannot_lead_out_of_the_folder(tmp_path: Path):
    path = save(tmp_path, 10)
    commit = json.loads((path / "COMMIT").read_text())
    commit["files"]["../../etc/passwd"] = {"bytes": 1, "sha256": ""}
    (path / "COMMIT").write_text(json.dumps(commit))
    with pytest.raises(CheckpointError, match="passwd: listed in COMMIT but missing"):
        open_checkpoint(path)


def test_writing_the_same_step_again_replaces_it(tmp_path: Path):
    save(tmp_path, 10)
    write_checkpoint(tmp_path, 10, {"student": {"w": torch.zeros(1)}}, {})
    assert latest_checkpoint(tmp_path).tensors("student")["w"].tolist() == [0.0]


def test_what_a_user_puts_beside_the_checkpoints_is_left_alone(tmp_path: Path):
    save(tmp_path, 10)
    (tmp_path / "step_00000099_good").mkdir()
    assert latest_checkpoint(tmp_path).step == 10
    clean_checkpoints(tmp_path, keep=1)
    assert (tmp_path / "step_00000099_good").is_dir()


def test_a_file_that_commit_does_not_list_is_not_part_of_the_checkpoint(tmp_path: Path):
    path = save(tmp_path, 10)
    (path / "teacher.safetensors").write_bytes(b"slipped in")
    assert not open_checkpoint(path).has("teacher")


def test_cleaning_keeps_the_newest_and_the_pinned_and_removes_orphans(tmp_path: Path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    (tmp_path / ".writing-step_00000050-1").mkdir()
    clean_checkpoints(tmp_path, keep=2, also=frozenset({10}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010", "step_00000030", "step_00000040"]


def test_checkpoints_on_another_disk_are_set_aside_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, aside, rename = tmp_path / "checkpoints", tmp_path / "abandoned", Path.rename
    for step in (10, 20, 30):
        save(root, step)

    def on_two_disks(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", on_two_disks)
    assert set_aside(root, 10, aside) == [20, 30]
    assert (steps_of(root), steps_of(aside)) == ([10], [20, 30])
    assert open_checkpoint(aside / "step_00000030").tensors("student")["w"].tolist() == [30.0, 30.0, 30.0]


def test_weights_are_as_readable_as_the_files_beside_them(tmp_path: Path):
    path = save(tmp_path, 10)
    (tmp_path / "any").touch()
    assert {file.stat().st_mode for file in path.iterdir()} == {(tmp_path / "any").stat().st_mode}


def test_a_folder_of_something_else_is_said_to_be_none(tmp_path: Path):
    (tmp_path / "trials").mkdir()
    with pytest.raises(CheckpointError, match="neither a run nor a checkpoint; .*of a search, one of its trials"):
        open_checkpoint(tmp_path)


def test_what_a_run_began_with_is_read_past_a_damaged_checkpoint(tmp_path: Path):
    assert begun_with(tmp_path) is None
    for step in (4, 8):
        write_checkpoint(tmp_path, step, {}, {"arithmetic": {"device": "cpu", "dtype": "bf16"}})
    (folder_of(tmp_path, 8) / "state.json").write_text("{")
    assert begun_with(tmp_path) == Arithmetic("cpu", "bf16")
    write_checkpoint(tmp_path / "older", 4, {}, {})  # of a version that did not say
    assert begun_with(tmp_path / "older") is None
