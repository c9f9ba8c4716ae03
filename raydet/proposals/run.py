"""One search for proposals from its beginning, or from where it was left, to proposals.arrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydet.data.decode import FULL_RANGE
from raydet.data.proposals import FILE, Fallback, write_proposals
from raydet.errors import ConfigError
from raydet.image_jobs.image_stores import Picture
from raydet.image_jobs.listing import open_images
from raydet.image_jobs.run import Begun, JobOptions, beginning, check_options
from raydet.image_jobs.shards import read_shard
from raydet.image_jobs.words import Words
from raydet.image_jobs.worker import Row
from raydet.proposals.filters import Counts, Drop, Filters
from raydet.proposals.sources import Finder, SelectiveSearch, Source
from raydet.text import plural
from raydet.train.rundir import flat

PIECE_IMAGES = 4  # searched by one call: seconds
WORDS = Words("proposing", "proposals", "search", "searched", "proposals.json", (FILE,))
SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),  # relative to the image root, with /
        pa.field("width", pa.int32()),  # pixels, after EXIF rotation; null where the image was skipped, as all below
        pa.field("height", pa.int32()),
        pa.field("boxes", pa.list_(pa.float32())),  # x1 y1 x2 y2 of box after box, pixels of the original image
        pa.field("fallback", pa.int8()),  # `filters.Fallback`
        pa.field("num_bytes", pa.int64()),  # of the image's file; null where an older raydet searched it
        pa.field("dropped", pa.list_(pa.int32())),  # boxes by reason: `filters.Drop`; null as num_bytes is
        pa.field("error", pa.string()),  # why the image was skipped; null where it was searched
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalOptions(JobOptions):
    """What `raydet proposals` was asked to do."""

    source: Source = field(default_factory=SelectiveSearch)
    filters: Filters = field(default_factory=Filters)
    shard_images: int = 128
    gray16_range: tuple[int, int] = FULL_RANGE  # as `data.views.gray16_range`


@dataclass(frozen=True, slots=True)
class Proposing:
    """The task (`raydet.image_jobs.worker.Task`) of a source and filters."""

    source: Source
    filters: Filters

    @property
    def schema(self) -> pa.Schema:
        """Return the columns of a row."""
        return SCHEMA

    @property
    def batch(self) -> int:
        """Return 1: each image is by itself."""
        return 1

    def begin(self) -> Proposer:
        """Build what proposes."""
        return Proposer(self.source.finder(), self.filters)


class Proposer:
    """A source in one process. All the work is in `see`, which threads do side by side."""

    def __init__(self, find: Finder, filters: Filters) -> None:
        self._find, self._filters = find, filters

    def see(self, picture: Picture) -> Row:
        """Return the row of an image."""
        height, width = picture.pixels.shape[1:]
        boxes, fallback, dropped = self._filters.kept(self._find(picture.pixels, picture.name), width, height)
        return {
            "width": width,
            "height": height,
            "boxes": boxes.astype(np.float32).reshape(-1),
            "fallback": int(fallback),
            "num_bytes": picture.num_bytes,
            "dropped": dropped.astype(np.int32),
        }

    def say(self, seen: Sequence[Row]) -> list[Row]:
        """Return the rows."""
        return list(seen)


def propose(options: ProposalOptions) -> Path:
    """Search what is not searched yet, then write proposals.arrow and skipped.csv; return the former's path.

    Raises UserErrors for what was asked for wrongly, RunError where nothing could be searched or actors keep dying.
    """
    options.filters.check()
    options.source.check()
    check_options(options)
    low, high = options.gray16_range
    if not 0 <= low < high <= FULL_RANGE[1]:
        raise ConfigError(f"--gray16-range {low} {high}: expected two values of 0 to {FULL_RANGE[1]}, the lower first")
    images = open_images(options.images, options.root)
    images = replace(images, store=replace(images.store, gray16_range=options.gray16_range))
    settings = settings_of(options.source, options.filters, options.gray16_range)
    with beginning(images, settings, options, WORDS) as job:
        name = settings["source.name"]
        print(f"{name}: {plural(job.listing.count, 'image')} of {images.given} -> {job.folder}", flush=True)
        job.work_off(Proposing(options.source, options.filters), PIECE_IMAGES)
        return _export(job)


def settings_of(source: Source, filters: Filters, gray16_range: tuple[int, int] = FULL_RANGE) -> dict[str, Any]:
    """Return all that the boxes depend on, but for the images, by dotted key."""
    found: dict[str, Any] = {"source": source.settings(), "filters": asdict(filters)}
    if gray16_range != FULL_RANGE:  # older files do not say
        found["gray16_range"] = list(gray16_range)
    return flat(json.loads(json.dumps(found)))


def _export(job: Begun) -> Path:
    skipped, shards, file = job.export_skipped(), job.shards(), job.folder / FILE
    write_proposals(file, _tables(shards), settings=job.manifest.settings, listing=job.manifest.listing)
    fallbacks, boxes, losses = np.zeros(len(Fallback), np.int64), 0, Losses()
    for table in _tables(shards):
        fallbacks += np.bincount(table["fallback"].to_numpy(), minlength=len(Fallback))
        boxes += sum(len(chunk.values) // 4 for chunk in table["boxes"].chunks)
        losses.add(table)
    images = int(fallbacks.sum())
    found = f"{plural(images, 'image')}, {plural(boxes, 'box')} ({boxes / images:.1f} an image)"
    print(f"{found}, {plural(skipped, 'image')} skipped")
    for line in (*losses.lines(images), *_said_of_fallbacks(fallbacks)):
        print(line)
    print(file)
    return file


def _said_of_fallbacks(fallbacks: Counts) -> list[str]:
    return [
        f"note: in {plural(count, 'image')} no box passed all filters: {what}"
        for fallback, what in _SAID.items()
        if (count := int(fallbacks[fallback]))
    ]


_WHY = {
    Drop.EMPTY: "without an area inside the image",
    Drop.TWICE: "equal to another",
    Drop.SHAPE: "too long or too high (--aspect-range)",
    Drop.AREA: "too small or too large (--sqrt-area-range)",
    Drop.SIDE: "with too short a side (--min-side)",
}
_SAID = {
    Fallback.ASPECT: "those of a fit aspect ratio with sides of 32 pixels or more were kept",
    Fallback.SIDE: "those with sides of 32 pixels or more were kept",
    Fallback.IMAGE: "the whole image is the one box",
}


class Losses:
    """How many boxes of the source are not among the proposals, and why."""

    def __init__(self) -> None:
        self.images = self.kept = 0  # of those that the numbers are known of
        self.dropped = np.zeros(len(Drop), np.int64)

    def add(self, table: pa.Table) -> None:
        """Count the rows of a shard, but for those of an older raydet, which do not say."""
        table = table.filter(pc.is_valid(table["dropped"]))
        self.images += len(table)
        self.dropped += pc.list_flatten(table["dropped"]).to_numpy().reshape(-1, len(Drop)).sum(axis=0)
        own = table.filter(pc.not_equal(table["fallback"], int(Fallback.IMAGE)))  # the others' box is of no source
        self.kept += len(pc.list_flatten(own["boxes"])) // 4

    def lines(self, images: int) -> list[str]:
        """Return the line about them, of `images` in all, where there are any."""
        if not (number := int(self.dropped.sum())):
            return []
        reasons = [f"{count:,} {_WHY[Drop(place)]}" for place, count in enumerate(self.dropped.tolist()) if count]
        old = (
            ""
            if self.images == images
            else f" (in {plural(self.images, 'image')}; an older raydet searched the others)"
        )
        return [f"note: {number:,} of {number + self.kept:,} boxes were dropped{old}: {', '.join(reasons)}"]


def _tables(shards: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield the rows of each shard that were not skipped."""
    for shard in shards:
        table = read_shard(shard, SCHEMA.names, later={"num_bytes": pa.int64(), "dropped": pa.list_(pa.int32())})
        yield table.filter(pc.is_null(table["error"]))
