"""LabelDesk: who asked for which label and how far it is. A pure state machine: no Ray, no threads, no labels.

    request -> WANTED -> assign -> ASSIGNED -> answer -> READY -> retire -> forgotten
                 ^                    |
                 +--- actor_died -----+---- fail -> FAILED (until it is forgiven, dropped or retired)

A key is (version, image id). Oldest version first, then the order of requests: what a trainer needs next is made first.
At every moment wanted + assigned + ready + failed = requested - forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Key = tuple[int, str]
"""Teacher version and image id."""


@dataclass(frozen=True, slots=True)
class DeskCounts:
    """How many keys are in which state, and what happened since the desk was set up."""

    wanted: int
    assigned: int
    ready: int
    failed: int
    requested: int  # distinct keys ever taken on
    forgotten: int  # of those, dropped or retired
    returned: int  # times an assigned key went back because its actor died
    ignored: int  # answers for keys that were not waiting for that actor's answer


class LabelDesk:
    """Bookkeeping of all labels that were asked for and not yet forgotten."""

    def __init__(self) -> None:
        self._wanted: dict[int, dict[str, None]] = {}  # version -> ids in order of request
        self._assigned: dict[Key, str] = {}  # key -> actor
        self._ready: dict[int, set[str]] = {}
        self._failed: dict[Key, str] = {}  # key -> why
        self._published: set[int] = set()
        self._requested = self._forgotten = self._returned = self._ignored = 0

    def request(self, version: int, image_ids: Iterable[str]) -> list[str]:
        """Want these labels; what is known already, in any state, stays as it is. Returns the ids that are new."""
        new = [image_id for image_id in dict.fromkeys(image_ids) if not self._knows((version, image_id))]
        if new:
            self._wanted.setdefault(version, {}).update(dict.fromkeys(new))
            self._requested += len(new)
        return new

    def publish(self, version: int) -> None:
        """From now on labels of this version can be assigned."""
        self._published.add(version)

    def unpublish(self, version: int) -> None:
        """The weights of this version are gone: nothing of it can be assigned until it is published again."""
        self._published.discard(version)

    def assign(self, actor: str, number: int) -> list[Key]:
        """Hand up to `number` wanted keys of ONE published version to an actor, oldest version first."""
        version = min((v for v in self._wanted if v in self._published), default=None)
        if version is None or number < 1:
            return []
        waiting = self._wanted[version]
        keys = [(version, image_id) for _, image_id in zip(range(number), waiting, strict=False)]
        for key in keys:
            self._unwant(key)
            self._assigned[key] = actor
        return keys

    def answer(self, actor: str, key: Key) -> bool:
        """Take an actor's answer. False where nobody waits for it: answered before, dropped, or given to another."""
        if self._assigned.get(key) != actor:
            self._ignored += 1
            return False
        del self._assigned[key]
        self._mark_ready(key)
        return True

    def fail(self, actor: str, key: Key, reason: str) -> bool:
        """The annotator raised for this key; it is not tried again. False where nobody waits for it."""
        if self._assigned.get(key) != actor:
            self._ignored += 1
            return False
        del self._assigned[key]
        self._failed[key] = reason
        return True

    def found(self, version: int, image_ids: Iterable[str]) -> None:
        """These wanted labels exist already, e.g. in the store."""
        for image_id in image_ids:
            key = (version, image_id)
            if image_id not in self._wanted.get(version, {}):
                raise KeyError(f"{key} is not wanted")
            self._unwant(key)
            self._mark_ready(key)

    def actor_died(self, actor: str) -> list[Key]:
        """Take back everything assigned to an actor; it is wanted again, before newer requests of its version."""
        keys = [key for key, holder in self._assigned.items() if holder == actor]
        self.give_back(actor, keys)
        return keys

    def give_back(self, actor: str, keys: Sequence[Key]) -> None:
        """Return keys that this actor holds to the front of what is wanted, in the given order; leave others alone."""
        held = [key for key in keys if self._assigned.get(key) == actor]
        for version in dict.fromkeys(version for version, _ in held):
            ids = [image_id for v, image_id in held if v == version]
            self._wanted[version] = dict.fromkeys(ids) | self._wanted.get(version, {})
        for key in held:
            del self._assigned[key]
        self._returned += len(held)

    def drop_newer(self, version: int) -> None:
        """Forget every request and publication of versions above `version` (a restart from an older state)."""
        self._forget([v for v in self._versions() if v > version])
        self._published = {v for v in self._published if v <= version}

    def retire(self, version: int) -> None:
        """Forget every request and publication of versions below `version`: nobody will ask for them again."""
        self._forget([v for v in self._versions() if v < version])
        self._published = {v for v in self._published if v >= version}

    def forgive(self) -> None:
        """Want failed labels again (a new attempt may read an image that the last one could not)."""
        for version, image_id in self._failed:
            self._wanted.setdefault(version, {})[image_id] = None
        self._failed.clear()

    def is_ready(self, key: Key) -> bool:
        """Whether the label exists."""
        return key[1] in self._ready.get(key[0], ())

    def failures(self, version: int, image_ids: Iterable[str]) -> dict[str, str]:
        """Return id -> reason for those of the ids that failed."""
        return {i: self._failed[version, i] for i in image_ids if (version, i) in self._failed}

    def missing(self, version: int, image_ids: Iterable[str]) -> list[str]:
        """Return those of the ids whose label does not exist (yet)."""
        return [image_id for image_id in image_ids if not self.is_ready((version, image_id))]

    def assignable(self) -> int:
        """Return how many keys wait for an actor, and for nothing else."""
        return sum(len(ids) for version, ids in self._wanted.items() if version in self._published)

    def unpublished(self) -> list[int]:
        """Return the versions that labels are wanted of but whose teacher has not been published, ascending."""
        return sorted(version for version in self._wanted if version not in self._published)

    def counts(self) -> DeskCounts:
        """Count the keys by state."""
        return DeskCounts(
            wanted=sum(map(len, self._wanted.values())),
            assigned=len(self._assigned),
            ready=sum(map(len, self._ready.values())),
            failed=len(self._failed),
            requested=self._requested,
            forgotten=self._forgotten,
            returned=self._returned,
            ignored=self._ignored,
        )

    def _knows(self, key: Key) -> bool:
        version, image_id = key
        if image_id in self._wanted.get(version, ()) or self.is_ready(key):
            return True
        return key in self._assigned or key in self._failed

    def _unwant(self, key: Key) -> None:
        version, image_id = key
        del self._wanted[version][image_id]
        if not self._wanted[version]:
            del self._wanted[version]

    def _mark_ready(self, key: Key) -> None:
        self._ready.setdefault(key[0], set()).add(key[1])

    def _versions(self) -> set[int]:
        return {*self._wanted, *self._ready, *(v for v, _ in self._assigned), *(v for v, _ in self._failed)}

    def _forget(self, versions: Iterable[int]) -> None:
        gone = set(versions)
        before = self._size()
        for version in gone:
            self._wanted.pop(version, None)
            self._ready.pop(version, None)
        self._assigned = {key: actor for key, actor in self._assigned.items() if key[0] not in gone}
        self._failed = {key: reason for key, reason in self._failed.items() if key[0] not in gone}
        self._forgotten += before - self._size()

    def _size(self) -> int:
        counts = self.counts()
        return counts.wanted + counts.assigned + counts.ready + counts.failed
