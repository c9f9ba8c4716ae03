"""Files that list the labelled images: a JSON list of ids, or one id a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.text_file import text_of
from raydet.errors import DataError
from raydet.text import plural


def read_id_file(file: Path) -> Any:
    """Return what the file holds: its JSON value, or its lines where it is not JSON. Raises DataError."""
    text = text_of(file, "correct data.labeled_ids")
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass  # ids may begin with a bracket
    return [line.strip() for line in text.splitlines() if line.strip()]


def listed_rows(content: Any, file: Path, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the rows of `ids` that a file's content lists, ascending. Raises DataError for ids that do not exist."""
    if not isinstance(content, list) or any(isinstance(e, bool) or not isinstance(e, str | int) for e in content):
        raise DataError(f"{file}: expected image ids: a JSON list of text or whole numbers, or one id a line")
    if not content:
        raise DataError(f"{file}: lists no image id")
    example = f"the labelled set's ids look like {ids[0]!r}" if len(ids) else "the labelled set is empty"
    return rows_of([str(entry) for entry in content], ids, str(file), example)


def rows_of(wanted: Sequence[Any], ids: Sequence[str], what: str, hint: str) -> NDArray[np.int64]:
    """Return the rows of `wanted` in `ids`, ascending. Raises DataError that starts with `what` for unknown ones."""
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    unknown = [one for one in wanted if not isinstance(one, str) or one not in row_of]
    if unknown:
        shown = ", ".join(f"{one!r:.60}" for one in unknown[:5])
        raise DataError(f"{what}: {plural(len(unknown), 'id is', 'ids are')} not in the labelled set ({shown}); {hint}")
    return np.unique(np.array([row_of[image_id] for image_id in wanted], dtype=np.int64))
