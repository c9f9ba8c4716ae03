"""DIR/label.json: what a labelling depends on, so that another call goes on with the same or is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet.errors import ConfigError, DataError
from raydet.files import write_text
from raydet.label_files.labeller import FileModel
from raydet.label_files.listing import Images, Listing, differences
from raydet.train.rundir import flat
from raydet.train.saved import SavedModel
from raydet.vision.weights import digest, weights_of

FORMAT = 1
_WEIGHTS = "model.weights"  # a digest of them, which says nothing to people


def called(saved: SavedModel) -> str:
    """Return what messages call a model: its step and where it lies."""
    return f"{saved.role} of step {saved.checkpoint.step} ({saved.checkpoint.path})"


def settings_of(
    saved: SavedModel, model: FileModel, images: Images, *, shard_images: int, precision: str
) -> dict[str, Any]:
    """Return everything that the labels depend on, except the images' names; by dotted key."""
    settings = {
        "model": {"role": saved.role, "weights": digest(weights_of(saved.model)), "class_names": saved.class_names},
        "config": model.settings(),
        "images_root": str(images.store),
        "shard_images": shard_images,
        "precision": precision,
    }
    return flat(json.loads(json.dumps(settings)))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What DIR/label.json says."""

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


def check_same(folder: Path, before: Manifest, now: Manifest) -> None:
    """Raise ConfigError, with what differs, where a labelling was begun with other settings."""
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
            f"--out {folder} holds labels made with other settings:\n  "
            + "\n  ".join(changed)
            + "\nset these back (a checkpoint folder can be given in place of the run's), or choose another --out"
        )


def check_same_images(folder: Path, images: Images, before: Listing, now: Listing) -> None:
    """Raise DataError, with examples, where images have come or gone since the labelling was begun."""
    if before.digest == now.digest:
        return
    added, removed, num_added, num_removed = differences(before, now)
    parts = [
        f"{number:,} {word} ({', '.join(map(repr, names))}{', ...' if number > len(names) else ''})"
        for number, word, names in ((num_added, "added", added), (num_removed, "removed", removed))
        if number
    ]
    raise DataError(
        f"{images.given} has changed since {folder} was begun: {', '.join(parts)}. Restore it, or label it into "
        f"another --out (a list file with the new names alone will do)"
    )
