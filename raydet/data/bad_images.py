"""Pictures that cannot be read: one rule for all sets of all families, `data.on_bad_image`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from raydet.data.problems import ProblemLog
from raydet.errors import DataError

OnBadImage = Literal["error", "skip"]
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
