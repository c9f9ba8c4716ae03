"""RUN/metrics.jsonl: one JSON object a line, for every figure of a run; the same figures for TensorBoard.

Each record has `kind`, `step` and `time`. JSON has no NaN: a figure that is not finite is null, and the record's
`nonfinite` lists its name.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from raydet.errors import DataError
from raydet.faults import writing
from raydet.files import make_folder, write_text
from raydet.registry import run_configs

FILE_NAME = "metrics.jsonl"
Record = dict[str, Any]
_ADVICE = "mend or delete that line: only what it says is lost"


def headline(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the most telling figures of an evaluation's record, the one that decides first: `RunConfig.figures`."""
    found = next((run for run in run_configs() if run.figures[0] in record), None)
    names, besides = ((), ()) if found is None else (found.figures, found.told_besides)
    told = {name: record.get(name) for name in names[:3] if name not in besides}
    return told | {name: record[name] for name in besides if record.get(name) is not None}


def mode_of(figure: str) -> str:
    """Return whether the best of such figures is the highest (max) or the lowest (min)."""
    return "min" if any(figure in run.lower_is_better for run in run_configs()) else "max"


def judged(records: Iterable[Record]) -> list[Record]:
    """Return the val evaluations that a run is judged by, one per step, in order: those of its teacher, and of its
    student where there is no teacher (yet), or none that counts."""
    records = list(records)
    starts = [record for record in records if record["kind"] == "start"]
    role = starts[-1].get("judged", "teacher") if starts else "teacher"
    found: dict[int, Record] = {}
    for record in records:
        if record["kind"] != "eval" or record.get("split") != "val":
            continue
        if record["model"] == role or found.get(record["step"], {"model": "student"})["model"] == record["model"]:
            found[record["step"]] = record
    return [found[step] for step in sorted(found)]


def seconds_at_work(records: Iterable[Record]) -> float:
    """Return how long the attempts of a run took together, from its records; the time between two does not count."""
    records = list(records)
    pairs = zip(records, records[1:], strict=False)
    return sum(float(later["time"] - earlier["time"]) for earlier, later in pairs if later["kind"] != "start")


def losses_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the losses that a step's record tells of, in order: (images that it is about, name), e.g. (sup, ce)."""
    keys = [key.split("/") for key in record if key.startswith("loss/")]
    return list(dict.fromkeys((key[1], key[2]) for key in keys if len(key) == 4))


class MetricsWriter:
    """Appends records to FOLDER/metrics.jsonl, each flushed, so that a crash loses at most the line being written."""

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._events = folder / "tensorboard" if tensorboard else None
        self._board: SummaryWriter | None = None
        self._path = make_folder(folder) / FILE_NAME
        with writing(self._path):
            _end_last_line(self._path)
            self._file = self._path.open("ab", buffering=0)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record. Its values are numbers, strings, booleans, None, and lists and mappings of these."""
        missing: list[str] = []
        clean = {name: _finite(value, name, missing) for name, value in record.items()}
        if missing:
            clean["nonfinite"] = missing
        self._append((json.dumps(clean, ensure_ascii=False, allow_nan=False) + "\n").encode())
        if self._events is not None:
            with writing(self._events):
                self._write_events(self._events, clean)

    def _append(self, line: bytes) -> None:
        """Append a line as a whole: where the disk takes but a part of it, that is taken back."""
        with writing(self._path, needed=len(line)):
            end = self._file.seek(0, os.SEEK_END)
            try:
                done = 0
                while done < len(line):
                    done += self._file.write(line[done:])
            except OSError:
                self._file.truncate(end)
                raise

    def close(self) -> None:
        """Close the files. Calling it twice is fine."""
        self._file.close()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _write_events(self, folder: Path, record: Record) -> None:
        step = record["step"]
        if self._board is None:  # `purge_step` hides what an attempt that crashed wrote beyond this step
            self._board = SummaryWriter(str(folder), purge_step=step + 1)
        if record["kind"] not in ("step", "eval"):
            return
        prefix = f"{record['split']}/{record['model']}/" if record["kind"] == "eval" else ""
        for name, value in record.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and name not in ("step", "time"):
                self._board.add_scalar(prefix + name, value, step, walltime=record.get("time"))
        self._board.flush()


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a metrics file, in order; an unfinished last line and a missing file are not errors.

    Raises DataError that names the line where another line is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [parse_record(line, f"{path}, line {number}") for number, line in enumerate(lines[:-1], 1) if line.strip()]


def parse_record(line: bytes, where: str) -> Record:
    """Return the record of one complete line. Raises DataError that says `where`."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not a JSON object: {error}; {_ADVICE}") from None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int) or "kind" not in record:
        raise DataError(f"{where}: not a metrics record (an object with kind and step); {_ADVICE}")
    return record


def truncate_after(path: Path, step: int) -> None:
    """Remove the records of steps beyond `step`, which a resumed run writes anew. A missing file is not an error."""
    if not path.exists():
        return
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in kept))


def _end_last_line(path: Path) -> None:
    """Cut off a line that a killed process left unfinished, so that the next record starts on a line of its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _finite(value: Any, name: str, missing: list[str]) -> Any:
    """Return `value` with every NaN and infinity as None; the names of those are added to `missing`."""
    if isinstance(value, float) and not math.isfinite(value):
        missing.append(name)
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(each, f"{name}/{key}", missing) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each, f"{name}/{i}", missing) for i, each in enumerate(value)]
    return value
