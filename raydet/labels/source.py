"""Where the training loop gets its pseudo-labels from: the protocol, and the source that labels in the same process.

`raydet.pool.source.PoolSource` is the other one. Both give the same labels for the same requests, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from raydet.arithmetic import Arithmetic
from raydet.errors import LabelConflictError, RunError
from raydet.labels.convert import from_table, to_table
from raydet.labels.schema import contradict
from raydet.labels.store import PseudoLabelStore
from raydet.records import PseudoLabel, TeacherRef, Weights


class Annotator(Protocol):
    """A teacher at work."""

    def load(self, ref: TeacherRef, weights: Weights, begun: Arithmetic | None = None) -> None:
        """Become the teacher of that version; must not keep or change the tensors. `begun`: what the run computes in,
        where another process has settled it."""

    def label(self, image_ids: Sequence[str]) -> Sequence[PseudoLabel]:
        """Return one label per id, in order; the same ids and teacher give the same labels, bit for bit."""


class LabelSource(Protocol):
    """Hands out pseudo-labels made by named teacher versions. One per training process."""

    def rewind(self, version: int) -> None:
        """Start (again) from a state with so many steps done: labels of newer teachers are gone when this returns.

        The first call of every attempt, on every rank, before any rank requests anything. May wait.
        """

    def publish(self, ref: TeacherRef, weights: Weights) -> None:
        """Announce a teacher. Every rank calls it; the tensors must not change afterwards. Returns at once."""

    def request(self, image_ids: Sequence[str], version: int) -> None:
        """Ask for labels that will be taken later; asking twice is fine. May label here and now."""

    def take(self, image_ids: Sequence[str], version: int) -> list[PseudoLabel]:
        """Wait for labels and return them: exactly these images, in this order, by exactly this teacher.

        Raises LabelTimeoutError naming what is missing after `labels.timeout_s`.
        """

    def retire(self, version: int) -> None:
        """Labels and teachers below `version` will not be asked for again, by any rank."""

    def flush(self) -> None:
        """Wait until everything this rank asked for exists and is on disk: call it before a checkpoint."""

    def stats(self) -> dict[str, float]:
        """Return figures for the log; does not wait."""

    def close(self) -> None:
        """End the use of this source."""


class InlineSource:
    """Labels in this process, at the time of the request, with the teacher published last.

    That is always the right one: under every schedule the version a step needs is the newest one at the time when the
    step is requested. What is in the store already, from before a resume, is not made again.
    """

    def __init__(self, annotator: Annotator, store: PseudoLabelStore) -> None:
        self._annotator = annotator
        self._store = store
        self._teacher: TeacherRef | None = None
        self._digests: dict[int, str] = {}
        self._ready: dict[int, dict[str, PseudoLabel]] = {}
        self._made = 0
        self._label_s = 0.0

    def rewind(self, version: int) -> None:
        """Delete stored labels of newer teachers; see `LabelSource`."""
        self._store.drop_newer(version)
        self._ready = {v: labels for v, labels in self._ready.items() if v <= version}
        self._digests = {v: digest for v, digest in self._digests.items() if v <= version}
        if self._teacher is not None and self._teacher.version > version:
            self._teacher = None

    def publish(self, ref: TeacherRef, weights: Weights) -> None:
        """Load the teacher. Raises LabelConflictError where a version comes with other weights than before."""
        if contradict(self._digests.setdefault(ref.version, ref.digest), ref.digest):
            raise LabelConflictError(
                f"teacher version {ref.version} was published with weights {self._digests[ref.version]} and now with "
                f"{ref.digest}"
            )
        if self._teacher != ref:
            self._annotator.load(ref, weights)
            self._teacher = ref

    def request(self, image_ids: Sequence[str], version: int) -> None:
        """Label what is neither in memory nor in the store. Takes as long as the teacher does.

        Raises RunError where that needs a teacher that is no longer loaded, and what the annotator raises.
        """
        ready = self._ready.setdefault(version, {})
        new = [image_id for image_id in dict.fromkeys(image_ids) if image_id not in ready]
        stored = [image_id for image_id in new if self._store.has((version, image_id))]
        if stored:
            table = self._store.get([(version, image_id) for image_id in stored])
            ready.update(zip(stored, from_table(table), strict=True))
        missing = [image_id for image_id in new if image_id not in ready]
        if missing:
            ready.update(zip(missing, self._label(missing, version), strict=True))

    def take(self, image_ids: Sequence[str], version: int) -> list[PseudoLabel]:
        """Return the labels; makes those that were not requested before."""
        self.request(image_ids, version)
        ready = self._ready[version]
        labels = [ready[image_id] for image_id in image_ids]
        check_labels(labels, image_ids, version, self._digests.get(version))
        for image_id in image_ids:  # they stay in the store: a frozen teacher's labels of all images need not fit here
            ready.pop(image_id, None)
        return labels

    def retire(self, version: int) -> None:
        """Forget older labels; their files stay."""
        self._store.retire(version)
        self._ready = {v: labels for v, labels in self._ready.items() if v >= version}
        self._digests = {v: digest for v, digest in self._digests.items() if v >= version}

    def flush(self) -> None:
        """Write everything to disk and wait until it is there."""
        self._store.flush()

    def stats(self) -> dict[str, float]:
        """Return labels made and seconds spent on them."""
        return {"labels/made": float(self._made), "labels/label_s": self._label_s}

    def close(self) -> None:
        """Write what is still in memory."""
        self._store.flush()

    def _label(self, image_ids: list[str], version: int) -> list[PseudoLabel]:
        if self._teacher is None or self._teacher.version != version:
            raise RunError(
                f"labels of teacher version {version} are neither in {self._store.folder} nor can they be made: the "
                f"teacher loaded now is {self._teacher}. Missing for images {image_ids[:10]}. If label files were "
                f"deleted, start from an earlier checkpoint"
            )
        began = time.perf_counter()
        try:
            labels = self._annotator.label(image_ids)
        except Exception as error:
            error.add_note(f"while teacher version {version} labelled images {image_ids}")
            raise
        check_labels(labels, image_ids, version, self._teacher.digest)
        table = to_table(labels)
        self._store.append(table)
        self._made += len(labels)
        self._label_s += time.perf_counter() - began
        return from_table(table)  # through the stored form, so that a label is the same whether it was stored or not


def check_labels(labels: Sequence[PseudoLabel], image_ids: Sequence[str], version: int, digest: str | None) -> None:
    """Raise where labels are not what was asked for; `digest` None: the version was published before a restart.

    RunError for other images or another version, LabelConflictError for other weights.
    """
    if [label.image_id for label in labels] != list(image_ids):
        raise RunError(f"asked for labels of {list(image_ids)}, got {[label.image_id for label in labels]}")
    for label in labels:
        if label.teacher.version != version:
            raise RunError(
                f"image {label.image_id!r}: asked for teacher version {version}, got {label.teacher.version}"
            )
        if digest is not None and contradict(label.teacher.digest, digest):
            raise LabelConflictError(
                f"image {label.image_id!r}: teacher version {version} has weights {digest}, the label was made with "
                f"{label.teacher.digest}"
            )
