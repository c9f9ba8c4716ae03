"""A label source that writes down what the loop does with it, and forgets on a crash what was not flushed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.errors import RunStopped
from raydet.families.classification.config import ClassificationConfig
from raydet.group import Group
from raydet.records import PseudoLogits, TeacherRef, Weights
from raydet.registry import build_method, family_of
from raydet.train import launch as launching
from raydet.train import loop, worker
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.vision.digests import digest

Event = tuple[str, int | None, tuple[str, ...]]  # what happened, a version or a step, images


@dataclass
class Book:
    """What outlives a process: what happened, in order, and the labels that were written to disk."""

    events: list[Event] = field(default_factory=list)
    disk: dict[tuple[int, str], PseudoLogits] = field(default_factory=dict)  # by version and image id
    step_of: dict[tuple[str, ...], int] = field(default_factory=dict)  # a step's unlabelled images -> the step

    def told(self) -> list[str]:
        """Return the events as lines: `request 5 by 4` are the labels of step 5, by the teacher of version 4."""
        lines = []
        for what, number, ids in self.events:
            if what in ("request", "take"):
                lines.append(f"{what} {self.step_of[ids]} by {number}")
            else:
                lines.append(what if number is None else f"{what} {number}")
        return lines


class RecordingSource:
    """A `LabelSource`. Labels at once, with the newest published teacher; its logits depend on image and version."""

    def __init__(self, book: Book, *, num_classes: int, fails_at_take: int | None = None) -> None:
        self.book, self.num_classes, self.fails_at_take = book, num_classes, fails_at_take
        self.published: dict[int, tuple[TeacherRef, Weights]] = {}
        self.memory: dict[tuple[int, str], PseudoLogits] = {}  # lost where the process dies

    def rewind(self, version: int) -> None:
        self._note("rewind", version)
        for key in [key for key in self.book.disk if key[0] > version]:
            del self.book.disk[key]

    def publish(self, ref: TeacherRef, weights: Weights) -> None:
        self._note("publish", ref.version)
        assert digest(weights) == ref.digest
        self.published[ref.version] = (ref, weights)

    def request(self, image_ids: Sequence[str], version: int) -> None:
        self._note("request", version, image_ids)
        for image_id in image_ids:
            if (version, image_id) not in self.book.disk:
                assert version in self.published, f"version {version} neither published nor on disk: {image_id}"
                ref = self.published[version][0]
                self.memory[version, image_id] = PseudoLogits(image_id, ref, self._logits(image_id, version))

    def take(self, image_ids: Sequence[str], version: int) -> list[PseudoLogits]:
        self._note("take", version, image_ids)
        if sum(what == "take" for what, _, _ in self.book.events) == self.fails_at_take:
            raise OSError("the teacher is gone")
        known = {**self.memory, **self.book.disk}
        return [known[version, image_id] for image_id in image_ids]

    def retire(self, version: int) -> None:
        self._note("retire", version)

    def flush(self) -> None:
        self._note("flush")
        self.book.disk |= self.memory

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._note("close")
        for ref, weights in self.published.values():
            assert digest(weights) == ref.digest, f"version {ref.version} was changed after it was published"

    def _note(self, what: str, number: int | None = None, image_ids: Sequence[str] = ()) -> None:
        self.book.events.append((what, number, tuple(image_ids)))

    def _logits(self, image_id: str, version: int) -> torch.Tensor:
        seed = int.from_bytes(hashlib.sha256(f"{image_id} {version}".encode()).digest()[:7])
        return torch.randn(self.num_classes, generator=torch.Generator().manual_seed(seed))


def record(
    config: ClassificationConfig,
    monkeypatch: pytest.MonkeyPatch,
    book: Book | None = None,
    *,
    fails_at_take: int | None = None,
    stops_at_take: int | None = None,
) -> Book:
    """Train, on from where `book` ends where one is given, and write down what the loop did.

    `fails_at_take`, `stops_at_take`: at which call of `take` the source fails, or somebody asks the run to stop.
    """
    found = Book() if book is None else book
    resume, real = book is not None, loop.write_checkpoint

    def made(config: Any, family: Any, group: Group, attempt: int) -> RecordingSource:
        found.step_of = _steps_of(config)
        return RecordingSource(found, num_classes=3, fails_at_take=fails_at_take)

    def written(root: Path, step: int, tensors: Any, state: Any) -> Path:
        found.events.append(("checkpoint", step, ()))
        return real(root, step, tensors, state)

    @contextmanager
    def watched(file: Path | None) -> Iterator[Any]:
        yield lambda: sum(what == "take" for what, _, _ in found.events) == stops_at_take

    with monkeypatch.context() as patch:
        patch.setattr(launching, "local_source", made)
        patch.setattr(loop, "write_checkpoint", written)
        patch.setattr(worker, "watching", watched)
        try:
            launch(config, resume=resume)
        except RunStopped:
            assert stops_at_take is not None
        except OSError as error:
            assert fails_at_take is not None and "the teacher is gone" in str(error)
    return found


def _steps_of(config: ClassificationConfig) -> dict[tuple[str, ...], int]:
    """Return which unlabelled images belong to which step, also for the steps after the end that are asked for."""
    family, method = family_of(config), build_method(config)
    data = family.open(RunFolder(config.run.dir).data)
    loader = family.bind(data, method, Group()).build_loader()
    first, end = config.method.burn_in_steps, config.length + config.labels.lookahead
    found = {tuple(loader.unlabeled_ids(step)): step for step in range(first, end)}
    loader.close()
    assert len(found) == end - first, "two steps have the same images"
    return found
