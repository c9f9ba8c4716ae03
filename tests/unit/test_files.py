from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from raydet import files
from raydet.errors import StorageError
from raydet.files import held, locked, move_folder, remove_unfinished, replacing, replacing_path, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_the_block_ends_and_then_the_new_one(tmp_path: Path):
    file = tmp_path / "deep" / "a.json"
    assert write_text(file, "old ß") == file
    with replacing(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_text(encoding="utf-8") == "old ß"
    assert file.read_bytes() == b"new"
    assert names(file.parent) == ["a.json"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert (names(tmp_path), (tmp_path / "a").read_text()) == (["a"], "old")


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_appears_at_once_and_takes_the_place_of_an_older_one(tmp_path: Path, is_there: bool):
    final = tmp_path / "set"
    if is_there:
        final.mkdir()
        (final / "older").touch()
    with replacing_path(final) as aside:
        (aside / "sub").mkdir(parents=True)
        (aside / "sub" / "b").write_text("b")
        assert final.exists() == is_there
    assert (names(tmp_path), names(final), (final / "sub" / "b").read_text()) == (["set"], ["sub"], "b")
    with pytest.raises(OSError, match="No such file"), replacing_path(final):
        pass
    assert names(final) == ["sub"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path):
    with replacing(tmp_path / "a") as one:
        with replacing(tmp_path / "a") as other:
            other.write(b"other")
        one.write(b"one")
    assert (names(tmp_path), (tmp_path / "a").read_text()) == (["a"], "one")


def test_contents_reach_the_disk_before_the_new_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split("-")[-1])
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"{target.name} is there")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with replacing_path(tmp_path / "set") as aside:
        aside.mkdir()
        (aside / "file").touch()
    assert done[:3] == ["file", "set", "set is there"]
    assert len(done) == 4  # the last is the folder that holds it


def test_a_full_disk_is_an_error_and_a_folder_that_cannot_be_synced_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_text(tmp_path / "a", "old")

    def fail(code: int, only_folders: bool) -> None:
        def fsync(descriptor: int) -> None:
            if not only_folders or os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    fail(errno.ENOSPC, only_folders=False)
    with pytest.raises(StorageError, match="a: the disk is full"):
        write_text(tmp_path / "a", "new")
    assert (names(tmp_path), (tmp_path / "a").read_text()) == (["a"], "old")
    fail(errno.EINVAL, only_folders=True)
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_what_a_killed_writer_left_is_removed_by_the_name_it_was_for_and_nothing_else(tmp_path: Path):
    code = """
import os, signal, sys
from pathlib import Path
from raydet.files import replacing, replacing_path
folder = Path(sys.argv[1])
with replacing(folder / "a.json") as a, replacing_path(folder / "set") as aside:
    a.write(b"half")
    (aside / "sub").mkdir(parents=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    write_text(tmp_path / "a.json", "old")
    kept = [".a.json", ".writing-a.json", "a.json"]  # the second is not a name that a writer gives
    for name in kept[:2]:
        (tmp_path / name).touch()
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert len(names(tmp_path)) == 5
    remove_unfinished(tmp_path, "a.json")
    assert len(names(tmp_path)) == 4
    remove_unfinished(tmp_path, "set")
    assert (names(tmp_path), (tmp_path / "a.json").read_text()) == (kept, "old")


def test_a_folder_is_moved_to_another_disk_and_a_kill_leaves_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, target = tmp_path / "here" / "set", tmp_path / "there" / "set"
    write_text(folder / "sub" / "a", "new")
    write_text(target / "old", "")
    write_text(target.with_name(".writing-0a1b2c3d-set") / "half", "")  # by a move that was killed
    rename, renamed = Path.rename, []

    def on_two_disks(self: Path, to: Path) -> Path:
        renamed.append(to.name)
        if self.parent != to.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self))
        assert (target / "sub" / "a").read_text() == "new"  # whole there before it goes here
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", on_two_disks)
    move_folder(folder, target)
    assert (names(folder.parent), names(target.parent), names(target)) == ([], ["set"], ["sub"])
    assert [name.split("-")[0] for name in renamed] == ["set", ".writing"]


def test_a_disk_that_is_too_small_for_a_moved_folder_keeps_it_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_text(tmp_path / "here" / "set" / "a", "12345")

    monkeypatch.setattr(Path, "rename", failing(errno.EXDEV))
    monkeypatch.setattr("shutil.copystat", failing(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"there/set: the disk is full \(0\.0 kB were to be written"):
        move_folder(tmp_path / "here" / "set", tmp_path / "there" / "set")
    assert (names(tmp_path / "here" / "set"), names(tmp_path / "there")) == (["a"], [])


# locks


def failing(code: int) -> Callable[..., None]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_taken_for_a_folder_in_use(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files.fcntl, "flock", failing(code))
    folder = tmp_path / "run"
    create = partial(folder.mkdir, exist_ok=True)
    holding = held(folder, RuntimeError("in use"), create=create, own=(), is_kept=lambda: True)
    with (
        pytest.raises(StorageError, match=r"run/\.lock: the file system has no locks \(.*; mount it with them"),
        holding,
    ):
        pass
    assert names(tmp_path) == []  # left as it was found


def test_what_else_keeps_a_lock_from_being_taken_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for code, error, said in (
        (errno.ESTALE, StorageError, "the network file system has lost the folder"),
        (errno.EAGAIN, RuntimeError, "in use"),
        (errno.EACCES, RuntimeError, "in use"),
    ):
        monkeypatch.setattr(files.fcntl, "flock", failing(code))
        with pytest.raises(error, match=said), locked(tmp_path / ".lock", RuntimeError("in use")):
            pass


def test_a_lock_that_its_holder_has_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, flock, seen = tmp_path / ".lock", files.fcntl.flock, []

    def removed_before(stream: object, how: int) -> None:
        if not seen:
            file.unlink()  # by the one who held it, between our opening and our locking it
        seen.append(how)
        flock(stream, how)

    monkeypatch.setattr(files.fcntl, "flock", removed_before)
    with locked(file, RuntimeError("in use")):
        assert len(seen) == 2 and file.exists()
        with pytest.raises(RuntimeError, match="in use"), locked(file, RuntimeError("in use")):
            pass


def test_a_folder_that_vanishes_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, mkdir, made = tmp_path / "run", Path.mkdir, []

    def removed_behind(self: Path, **how: bool) -> None:
        mkdir(self, **how)
        made.append(self)
        if len(made) == 1:
            self.rmdir()  # by another process that leaves it as it found it

    monkeypatch.setattr(Path, "mkdir", removed_behind)
    with held(folder, RuntimeError("in use"), create=folder.mkdir, own=(), is_kept=lambda: True):
        assert made == [folder, folder] and names(folder) == [".lock"]


def test_what_another_process_puts_there_meanwhile_keeps_a_folder(tmp_path: Path):
    folder = tmp_path / "a" / "run"
    create = partial(folder.mkdir, parents=True)
    with held(folder, RuntimeError("in use"), create=create, own=("data",), is_kept=lambda: False):
        write_text(folder / "data" / "x", "")
        write_text(folder / "mine.txt", "")
    assert names(folder) == ["mine.txt"]
