from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raydet import __version__
from raydet.errors import ConfigError
from raydet.train.rundir import RunFolder
from tests.helpers import tiny_config


def started(path: Path, **changes: object) -> RunFolder:
    folder = RunFolder(path)
    folder.prepare(tiny_config(path, **changes), resume=False)
    return folder


def test_a_new_run_keeps_its_configuration(tmp_path: Path):
    folder = started(tmp_path / "a" / "run")
    assert folder.load_config() == tiny_config(tmp_path / "a" / "run")
    assert folder.checkpoints.is_dir()
    assert "name: il_net" in folder.config_yaml.read_text()


@pytest.mark.parametrize("name", ["with spaces and (brackets)", "slashes/in/it", "ünïcode-日本", "-dash", "a=b,c'd\"e"])
def test_any_name_works(name: str, tmp_path: Path):
    folder = started(tmp_path / name)
    with folder.lock():
        assert folder.next_attempt() == 1
    assert RunFolder(tmp_path / name).load_config() == tiny_config(tmp_path / name)


def test_a_relative_name_means_the_working_directory_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert folder.path == tmp_path / "run"


@pytest.mark.parametrize("name", ["a" * 256, "é" * 128, "x\0y"])
def test_names_that_no_file_system_takes_are_refused(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"run\.dir"):
        RunFolder(tmp_path / name)
    RunFolder(tmp_path / ("a" * 255))


def test_a_file_or_a_folder_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; choose a folder"):
        started(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be created: .*lies below a file; choose a folder"):
        started(tmp_path / "file" / "run")


def test_a_link_that_leads_nowhere_is_named_with_its_aim(tmp_path: Path):
    (tmp_path / "scratch").symlink_to(tmp_path / "unmounted")
    said = f"{tmp_path}/scratch is a link to {tmp_path}/unmounted, which is not there; mount the disk"
    for path in (tmp_path / "scratch", tmp_path / "scratch" / "run"):
        with pytest.raises(ConfigError, match=re.escape(said)), RunFolder(path).lock():
            pass
    folder = started(tmp_path / "run")
    folder.checkpoints.rmdir()
    folder.checkpoints.symlink_to(tmp_path / "unmounted")
    with pytest.raises(ConfigError, match=r"run/checkpoints is a link to .*/unmounted, which is not there"):
        folder.prepare(tiny_config(tmp_path / "run"), resume=True)


def test_an_existing_run_is_only_touched_by_resume(tmp_path: Path):
    folder = started(tmp_path)
    with pytest.raises(ConfigError, match=f"run.dir={tmp_path} already holds a run; add --resume"):
        folder.prepare(tiny_config(tmp_path), resume=False)
    folder.prepare(tiny_config(tmp_path), resume=True)


@pytest.mark.parametrize("name", ["0001.jpg", "images/a.jpg", "data/images/a.jpg", "data.csv", "checkpoints/mine.pt"])
def test_a_folder_of_something_else_is_refused_and_left_as_it_is(name: str, tmp_path: Path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    folder = RunFolder(tmp_path)
    message = f"run.dir={tmp_path} holds {name.split('/')[0]} and no run; choose another folder, or a new one in it"
    with pytest.raises(ConfigError) as caught, folder.lock():
        folder.check(tiny_config(tmp_path), resume=False)
    assert str(caught.value) == message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["train.log", "notes.txt", "mine.yaml", ".DS_Store", "data/split.json", "stop"])
def test_notes_and_what_a_killed_start_left_do_not_matter(name: str, tmp_path: Path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    RunFolder(tmp_path).check(tiny_config(tmp_path), resume=False)


def test_there_must_be_a_run_to_resume(tmp_path: Path):
    with pytest.raises(ConfigError, match=f"--resume: there is no run at {tmp_path}"):
        RunFolder(tmp_path).prepare(tiny_config(tmp_path), resume=True)
    assert not RunFolder(tmp_path).config_json.exists()


def test_a_changed_configuration_is_listed_key_by_key(tmp_path: Path):
    folder = started(tmp_path)
    changed = tiny_config(
        tmp_path, optim__weight_decay=0.02, method__score_threshold=0.5, data__views__short_side=[32, 64]
    )
    with pytest.raises(ConfigError) as caught:
        folder.prepare(changed, resume=True)
    assert str(caught.value).splitlines() == [
        f"--resume: the configuration differs from the one {tmp_path} was started with:",
        "  data.views.short_side: [64] -> [32, 64]",
        "  method.score_threshold: 0.16 -> 0.5",
        "  optim.weight_decay: 0.01 -> 0.02",
        "set these back, or start a new run in another run.dir",
    ]
    assert folder.load_config() == tiny_config(tmp_path)  # the run still knows what it is


def test_another_method_lists_the_keys_that_came_and_went(tmp_path: Path):
    folder = started(tmp_path)
    ut = {"name": "unbiased_teacher", "burn_in_steps": 3, "ema_keep_rate": 0.5, "score_threshold": 0.16}
    with pytest.raises(ConfigError, match="method.name: 'il_net' -> 'unbiased_teacher'") as caught:
        folder.prepare(tiny_config(tmp_path, method=ut), resume=True)
    assert "method.unsup_reg_weight: 1.0 -> None" in str(caught.value)


def test_what_alters_no_sample_may_change(tmp_path: Path):
    folder = started(tmp_path)
    changed = tiny_config(
        tmp_path,
        optim__steps=100,
        log__every=7,
        checkpoint__keep=9,
        eval__every=50,
        labels__timeout_s=5.0,
        cluster__max_failures=1,
    )
    folder.prepare(changed, resume=True)
    assert folder.load_config() == changed


def test_what_could_not_be_left_out_once_may_be_left_out_now(tmp_path: Path):
    folder = started(tmp_path, labels__forward_images=1)  # as older versions wrote it
    folder.prepare(tiny_config(tmp_path), resume=True)
    folder = started(tmp_path / "two", labels__forward_images=2)
    with pytest.raises(ConfigError, match="labels.forward_images: 2 -> None"):
        folder.prepare(tiny_config(tmp_path / "two"), resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"optim__steps": 100, "optim__warmup_steps": 1},
        {"labels__lookahead": 1},
        {"labels__top_k": 10},
        {"model__roi_batch": 8},
        {"data__split_seed": 1},
    ],
)
def test_what_alters_samples_or_labels_may_not_change(change: dict[str, object], tmp_path: Path):
    folder = started(tmp_path)
    with pytest.raises(ConfigError, match=list(change)[-1].replace("__", r"\.")):
        folder.prepare(tiny_config(tmp_path, **change), resume=True)


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path):
    folder = started(tmp_path)
    wrong = {'{"run": {}}': "method.name: required", "[]": "expected a JSON object", "{": "cannot be read as JSON"}
    for text, why in wrong.items():
        folder.config_json.write_text(text)
        with pytest.raises(ConfigError, match=rf"config\.json: .*{why}"):
            folder.load_config()


def rewritten(folder: RunFolder, **changes: object) -> RunFolder:
    """Change top-level keys of config.json; None takes one out."""
    tree = json.loads(folder.config_json.read_text()) | changes
    folder.config_json.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))
    return folder


def test_a_run_of_a_newer_raydet_says_so_before_it_names_unknown_keys(tmp_path: Path):
    folder = started(tmp_path)
    assert folder.written_by() == __version__
    rewritten(folder, raydet_version="900.1.0", zzz={"on": True})
    with pytest.raises(ConfigError) as caught:
        folder.load_config()
    assert str(caught.value).splitlines() == [
        f"{folder.config_json}: written by raydet 900.1.0, this is {__version__}: update raydet",
        f"{folder.config_json}: zzz: unknown key; `raydet train --print-config` shows all keys",
    ]
    rewritten(folder, zzz=None)  # what this version understands it reads
    assert folder.load_config() == tiny_config(tmp_path)
    rewritten(folder, raydet_version=[9])
    with pytest.raises(ConfigError, match=r"raydet_version=\[9\]: expected a version like"):
        folder.load_config()


@pytest.mark.parametrize("version", [None, "0.0.1", "900.1.0"])
def test_the_version_is_no_setting(version: str | None, tmp_path: Path):
    folder = rewritten(started(tmp_path), raydet_version=version)
    assert folder.written_by() == version
    assert folder.changes(tiny_config(tmp_path)) == []
    folder.prepare(tiny_config(tmp_path), resume=True)
    assert folder.written_by() == __version__


def test_attempts_are_numbered(tmp_path: Path):
    folder = started(tmp_path)
    assert [folder.next_attempt() for _ in range(3)] == [1, 2, 3]
    assert RunFolder(tmp_path).next_attempt() == 4
    (tmp_path / "attempt").write_text("")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/attempt: not a number; write one there that is above all"):
        folder.next_attempt()


LOCK = """
import sys
from raydet.errors import ConfigError
from raydet.train.rundir import RunFolder
try:
    with RunFolder(sys.argv[1]).lock():
        print("locked", flush=True)
        sys.stdin.read()
except ConfigError as error:
    print(error)
"""


def test_one_process_holds_a_folder_until_it_ends(tmp_path: Path):
    def other() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOCK, str(tmp_path)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with other() as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with (
            pytest.raises(ConfigError, match=f"run.dir={tmp_path} is in use by another process"),
            RunFolder(tmp_path).lock(),
        ):
            pass
        os.kill(holder.pid, 9)  # no chance to clean up
        holder.wait()
    with RunFolder(tmp_path).lock(), other() as late:
        assert "is in use by another process" in late.communicate()[0]


def test_a_folder_in_which_no_run_is_started_is_left_as_it_was_found(tmp_path: Path):
    folder = RunFolder(tmp_path / "a" / "run")
    with folder.lock():
        (folder.data / "generated").mkdir(parents=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a" / "run").mkdir(parents=True)
    (tmp_path / "a" / "run" / "train.log").touch()
    with pytest.raises(KeyboardInterrupt), folder.lock():
        folder.data.mkdir()
        raise KeyboardInterrupt
    assert [path.name for path in folder.path.iterdir()] == ["train.log"]


def test_a_started_run_is_kept_and_one_that_is_taken_back_is_not(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        folder.prepare(tiny_config(folder.path), resume=False)
    assert folder.is_started and (folder.path / ".lock").exists()
    other = RunFolder(tmp_path / "other")
    with other.lock():
        other.prepare(tiny_config(other.path), resume=False)
        other.take_back()
    assert not other.path.exists()


def test_a_start_that_finds_a_folder_in_use_leaves_what_the_other_process_has_there(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        folder.data.mkdir()
        with pytest.raises(ConfigError, match="is in use by another process"), RunFolder(tmp_path / "run").lock():
            pass
        assert folder.data.exists() and (folder.path / ".lock").exists()


def test_a_folder_that_cannot_be_made_is_refused_by_the_lock_too(tmp_path: Path):
    # `launch` locks first.
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"run\.dir"), RunFolder(path).lock():
            pass
