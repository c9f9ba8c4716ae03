"""The proposals of a run's images: from the file of `raydet proposals`, or the same grid for every image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from raydet.config.proposal_data import GRID
from raydet.data.boxes.index import DatasetIndex
from raydet.data.decode import FULL_RANGE
from raydet.data.paths import LeadsOutsideError
from raydet.data.proposals import OtherImages, Proposals, grid_boxes
from raydet.errors import DataError


class ImageProposals(Protocol):
    """The boxes of the images of one index, row by row."""

    def boxes_at(self, row: int) -> NDArray[np.float32]:
        """Return the boxes `[P, 4]` of the image that is seen at a row, P >= 1: xyxy, original pixels."""

    def fallback_at(self, row: int) -> int:
        """Return which filters they have passed, see `Proposals.fallback_at`; 0: all."""


class GridProposals:
    """The same boxes relative to every image."""

    def __init__(self, index: DatasetIndex) -> None:
        self._index = index

    def boxes_at(self, row: int) -> NDArray[np.float32]:
        """Return the grid over the image at a row."""
        height, width = self._index.size_at(row)
        return grid_boxes(width, height).astype(np.float32)

    def fallback_at(self, row: int) -> int:
        """Return 0."""
        return 0


class FileProposals:
    """Those of a file."""

    def __init__(self, index: DatasetIndex, proposals: Proposals) -> None:
        """Raise OtherImages, naming some, where images have no proposals, or these are of another size."""
        self._index, self._proposals = index, proposals
        sizes = [index.size_of(row) for row in range(len(index))]
        self._rows = proposals.rows_for(_names(index, proposals), sizes)

    def require_same_files(self) -> None:
        """Raise OtherImages, naming some, where a file has another length than the one that was searched."""
        own = [int(self._rows[self._index.at(row)]) for row in range(len(self._index))]
        self._proposals.require_files(own, self._index.file_at)

    def boxes_at(self, row: int) -> NDArray[np.float32]:
        """Return the boxes of the image that is seen at a row."""
        return self._proposals.boxes_at(int(self._rows[self._index.at(row)]))

    def fallback_at(self, row: int) -> int:
        """Return which filters they have passed."""
        return self._proposals.fallback_at(int(self._rows[self._index.at(row)]))


def proposals_of(index: DatasetIndex, where: str) -> ImageProposals:
    """Return the proposals of an index's images; `where` as `data.proposals` has it.

    Raises DataError, starting with the key, where they are missing, damaged, or of other images.
    """
    if where == GRID:
        return GridProposals(index)
    with _naming_the_key():
        return FileProposals(index, Proposals.open(where))


def checked_proposals_of(index: DatasetIndex, where: str) -> ImageProposals:
    """Return the same, after a look at the length of every image's file. Raises DataError likewise."""
    proposals = proposals_of(index, where)
    if isinstance(proposals, FileProposals):
        with _naming_the_key():
            proposals.require_same_files()
    return proposals


def content_of(where: str) -> str:
    """Return what proposals are known by: the same for a copy elsewhere. Raises DataError where there are none."""
    if where == GRID:
        return GRID
    with _naming_the_key():
        return Proposals.open(where).content


def require_same_brightness(where: str, gray16_range: tuple[int, int]) -> None:
    """Raise DataError where 16-bit pictures were searched at another brightness than they are trained at."""
    if where == GRID:
        return
    with _naming_the_key():
        settings = Proposals.open(where).settings
    searched = tuple(settings.get("gray16_range", FULL_RANGE))
    if settings.get("source.name") == "selective_search" and searched != gray16_range:
        low, high = gray16_range
        raise DataError(
            f"data.proposals: {where}: 16-bit pictures were searched with {list(searched)}, data.views.gray16_range is "
            f"[{low}, {high}]: run raydet proposals again, into another folder, with --gray16-range {low} {high}"
        )


@contextmanager
def _naming_the_key() -> Iterator[None]:
    try:
        yield
    except OtherImages as error:
        raise OtherImages(f"data.proposals: {error}") from None
    except LeadsOutsideError:
        raise  # of an image
    except DataError as error:
        raise DataError(f"data.proposals: {error}") from None


def _names(index: DatasetIndex, proposals: Proposals) -> Sequence[str]:
    """Return the images' names as the proposals have them: below the folder that was searched.

    That is where the images lie now, or a folder above or below it, or it has moved: the way of naming wins by which
    most of the images are known.
    """
    files = [index.name_below_root(row) for row in range(len(index))]
    ways = [files, index.ids()]
    searched = proposals.settings.get("images_root")
    if isinstance(searched, str):
        ways.append([_below(index.root / name, Path(searched)) for name in files])
    return max(ways, key=lambda names: sum(_is_known(proposals, name) for name in names))


def _below(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()


def _is_known(proposals: Proposals, name: str) -> bool:
    try:
        proposals.position(name)
    except KeyError:
        return False
    return True
