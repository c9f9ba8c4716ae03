"""Everything the report of a pre-training run is made from; what is missing comes with the reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from raydet.data.evenly import evenly
from raydet.errors import DataError
from raydet.families.pretraining.config import PretrainingConfig, PretrainingSection
from raydet.families.pretraining.data import PROPOSED, PreparedProposals
from raydet.families.pretraining.proposals import ImageProposals, proposals_of
from raydet.metrics import read_metrics
from raydet.report.inputs import RunRecords
from raydet.train.rundir import RunFolder

COUNTED = 2_000  # images whose proposals are counted, evenly spaced


@dataclass(frozen=True, slots=True, eq=False)
class PretrainingInputs(RunRecords):
    """A pre-training run, read."""

    config: PretrainingConfig
    data: PreparedProposals | None
    proposals: ImageProposals | None
    no_data: str  # why there are none; empty where there are

    @property
    def method(self) -> PretrainingSection:
        """Return the method's settings."""
        assert isinstance(self.config.method, PretrainingSection)
        return self.config.method

    def counted(self) -> tuple[list[int], Counter[int]]:
        """Return how many proposals images have, and which filters these have passed (`Proposals.fallback_at`)."""
        if self.data is None or self.proposals is None:
            return [], Counter()
        rows = evenly(len(self.data.labeled), COUNTED)
        return [len(self.proposals.boxes_at(row)) for row in rows], Counter(map(self.proposals.fallback_at, rows))


def read_inputs(run_dir: Path) -> PretrainingInputs:
    """Read a run folder. Raises ConfigError where it is none, ValueError where its metrics are damaged."""
    folder = RunFolder(run_dir)
    config = folder.load_config()
    assert isinstance(config, PretrainingConfig)
    data, proposals, no_data = None, None, ""
    try:
        data = PROPOSED.open(folder.data)
        proposals = proposals_of(data.labeled, config.data.proposals)
    except DataError as error:
        no_data = f"Images or proposals cannot be opened: {error}"
    return PretrainingInputs(
        folder=folder.path,
        config=config,
        records=read_metrics(folder.metrics),
        data=data,
        proposals=proposals,
        no_data=no_data,
    )
