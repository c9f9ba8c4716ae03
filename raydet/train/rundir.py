"""The run folder: where everything of a run lies, who may write to it, and whether a config belongs to it.

RUN/config.json config.yaml   the resolved configuration
RUN/data/                     annotation indices and the labelled split
RUN/labels/                   the pseudo-label store
RUN/checkpoints/              see `raydet.train.checkpoint`
RUN/abandoned/                checkpoints that `--resume --from` went back behind, and damaged ones; may be deleted
RUN/diagnostics/              what a classifier said about each image, at every evaluation
RUN/metrics.jsonl             every figure; RUN/tensorboard/ the same for TensorBoard
RUN/report.html plots/        written by `raydet report`
RUN/stop                      write something into it and the run stops after its step, with a checkpoint
RUN/ray/                      Ray Train's own bookkeeping
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from raydet import __version__
from raydet.config.run import RunConfig
from raydet.config.version import VERSION_KEY, take_version
from raydet.data.prepared import is_scratch
from raydet.errors import ConfigError, FolderInUseError
from raydet.faults import storage_error, writing
from raydet.files import first_foreign, held, read_json, write_text
from raydet.settings import dump_file, resolve

# Sections and keys that may change between attempts: they alter speed, volume or length, never a sample or a label; and
# what a run that diverged is mended with, beside the learning rates (`MethodSection.lr_keys`).
FREE_TO_CHANGE = (
    "cluster",
    "pool",
    "log",
    "checkpoint",
    "eval",
    "run.dir",
    "run.stop_at",
    "data.loader_threads",
    "data.prefetch_steps",
    "data.on_bad_image",  # images keep their places: see `DataFamily.leave_out_damaged`
    "labels.timeout_s",
    "labels.source",
    "labels.keep_versions",
    "optim.steps",
    "optim.clip_norm",
    "optim.decay_at",
    "optim.divergence_ratio",
)


# What a start writes before it is begun, or its first steps would: taken away where it is refused.
_OWN = (
    *("data", "checkpoints", "stop", "config.yaml", "labels", "diagnostics", "metrics.jsonl", "tensorboard", "ray"),
    *("attempt", "failed.json"),
)
_OF_TRIALS = ("trial.json", "asked_to_stop")  # see `raydet.sweep.folder`


# What a setting was, and run folders of older versions say, where nothing was written that now means "by the device".
_ONCE_THE_DEFAULT = {"labels.forward_images": 1}


# Where a data set lies: may change as long as the content is the same, which `Family.relocate` makes sure of.
_PLACE = re.compile(r"data\.(labeled_ids|proposals|(labeled|unlabeled|images|val|test)\.(path|images|class_names))")


class RunFolder:
    """Paths below one run's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        if any(len(part.encode()) > 255 or "\0" in part for part in self.path.parts):
            raise ConfigError(f"run.dir: a part of {str(self.path)[:80]}... is longer than 255 bytes; shorten it")
        self.data = self.path / "data"
        self.split = self.data / "split.json"  # written by raydet.data.family
        self.labels = self.path / "labels"
        self.diagnostics = self.path / "diagnostics"  # see `raydet.labels.snapshots`
        self.checkpoints = self.path / "checkpoints"
        self.abandoned = self.path / "abandoned"
        self.metrics = self.path / "metrics.jsonl"
        self.stop = self.path / "stop"  # see `raydet.train.stop`
        self.verdict = self.path / "failed.json"  # an error that a restart would only repeat
        self.config_json = self.path / "config.json"
        self.config_yaml = self.path / "config.yaml"

    def prepare(self, config: RunConfig, *, resume: bool) -> None:
        """Create the folder, or take the existing one where it is this run's. Raises ConfigError otherwise."""
        self.check(config, resume=resume)
        self._create(self.checkpoints)
        with writing(self.stop):
            self.stop.write_bytes(b"")
        write_text(self.config_yaml, dump_file(config))
        tree = {VERSION_KEY: __version__, **config.model_dump(mode="json")}
        write_text(self.config_json, json.dumps(tree, indent=1))

    def check(self, config: RunConfig, *, resume: bool) -> None:
        """Raise ConfigError unless this run may be started, or resumed, here; writes nothing."""
        if self.config_json.exists():
            if not resume:
                raise ConfigError(
                    f"run.dir={self.path} already holds a run; add --resume to go on with it, or choose another run.dir"
                )
            self._check_same(config)
        elif resume:
            raise ConfigError(f"--resume: there is no run at {self.path}; start it without --resume")
        elif self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"run.dir={self.path} is a file; choose a folder")
        elif name := first_foreign(self.path, self._is_own):
            raise ConfigError(f"run.dir={self.path} holds {name} and no run; choose another folder, or a new one in it")

    @property
    def is_started(self) -> bool:
        """Whether there is a run here, finished or not."""
        return self.config_json.exists()

    def next_attempt(self) -> int:
        """Return 1, 2, ...: a larger number at every start of the training processes."""
        file = self.path / "attempt"
        try:
            number = int(file.read_text()) + 1 if file.exists() else 1
        except ValueError:
            raise ConfigError(
                f"{file}: not a number; write one there that is above all attempts so far, such as 1000"
            ) from None
        write_text(file, str(number))
        return number

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder for this process; where no run is started in the end, it is left as it was found."""
        in_use = FolderInUseError(f"run.dir={self.path} is in use by another process; wait for it or end it")
        return held(
            self.path, in_use, create=lambda: self._create(self.path), own=_OWN, is_kept=lambda: self.is_started
        )

    def take_back(self) -> None:
        """Let a run that was started, and has not begun to train, be none; what is left of it goes with the lock."""
        self.config_json.unlink(missing_ok=True)

    def _is_own(self, entry: Path) -> bool:
        """Whether a start that was killed may have left it, or a search has put it there."""
        if entry == self.data:
            return is_scratch(entry)
        if entry == self.checkpoints:
            return not any(entry.iterdir())
        return entry.name in ("stop", *_OF_TRIALS)

    def load_config(self) -> RunConfig:
        """Return the configuration the run was started with, in the folder where it lies now.

        Raises ConfigError where this raydet cannot read it.
        """
        return resolve(self._read_config(), {"run.dir": str(self.path)}, where=str(self.config_json))

    def written_by(self) -> str | None:
        """Return the raydet version that the run was last started with; None where the folder does not say."""
        return take_version(self._read_config(), str(self.config_json))

    def _read_config(self) -> dict[str, Any]:
        if not self.config_json.is_file():
            raise ConfigError(f"{self.path}: no config.json there; give a run folder")
        return read_json(self.config_json, ConfigError)

    def _create(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            astray = next((each for each in (folder, *folder.parents) if each.is_symlink() and not each.exists()), None)
            if astray is None:
                raise ConfigError(f"run.dir={self.path} is a file; choose a folder") from None
            raise ConfigError(
                f"run.dir={self.path}: {astray} is a link to {astray.readlink()}, which is not there; mount the disk "
                f"that it is on, or choose another folder"
            ) from None
        except OSError as error:
            found = storage_error(folder, error)
            raise ConfigError(f"run.dir={self.path} cannot be created: {found or error.strerror}") from None

    def changes(self, config: RunConfig) -> list[str]:
        """Return what differs from the configuration of the run as it is, a line per key; see `FREE_TO_CHANGE`."""
        if not self.config_json.exists():
            return []
        return differences(self.load_config(), config)

    def data_has_moved(self, config: RunConfig) -> bool:
        """Whether a data set is said to lie elsewhere than when the run was last started."""
        return any(_PLACE.fullmatch(line.split(":")[0]) for line in self.changes(config))

    def _check_same(self, config: RunConfig) -> None:
        held = {"optim.steps"} if config.method.fixed_length else set()
        free = (*FREE_TO_CHANGE, *config.method.lr_keys)
        if config.run.fork_from and self.load_config().run.fork_from:
            free += ("run.fork_from",)  # it was taken from there, and may have moved since
        keys = {line: line.split(":")[0] for line in self.changes(config)}
        locked = [line for line, key in keys.items() if key in held or not (is_in(key, free) or _PLACE.fullmatch(key))]
        if locked:
            raise ConfigError(
                f"--resume: the configuration differs from the one {self.path} was started with:\n  "
                + "\n  ".join(locked)
                + "\nset these back, or start a new run in another run.dir"
            )


def differences(before: RunConfig, now: RunConfig) -> list[str]:
    """Return what differs between two configurations, a line per key: `key: before -> now`."""
    old, new = (flat(json.loads(config.model_dump_json())) for config in (before, now))
    for key, value in _ONCE_THE_DEFAULT.items():
        if old.get(key) == value and new.get(key, value) is None:
            del old[key], new[key]
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in changed]


def is_in(key: str, sections: Iterable[str]) -> bool:
    """Return whether a dotted key is one of these, or lies below one of them."""
    return any(key == one or key.startswith(f"{one}.") for one in sections)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping with one dotted key per value."""
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.")
    return found
