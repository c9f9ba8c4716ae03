"""DIR/label.json and the like: what a job depends on, so that another call goes on with the same or is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet.errors import ConfigError, DataError
from raydet.files import write_text
from raydet.image_jobs.listing import Images, Listing, differences
from raydet.image_jobs.words import Words

FORMAT = 1
_WEIGHTS = "model.weights"  # a digest of them, which says nothing to people


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the file says."""

    settings: Mapping[str, Any]
    count: int  # of images
    listing: str  # digest
    model: str = "another model"  # what messages call it; decides nothing

    @property
    def digest(self) -> str:
        """SHA-256 of settings and listing: what each shard carries."""
        content = json.dumps([self.listing, dict(self.settings)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def write(self, file: Path) -> None:
        """Write the file aside and rename it."""
        content = {"format": FORMAT, "images": self.count, "listing": self.listing, "settings": dict(self.settings)}
        write_text(file, json.dumps({**content, "model": self.model}, indent=1))


def read_manifest(file: Path) -> Manifest | None:
    """Read the file, None where there is none. Raises DataError where it is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"{file}: format {content['format']!r}, this raydet reads {FORMAT}; use another --out")
        model = str(content.get("model", "another model"))
        return Manifest(dict(content["settings"]), int(content["images"]), str(content["listing"]), model)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: cannot be read: {error}; use another --out") from None


def check_same(folder: Path, before: Manifest, now: Manifest, words: Words) -> None:
    """Raise ConfigError, with what differs, where a job was begun with other settings."""
    keys = sorted(before.settings.keys() | now.settings.keys())
    changed = [
        f"the model: {before.model} -> {now.model}"
        if key == _WEIGHTS
        else f"{key}: {before.settings.get(key)!r} -> {now.settings.get(key)!r}"
        for key in keys
        if before.settings.get(key) != now.settings.get(key)
    ]
    if changed:
        raise ConfigError(
            f"--out {folder} holds {words.results} made with other settings:\n  "
            + "\n  ".join(changed)
            + "\nset these back (a checkpoint folder can be given in place of the run's), or choose another --out"
        )


def check_same_images(folder: Path, images: Images, before: Listing, now: Listing, words: Words) -> None:
    """Raise DataError, with examples, where images have come or gone since the job was begun."""
    if before.digest == now.digest:
        return
    added, removed, num_added, num_removed = differences(before, now)
    parts = [
        f"{number:,} {word} ({', '.join(map(repr, names))}{', ...' if number > len(names) else ''})"
        for number, word, names in ((num_added, "added", added), (num_removed, "removed", removed))
        if number
    ]
    raise DataError(
        f"{images.given} has changed since {folder} was begun: {', '.join(parts)}. Restore it, or {words.verb} it into "
        f"another --out (a list file with the new names alone will do)"
    )
