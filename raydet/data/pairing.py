"""Pictures and their label files belong together by name: what does not find its partner is told, on both sides."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from raydet.data.look_alike import folded
from raydet.data.problems import ProblemLog


def key_of(name: str) -> str:
    """Return a relative name without its ending: what a picture and its label file share."""
    return PurePosixPath(name).with_suffix("").as_posix()


def by_key(names: Iterable[str]) -> dict[str, list[str]]:
    """Group relative names that differ by their ending alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key_of(name), []).append(name)
    return groups


def look_alikes(lonely: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return, for names without a partner, the one of `others` that only looks like it."""
    like = {folded(other): other for other in others}
    return {name: like[folded(name)] for name in lonely if folded(name) in like}


def report_same_stems(root: Path, names: Iterable[str], log: ProblemLog) -> None:
    """Mention images that differ by their ending alone: a photo and its mask, maybe."""
    same = [group for group in by_key(names).values() if len(group) > 1]
    if same:
        message = f"{len(same):,} names are there with several endings ({', '.join(same[0][:3])}); all are read"
        log.warn("image-stem-twice", root, "", message, "if one is a mask or a copy, move it to another folder")
