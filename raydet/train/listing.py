"""Which images are listed how often: what the method says about it reaches the loader, at the start and at rebuilds.

At the rebuild of step b a method counts the newest label of every image among the steps of a window before b. Those
labels are in the store already: nothing is remembered beside it. Each rank reads a share of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.config.run import RunConfig
from raydet.contract import ListingLoader, Loader, Method, sizes_of
from raydet.data.prepared import PreparedSets
from raydet.group import Group
from raydet.labels.recall import recall
from raydet.labels.source import LabelSource
from raydet.records import TeacherRef
from raydet.train.rundir import RunFolder

Wanted = dict[int, dict[str, int]]


class ImageLists:
    """The listings of one run, on one rank."""

    def __init__(
        self,
        config: RunConfig,
        method: Method[Any, Any],
        data: PreparedSets[Any],
        source: LabelSource,
        group: Group,
    ) -> None:
        self._config, self._method, self._data, self._source, self._group = config, method, data, source, group
        self._rebuilds, self._schedule = method.rebuilds(), method.schedule()

    def begin(self, loader: Loader, state: Any, step: int) -> None:
        """Tell the loader what is known at a step whose own rebuild, if it has one, is still to come."""
        listings = self._method.listings(state, sizes_of(self._data))
        if self._rebuilds is None and not listings:
            return
        assert isinstance(loader, ListingLoader), f"{type(loader).__name__} lists every image once"
        loader.list_anew(listings, None if self._rebuilds is None else self._rebuilds.known_until(step))

    def note(self, teachers: dict[int, str], ref: TeacherRef) -> None:
        """Remember a teacher's digest by its version, where its labels will be counted."""
        if self._rebuilds is not None:
            teachers[ref.version] = ref.digest

    def update(self, loader: Loader, state: Any, teachers: dict[int, str], step: int) -> None:
        """Rebuild where that is due at a step; waits for all ranks and their labels.

        `teachers`: what `note` remembered, and forgets here where no later rebuild counts it. Raises
        LabelConflictError where stored labels are of others.
        """
        if self._rebuilds is None or not self._rebuilds.is_due(step):
            return
        assert isinstance(loader, ListingLoader), f"{type(loader).__name__} lists every image once"
        self._source.flush()
        self._group.barrier()  # the labels of all ranks are on disk
        folder, wait_s = RunFolder(self._config.run.dir).labels, self._config.labels.timeout_s
        labels = recall(folder, self._share(self._newest(loader, step)), teachers, timeout_s=wait_s)
        self._method.rebuild(state, sizes_of(self._data), step, labels, self._group)
        oldest = self._schedule.version_for(step)  # what the next window begins with
        for version in [version for version in teachers if oldest is not None and version < oldest]:
            del teachers[version]
        self.begin(loader, state, step + 1)

    def _newest(self, loader: ListingLoader, step: int) -> NDArray[np.int64]:
        """Return for each unlabelled image `[U]` the newest step of the window that had it, -1: none."""
        assert self._rebuilds is not None and self._data.unlabeled is not None
        newest = np.full(len(self._data.unlabeled), -1, dtype=np.int64)
        for used in self._rebuilds.window(step):
            newest[loader.all_unlabeled_rows(used)] = used
        return newest

    def _share(self, newest: NDArray[np.int64]) -> Wanted:
        """Return this rank's part of the labels: version -> image id -> row."""
        assert self._data.unlabeled is not None
        wanted: Wanted = {}
        rows = np.flatnonzero(newest >= 0)
        for row in rows[rows % self._group.world == self._group.rank].tolist():
            version = self._schedule.version_for(int(newest[row]))
            assert version is not None, f"step {newest[row]} has no teacher, but its labels are to be counted"
            wanted.setdefault(version, {})[self._data.unlabeled.id_at(row)] = row
        return wanted
