"""The labelled split of a run: drawn once, saved beside the data, and used again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.labeled_ids import rows_of
from raydet.errors import DataError
from raydet.files import read_json, write_text
from raydet.text import plural

_FORMAT = 1


class SplitError(DataError):
    """A saved split does not belong to the data."""


def saved_or_drawn(
    file: Path,
    ids: Sequence[str],
    draw: Callable[[], NDArray[np.int64]],
    *,
    rule: dict[str, Any],
    fingerprint: str,
) -> NDArray[np.int64]:
    """Return the rows of `ids` that are labelled, ascending: those in `file` where it exists, else drawn and saved.

    `rule`: the settings that decide; `fingerprint`: of what they are applied to. Raises DataError where the saved
    split was made with others.
    """
    if file.exists():
        saved = _read(file, rule, fingerprint)
        return rows_of(saved, ids, f"{file}: damaged", "delete the file to draw a new split")
    rows = draw()
    content = {
        "format": _FORMAT,
        "rule": rule,
        "images": len(ids),
        "fingerprint": fingerprint,
        "labeled": [ids[row] for row in rows],
    }
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False))
    return rows


def copy_split(file: Path, to: Path, rule: dict[str, Any]) -> None:
    """Copy a saved split as one that was made by `rule`: a file that lists the labelled ids may have moved too."""
    content = read_json(file, DataError)
    write_text(to, json.dumps({**content, "rule": rule}, indent=1, ensure_ascii=False))


def _read(file: Path, rule: dict[str, Any], fingerprint: str) -> list[Any]:
    remedy = "delete the file to draw a new split, or use another folder"
    try:
        content = json.loads(file.read_bytes())
        saved_rule, saved_print, labeled = content["rule"], content["fingerprint"], list(content["labeled"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{file}: not a readable split file ({error}); {remedy}") from None
    if saved_rule != rule:
        raise SplitError(f"{file}: made with {_shown(saved_rule)}, but the config says {_shown(rule)}; {remedy}")
    if saved_print != fingerprint:
        message = (
            f"made for {plural(content.get('images', 0), 'image')}; since then images or classes of the "
            "labelled set changed"
        )
        raise SplitError(f"{file}: {message}; restore them, or {remedy}")
    return labeled


def _shown(rule: Any) -> str:
    if not isinstance(rule, dict):
        return repr(rule)
    return ", ".join(f"{key}: {value}" for key, value in rule.items()) or "all images labelled"
