"""Files that list the labelled images of a detection set, Unbiased Teacher's seed files among them.

These are `{percent: {seed: [numbers]}}`, of which `labeled_ids: COCO_supervision.txt#10/1` takes 10 percent, seed 1.
The numbers count, in ascending order of their ids, the images with at least one annotation that is not crowd, as in the
annotation file: a box that `on_bad_box` drops counts there, or every number behind its image would mean another one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.source import Table
from raydet.data.labeled_ids import listed_rows, read_id_file
from raydet.errors import DataError
from raydet.text import plural


def read_labeled_rows(name: str, table: Table) -> NDArray[np.int64]:
    """Return the rows of `table` that the file lists, ascending. Raises DataError for ids that do not exist."""
    file, part = _split_name(name)
    content = read_id_file(file)
    if isinstance(content, dict):
        return _seed_file_rows(file, part, content, table)
    if part is not None:
        raise DataError(f"{file}: '#{part}' is for seed files {{percent: {{seed: [numbers]}}}}; this is a list of ids")
    return listed_rows(content, file, table.ids)


def _split_name(name: str) -> tuple[Path, str | None]:
    path = Path(name).expanduser()
    if path.exists() or "#" not in name:
        return path, None
    file, _, part = name.rpartition("#")
    return Path(file).expanduser(), part


def _seed_file_rows(file: Path, part: str | None, content: dict[str, Any], table: Table) -> NDArray[np.int64]:
    percents = ", ".join(list(content)[:12])
    if part is None or part.count("/") != 1:
        raise DataError(
            f"{file}: a seed file; say which split as '{file.name}#percent/seed', e.g. #10/1 (percents: {percents})"
        )
    percent, seed = part.split("/")
    by_seed = next((seeds for key, seeds in content.items() if _same_number(key, percent)), None)
    if not isinstance(by_seed, dict):
        raise DataError(f"{file}: no percent {percent!r} (there are: {percents})")
    numbers = by_seed.get(seed)
    if not isinstance(numbers, list) or any(not isinstance(n, int) or isinstance(n, bool) for n in numbers):
        raise DataError(f"{file}: no seed {seed!r} for {percent} percent (there are: {', '.join(list(by_seed)[:12])})")
    if not numbers:
        raise DataError(f"{file}: {percent} percent, seed {seed} lists no image; take a larger percentage")
    annotated = table.annotated_rows()
    expected = int(float(percent) / 100.0 * len(annotated))
    if len(set(numbers)) != expected or not all(0 <= number < len(annotated) for number in numbers):
        raise DataError(
            f"{file}: {percent} percent, seed {seed} lists {plural(len(numbers), 'image')} up to number "
            f"{max(numbers, default=0):,}, but the labelled set has {plural(len(annotated), 'image')} with an "
            f"annotation that is not crowd ({percent} percent: {expected:,}); the file was made for another data set"
        )
    return np.sort(_by_id(annotated, table)[np.array(numbers, dtype=np.int64)])


def _by_id(rows: NDArray[np.int64], table: Table) -> NDArray[np.int64]:
    """Sort rows by image id: as numbers where all are numbers."""
    ids = [table.ids[row] for row in rows]
    if all(image_id.lstrip("-").isdecimal() for image_id in ids):
        return rows[np.argsort([int(image_id) for image_id in ids], kind="stable")]
    return rows[sorted(range(len(ids)), key=lambda place: ids[place])]


def _same_number(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return False
