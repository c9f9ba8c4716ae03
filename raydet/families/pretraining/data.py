"""Images that nothing is known of, and boxes for measuring that training never sees, as a `DataFamily`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydet.config.base import DataSection
from raydet.config.box_data import DatasetConfig
from raydet.config.proposal_data import ProposalDataConfig
from raydet.data.boxes.family import BoxFamily
from raydet.data.boxes.formats.detect import read_source
from raydet.data.boxes.index import DatasetIndex
from raydet.data.boxes.rules import usable
from raydet.data.boxes.source import Table
from raydet.data.boxes.summary import SetSummary, summarise
from raydet.data.prepared import PreparedSets
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.files import write_text

NOTE = "proposals.json"  # beside the index files: which proposals the run began with
OBJECT = "object"  # all boxes are of one class: there are no others here


class ProposalData(BoxFamily):
    """Images without labels. Boxes that are annotated are hidden, and measured by where images are withheld."""

    kind: ClassVar[str] = "pretraining"
    most_files_searched: ClassVar[int | None] = 100_000
    hides_of: ClassVar[tuple[str, ...]] = ("labeled",)

    def read(
        self,
        name: str,
        one: DatasetConfig,
        log: ProblemLog,
        *,
        settings: DataSection[DatasetConfig] | None,
        generated: Path,
        decode_images: bool,
    ) -> tuple[Table, str]:
        """Return the usable images of a set, and its format; a folder means its images, whatever lies beside them."""
        role = "unlabeled" if name == "labeled" else "data"
        source = read_source(one, log, generated, role=role)
        own = settings if isinstance(settings, ProposalDataConfig) else None
        table = usable(
            source,
            "drop",
            log,
            decode_images=decode_images,
            on_bad_image="error" if own is None else own.on_bad_image,
            gray16_range=(0, 65535) if own is None else own.views.gray16_range,
        )
        one_class = replace(table, class_names=(OBJECT,), classes=np.zeros_like(table.classes), federated=None)
        return one_class, source.format

    def renumbered(self, table: Table, class_names: tuple[str, ...], name: str, path: str, log: ProblemLog) -> Table:
        """Return the set: there is one class everywhere."""
        return table

    def report_classes(self, table: Table, name: str, path: str, log: ProblemLog) -> None:
        """Say where there is nothing to measure by."""
        if name == "val" and not len(table.classes):
            fix = "fine for the similarity of held-out boxes; for recall give annotated images"
            log.warn("no-boxes", path, "", "the val set has no box: recall cannot be measured", fix)

    def is_barren(self, table: Table) -> bool:
        """Return whether there is no image to learn from."""
        return len(table) == 0

    def choose_rows(self, config: DataSection[DatasetConfig], table: Table) -> NDArray[np.int64]:
        """Return all rows: nothing is labelled, all is learned from."""
        return np.arange(len(table), dtype=np.int64)

    def classes_of(self, table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return every image as of one class, so that any of them can be withheld."""
        return np.arange(len(table), dtype=np.int64), np.zeros(len(table), dtype=np.int64)

    def summarise(self, name: str, path: str, format: str, table: Table, *, look: bool) -> SetSummary:
        """Count images and boxes."""
        return summarise("images" if name == "labeled" else name, path, format, table)


def note_proposals(folder: Path, content: str) -> None:
    """Write down which proposals a run began with, or raise DataError where these are others.

    `content` is a digest: a copy elsewhere is the same.
    """
    file = folder / NOTE
    try:
        known = json.loads(file.read_bytes())["content"]
    except FileNotFoundError:
        write_text(file, json.dumps({"content": content}))
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error}); start a new run, in another run.dir") from None
    if known != content:
        raise DataError(
            f"data.proposals: not the proposals that the run in {folder.parent} began with; name those, or start a new "
            f"run, in another run.dir"
        )


PROPOSED = ProposalData()
PreparedProposals = PreparedSets[DatasetIndex]
