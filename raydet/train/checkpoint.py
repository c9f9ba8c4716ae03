"""Checkpoints on disk: written aside, committed by one rename, verified by checksums, never unpickled.

RUN/checkpoints/step_000300/
    student.safetensors    what is trained
    teacher.safetensors    its EMA (absent before the teacher exists)
    published.safetensors  the teacher that labels are made with, where it is not the EMA of this very step
    optimizer.safetensors
    state.json             step, versions, digests, settings
    COMMIT                 sizes and SHA-256 of all files; written last, so its presence means the rest is whole
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raydet import __version__
from raydet.arithmetic import Arithmetic
from raydet.config.version import VERSION_KEY
from raydet.errors import CheckpointError
from raydet.files import make_folder, move_folder, read_json, remove_unfinished, replacing_path, sha256
from raydet.precision import NAMES

FORMAT = 1
_PREFIX = "step_"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete, verified checkpoint folder."""

    path: Path
    state: dict[str, Any]
    files: frozenset[str]  # verified
    passed_over: tuple[str, ...] = ()  # what is wrong with newer ones, where it was searched for

    @property
    def step(self) -> int:
        """Optimiser steps completed."""
        return int(self.state["step"])

    @property
    def is_healthy(self) -> bool:
        """Whether the loss was near its running median when it was written; of older checkpoints nobody knows."""
        return _is_healthy(self.state)

    @property
    def arithmetic(self) -> Arithmetic | None:
        """What its run computes in; older checkpoints do not say. Raises CheckpointError where it is nonsense."""
        return _arithmetic(self.state, self.path)

    def has(self, name: str) -> bool:
        """Whether it holds the tensors called `name`."""
        return f"{name}.safetensors" in self.files

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Load the tensors called `name` to the CPU."""
        file = self.path / f"{name}.safetensors"
        try:
            found: dict[str, Tensor] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read as safetensors: {error}") from None
        return found


def write_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write one checkpoint; it becomes visible only when it is complete. Returns its folder."""
    final = folder_of(root, step)
    about = {**state, "step": step, "format": FORMAT, VERSION_KEY: __version__}
    needed = sum(value.numel() * value.element_size() for each in tensors.values() for value in each.values())
    with replacing_path(
        final, needed=needed
    ) as aside:  # the same step again, after a resume, is the same: either copy will do
        aside.mkdir()
        for name, content in tensors.items():
            whole = {key: value.detach().cpu().contiguous() for key, value in content.items()}
            save_tensors(whole, aside / f"{name}.safetensors")
        (aside / "state.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(aside.iterdir())}
        commit = json.dumps({"format": FORMAT, "files": files}, indent=1)
        (aside / "COMMIT").write_text(commit, encoding="utf-8")
    return final


def save_tensors(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write safetensors to a new file that is as readable as any other: the library makes it for its owner alone."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, None if about is None else dict(about))
    path.chmod(stat.S_IMODE(mode))


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify a checkpoint folder. Raises CheckpointError that names the file and what is wrong with it."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint folder")
    if (path / "config.json").is_file():
        raise CheckpointError(f"{path}: a run folder; name one of its checkpoints, {path}/checkpoints/{_PREFIX}...")
    commit_file = path / "COMMIT"
    if not commit_file.is_file():
        if not any(path.glob("*.safetensors")):
            raise CheckpointError(
                f"{path}: neither a run nor a checkpoint; name a folder that holds config.json (of a search, one of "
                f"its trials), or one of a run's checkpoints"
            )
        raise CheckpointError(f"{path}: no COMMIT file: the checkpoint was never completed; use another one")
    commit = read_json(commit_file, CheckpointError)
    if commit.get("format") != FORMAT:
        by = read_json(path / "state.json", CheckpointError).get(VERSION_KEY, "a version that did not say")
        raise CheckpointError(
            f"{path}: checkpoint format {commit.get('format')!r}, written by raydet {by}; this is raydet "
            f"{__version__}, which reads format {FORMAT}"
        )
    for name, expected in commit.get("files", {}).items():
        file = path / Path(name).name
        if not file.is_file():
            raise CheckpointError(f"{file}: listed in COMMIT but missing; use another checkpoint")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(
                f"{file}: {size} bytes, COMMIT says {expected['bytes']}: truncated or replaced; use another checkpoint"
            )
        if sha256(file) != expected["sha256"]:
            raise CheckpointError(f"{file}: checksum differs from COMMIT: damaged; use another checkpoint")
    return Checkpoint(path, read_json(path / "state.json", CheckpointError), frozenset(commit.get("files", {})))


def latest_checkpoint(root: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint below `root`; damaged ones are passed over, newest first, and named in it.

    Raises CheckpointError where checkpoints exist but none is usable: starting afresh must be the user's decision.
    """
    problems: list[str] = []
    for path in reversed(_folders(root)):
        try:
            return replace(open_checkpoint(path), passed_over=tuple(problems))
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError("no usable checkpoint:\n  " + "\n  ".join(problems))
    return None


def steps_of(root: Path, *, healthy: bool = False, before: int | None = None) -> list[int]:
    """Return the steps of the complete checkpoints below `root`, ascending.

    Their content is not verified here. `healthy`: only of those not marked unhealthy. `before`: the first step that
    does not count.
    """
    found = []
    for path in _folders(root):
        step = _step(path)
        if step is None or (before is not None and step >= before) or not (path / "COMMIT").is_file():
            continue
        try:
            if healthy and not _is_healthy(read_json(path / "state.json", CheckpointError)):
                continue
        except CheckpointError:
            continue
        found.append(step)
    return found


def begun_with(root: Path) -> Arithmetic | None:
    """Return what the run of these checkpoints computes in; None where there is none that says so.

    Damaged ones are passed over, as where the run goes on: all of a run say the same.
    """
    for step in reversed(steps_of(root)):
        folder = folder_of(root, step)
        with suppress(CheckpointError):
            return _arithmetic(read_json(folder / "state.json", CheckpointError), folder)
    return None


def folder_of(root: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return root / f"{_PREFIX}{step:08d}"


def set_aside(root: Path, beyond: int, aside: Path) -> list[int]:
    """Move the checkpoints of steps beyond `beyond` into the folder `aside`, also on another disk; return their steps.

    Raises StorageError.
    """
    moved = [path for path in _folders(root) if (_step(path) or 0) > beyond]
    for path in reversed(moved):  # the newest first: what is left is always a run as it once was
        move_folder(path, make_folder(aside) / path.name)
    return [_step(path) or 0 for path in moved]


def clean_checkpoints(root: Path, *, keep: int, also: frozenset[int] = frozenset()) -> None:
    """Delete unfinished writes, and complete checkpoints beyond the newest `keep`, except the steps in `also`."""
    remove_unfinished(root)
    for path in _folders(root)[:-keep]:
        if _step(path) not in also:
            (path / "COMMIT").unlink(missing_ok=True)  # first: a half-deleted checkpoint must not look complete
            shutil.rmtree(path, ignore_errors=True)


def _folders(root: Path) -> list[Path]:
    """Return the checkpoint folders by step; whatever else a user has put beside them is left alone."""
    return sorted(
        (path for path in root.glob(f"{_PREFIX}*") if _step(path) is not None), key=lambda path: _step(path) or 0
    )


def _arithmetic(state: Mapping[str, Any], folder: Path) -> Arithmetic | None:
    said = state.get("arithmetic")
    if said is None:
        return None
    if not (isinstance(said, dict) and said.keys() == {"device", "dtype"} and said["dtype"] in NAMES.values()):
        raise CheckpointError(f"{folder / 'state.json'}: arithmetic is {said!r}; use another checkpoint")
    return Arithmetic(str(said["device"]), said["dtype"])


def _is_healthy(state: Mapping[str, Any]) -> bool:
    return bool((state.get("health") or {}).get("healthy", True))


def _step(path: Path) -> int | None:
    number = path.name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else None
