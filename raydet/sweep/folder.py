"""The folder of a search: plain JSON and run folders, so that every process, and a person, can read it.

SWEEP/sweep.json        the question and the base configuration
SWEEP/trials/ID/        one run folder per trial, with trial.json beside its config.json
SWEEP/burn_in/KEY/      one run folder per shared burn-in
SWEEP/results.csv, results.parquet, best.yaml, report.html, plots/
SWEEP/tune/             Ray Tune's own bookkeeping; never read back
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raydet import __version__
from raydet.config.run import RunConfig
from raydet.data.prepared import is_scratch
from raydet.errors import ConfigError, FolderInUseError
from raydet.files import first_foreign, held, locked, make_folder, read_json, remove_unfinished, write_text
from raydet.settings import resolve

if TYPE_CHECKING:
    from raydet.sweep.space import Sweep  # imports Ray Tune, which reading a search does not need

FORMAT = 1
State = Literal["waiting", "burn-in", "running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One point with one seed. `stopped` is by the scheduler; a trial cut off by the end of its search is `running`."""

    id: str
    point: int
    seed: int
    values: dict[str, Any]  # what the search varies
    overrides: dict[str, Any]  # all that differs from the base configuration
    burn_in: str | None = None  # key of a shared burn-in; None: the trial trains its own
    state: State = "waiting"
    message: str = ""
    began: float | None = None  # unix seconds
    ended: float | None = None
    attempts: int = 0
    tune_id: str | None = None  # what Tune calls its newest attempt

    @property
    def is_over(self) -> bool:
        """Whether it needs no more work, unless failed trials are tried again."""
        return self.state in ("done", "stopped", "failed")


def header_of(name: str, sweep: Sweep, base: RunConfig, seeds: Sequence[int], samples: int) -> dict[str, Any]:
    """Return what sweep.json holds. Raises SpaceError where the search cannot be judged as it says."""
    metric, mode = sweep.judged_by(base)
    published = sweep.published
    rows = published.values.items() if published else ()
    points = [{"values": {sweep.keys[0]: value}, "figure": figure} for value, figure in rows]
    return {
        "format": FORMAT,
        "raydet": __version__,
        "name": name,
        "question": sweep.question,
        "metric": metric,
        "mode": mode,
        "keys": list(sweep.keys),
        "space": sweep.as_text(),
        "settings": dict(sweep.settings),
        "seeds": list(seeds),
        "samples": samples,
        "file_samples": sweep.samples,
        "search": sweep.search,
        "scheduler": "none" if sweep.scheduler is None else repr(sweep.scheduler),
        "published": published and {"source": published.source, "metric": published.figure, "points": points},
        "curves": dict(sweep.curves),
        "base": base.model_dump(mode="json"),
    }


def _is_only_a_record(entry: Path) -> bool:
    """Whether it is the folder of a trial that has not begun: nothing but trial.json, or what was to become it."""
    return entry.is_dir() and all(file.name.endswith("trial.json") for file in entry.iterdir())


class SweepFolder:
    """Paths and records below one search's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.header_file = self.path / "sweep.json"
        self.data = self.path / "data"
        self.trials = self.path / "trials"
        self.burn_ins = self.path / "burn_in"
        self.tune = self.path / "tune"

    def check_free(self) -> None:
        """Raise ConfigError where the folder holds something else than the leftovers of a start that was refused."""
        if self.header_file.exists():
            raise ConfigError(f"{self.path} already holds a search; add --resume to go on with it, or set run.dir")
        if name := first_foreign(self.path, self._is_own):
            raise ConfigError(f"{self.path} holds {name} and no search; choose another run.dir")

    def _is_own(self, entry: Path) -> bool:
        """Whether a start that was killed may have left it."""
        if entry == self.data:
            return is_scratch(entry)
        return entry == self.trials and entry.is_dir() and all(map(_is_only_a_record, entry.iterdir()))

    def begin(self, header: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        """Write the search down; sweep.json last, so that its presence means the rest is there."""
        shutil.rmtree(self.trials, ignore_errors=True)
        for trial in trials:
            self.save(trial)
        self.save_header(header)

    def save_header(self, header: Mapping[str, Any]) -> None:
        """Write sweep.json, and remove what a process that was killed has left of it."""
        remove_unfinished(self.path, self.header_file.name)
        write_text(self.header_file, json.dumps(header, indent=1))

    def all_trials(self) -> list[Trial]:
        """Return every trial, in order."""
        return [self.trial(file.parent.name) for file in sorted(self.trials.glob("*/trial.json"))]

    def trial(self, trial_id: str) -> Trial:
        """Read one trial's record."""
        return Trial(**read_json(self.run_dir(trial_id) / "trial.json", ConfigError))

    def save(self, trial: Trial, **changes: Any) -> Trial:
        """Write a trial's record, with changes; returns it."""
        changed = replace(trial, **changes)
        make_folder(self.run_dir(trial.id))
        write_text(self.run_dir(trial.id) / "trial.json", json.dumps(asdict(changed), indent=1))
        return changed

    def run_dir(self, trial_id: str) -> Path:
        """Return a trial's run folder."""
        return self.trials / trial_id

    def config_of(self, trial: Trial, base: RunConfig) -> RunConfig:
        """Return the configuration a trial trains with, apart from where it is forked from."""
        own = {"run.dir": str(self.run_dir(trial.id)), "checkpoint.keep": 1}
        return resolve(base.model_dump(mode="json"), {**trial.overrides, **own}, where=f"trial {trial.id}")

    def ask_to_stop(self, trial_id: str) -> None:
        """Let a trial end after its present step, or before its first."""
        (self.run_dir(trial_id) / "asked_to_stop").touch()

    def is_asked_to_stop(self, trial_id: str) -> bool:
        """Whether somebody has asked."""
        return (self.run_dir(trial_id) / "asked_to_stop").exists()

    def has_checkpoints(self, trial: Trial) -> bool:
        """Whether a trial still has its model: it was not pruned."""
        return (self.run_dir(trial.id) / "checkpoints").is_dir()

    def prune(self, trial: Trial) -> None:
        """Delete what only resuming a trial, using its model, or a report of its labels would need."""
        for name in ("checkpoints", "labels", "diagnostics", "data", "ray"):
            shutil.rmtree(self.run_dir(trial.id) / name, ignore_errors=True)

    def counting(self) -> AbstractContextManager[None]:
        """Hold the list of trials while one is added; waits for others that do the same.

        Raises StorageError where the file system has no locks.
        """
        return locked(self.path / ".count", None)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the search for this process; where none is begun in the end, the folder is left as it was found.

        Raises FolderInUseError where another process holds it.
        """
        in_use = FolderInUseError(f"{self.path}: another process runs this search; wait or end it")
        return held(
            self.path,
            in_use,
            create=lambda: make_folder(self.path),
            own=("data", "trials"),
            is_kept=self.header_file.exists,
        )
