"""Which runs have a past in common: what a gain may be measured against.

A *control* trains on labelled images alone, from where another run's pseudo-labels begin. Best is a fork of the same
checkpoint, where both have the same weights; next best is the same seed, labelled images and settings from scratch.
Settings are `data`, `model` and `optim`, less `_FREE`, and `method.burn_in_steps`. Those that a method has its own for
are not among them: a control can only come near those (`MethodSection.settings_for_control`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from raydet.config.run import RunConfig
from raydet.errors import UserError
from raydet.registry import family_of
from raydet.report.inputs import RunRecords, read_records
from raydet.train.rundir import flat, is_in
from raydet.train.state import digest_of_labeled

FORKED = "the same checkpoint"
ALIKE = "the same seed, labelled images and settings"
_JUDGED_ON = ("val", "test")  # sets that nothing trains on: these images are compared where figures are
MOST_NEAR = 200  # folders that are looked at beside a run
# What may differ between runs that are alike: none of it changes what labelled images teach.
_FREE = (
    "data.val", "data.test", "data.unlabeled", "data.loader_threads", "data.prefetch_steps",
    "data.on_bad_image",  # which images are left out is compared itself
    "optim.steps", "optim.unlabeled_batch", "optim.decay_at",
)  # fmt: skip


def origin_of(folder: Path, config: RunConfig) -> Path | None:
    """Return the checkpoint from where a run goes on: the one that it was forked from, else its own burn-in's end."""
    if config.run.fork_from is not None:
        return Path(config.run.fork_from).resolve()
    burn_in = config.method.burn_in_steps
    return (folder / "checkpoints" / f"step_{burn_in:08d}").resolve() if burn_in else None


def common_start(a: RunRecords, b: RunRecords) -> str | None:
    """Say what two runs started from in common, `FORKED` or `ALIKE`; None where that is nothing."""
    origins = [origin_of(run.folder, run.config) for run in (a, b)]
    if origins[0] is not None and origins[0] == origins[1]:
        return FORKED
    if not are_alike(a.config, b.config):
        return None
    labeled = [labeled_images(run) for run in (a, b)]
    return ALIKE if labeled[0] is not None and labeled[0] == labeled[1] else None


def are_alike(a: RunConfig, b: RunConfig) -> bool:
    """Return whether two configurations have the same seed and train on labelled images with the same settings, but for
    those that one of the methods has its own for."""
    free = (*_FREE, *a.method.settings_for_control(), *b.method.settings_for_control())
    return _start_settings(a, free) == _start_settings(b, free)


def labeled_images(run: RunRecords) -> tuple[str, list[str]] | None:
    """Return a digest of which images are labelled, and the ids of those of them that are not damaged; None where the
    run's data cannot be read any more."""
    try:
        sets = family_of(run.config).open(run.folder / "data")
    except UserError:
        return None
    return digest_of_labeled(sets), [sets.labeled.id_at(row) for row in sets.labeled.sound_rows().tolist()]


def images_left_out(run: RunRecords) -> frozenset[str]:
    """Return the ids of the images that a run does not train on, as they are damaged. Raises UserError where the list
    of them cannot be read."""
    file, found = run.folder / "data" / "skipped.jsonl", set()
    try:
        content = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); make it readable, or restore it") from None
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
            name, image_id = str(row["set"]), str(row["id"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(
                f"{file}: line {number} names no set and image: {line[:80]!r}; restore it, or delete it: the run then "
                f"counts as one that left out none"
            ) from None
        if name not in _JUDGED_ON:
            found.add(image_id)
    return frozenset(found)


def is_control(run: RunRecords) -> bool:
    """Whether a run trains on labelled images alone."""
    return not run.config.uses_labels


def find_control(run: RunRecords) -> tuple[RunRecords, str] | None:
    """Look for a run's control beside it, and beside the run that it was forked from; return it and what they share.

    Of several the one with a checkpoint in common, then the one that was trained longest, then the first by name. A
    folder that cannot be read is no candidate.
    """
    found = []
    for folder in _near(run):
        try:
            other = read_records(folder)
            if not is_control(other) or other.config.family != run.config.family:
                continue
            shared = common_start(run, other)
        except UserError:
            continue
        if shared is not None and other.points:
            found.append((shared != FORKED, -other.points[-1][0], str(folder), other, shared))
    best = min(found, key=lambda each: each[:3], default=None)
    return None if best is None else best[3:]


def _near(run: RunRecords) -> Iterator[Path]:
    """Yield the run folders beside a run, and beside the one that it was forked from."""
    homes = [run.folder.parent]
    if run.config.run.fork_from is not None:
        homes += Path(run.config.run.fork_from).parents[2:3]  # HOME/RUN/checkpoints/step_...
    seen = {run.folder.resolve()}
    for home in dict.fromkeys(home.resolve() for home in homes):
        folders = sorted(file.parent for file in home.glob("*/config.json"))
        for folder in folders[:MOST_NEAR]:
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder


def _start_settings(config: RunConfig, free: Collection[str]) -> dict[str, Any]:
    """Return by dotted key what labelled images are trained with, without the keys `free` and all below them."""
    tree = config.model_dump(mode="json")
    keys = flat({name: tree[name] for name in ("seed", "data", "model", "optim")})
    found = {key: value for key, value in keys.items() if not is_in(key, free)}
    return found | {"method.burn_in_steps": config.method.burn_in_steps}
