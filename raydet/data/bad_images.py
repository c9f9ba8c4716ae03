"""Pictures that cannot be read: one rule for all sets of all families, `data.on_bad_image`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.files import write_text
from raydet.text import plural

OnBadImage = Literal["error", "skip"]
_LIST = "skipped.jsonl"
_OR_SKIP = "or leave out all pictures that cannot be read: data.on_bad_image: skip"


def report_bad_image(
    log: ProblemLog, on_bad_image: OnBadImage, code: str, image_id: str, file: str, where: str, message: str
) -> None:
    """Report a picture that cannot be read: as an error, or as one that is left out of its set."""
    if on_bad_image == "error":
        log.error(code, file, where, message, _OR_SKIP)
        return
    log.warn(code, file, where, message, "left out (data.on_bad_image: skip)")
    log.left_out.append((image_id, message))


@contextmanager
def explaining_damage() -> Iterator[None]:
    """Add to the message about a picture that was thought to be sound what gets a run going again."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error}. It was not noticed when the data was prepared (`raydet check-data` decodes all pictures): "
            f"restore the file and go on with --resume, or go on without such pictures: --resume data.on_bad_image=skip"
        ) from None


def write_left_out(folder: Path, left_out: Mapping[str, Sequence[tuple[str, str]]], log: ProblemLog) -> None:
    """List the images that sets were left without, one JSON object a line; no file where there are none."""
    rows = [
        {"set": name, "id": image_id, "reason": reason}
        for name, those in left_out.items()
        for image_id, reason in those
    ]
    (folder / _LIST).unlink(missing_ok=True)
    if rows:
        add_left_out(folder, rows)
        one, many = "image that cannot be read and was left out", "images that cannot be read and were left out"
        message = f"lists {plural(len(rows), one, many)}"
        log.warn("images-left-out", folder / _LIST, "", message)


def add_left_out(folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Add images to that list."""
    if rows:
        file = folder / _LIST
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        write_text(file, before + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
