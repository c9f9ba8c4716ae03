"""Pre-training, as the engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from raydet.contract import Exported, Family
from raydet.data.boxes.index import DatasetIndex
from raydet.data.check import CheckReport
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.families.pretraining.config import PretrainingConfig, PretrainingSection
from raydet.families.pretraining.data import PROPOSED, PreparedProposals, note_proposals
from raydet.families.pretraining.evaluate import evaluate_sharded
from raydet.families.pretraining.method import PretrainingMethod
from raydet.families.pretraining.model import PretrainingModel
from raydet.families.pretraining.proposals import checked_proposals_of, content_of, require_same_brightness
from raydet.families.pretraining.run import PretrainingRun
from raydet.text import plural


class Pretraining(Family[PretrainingConfig, DatasetIndex, PretrainingMethod, PretrainingModel]):
    """A detector's parts, from images without labels."""

    name = "pretraining"
    images = PROPOSED
    run_class = PretrainingRun
    evaluate = staticmethod(evaluate_sharded)
    evaluate_proposals = evaluate  # that is what it measures

    def check(self, config: PretrainingConfig, data: PreparedProposals) -> None:
        """Raise DataError unless there are proposals of all images, of these files, and those that a run which
        goes on began with."""
        require_same_brightness(config.data.proposals, config.data.views.gray16_range)
        checked_proposals_of(data.labeled, config.data.proposals)
        note_proposals(data.folder, content_of(config.data.proposals))

    def check_data(self, config: PretrainingConfig, *, decode_images: bool) -> CheckReport:
        """List all problems of the images, and what is wrong with their proposals."""
        report = super().check_data(config, decode_images=decode_images)
        if report.num_errors:
            return report  # what images there are is not known for sure
        log = ProblemLog()
        with TemporaryDirectory(prefix="raydet-") as aside:
            try:
                require_same_brightness(config.data.proposals, config.data.views.gray16_range)
                checked_proposals_of(self.prepare(config, Path(aside)).labeled, config.data.proposals)
            except DataError as error:
                said = str(error).removeprefix("data.proposals: ").removeprefix(f"{config.data.proposals}: ")
                log.error("proposals", config.data.proposals, "", said, "IMAGES are those of data.images, all of them")
        return replace(report, problems=(*report.problems, *log.problems), counts={**report.counts, **log.counts})

    def describe(self, data: PreparedProposals) -> str:
        """Count images."""
        return f"{plural(len(data.labeled), 'image')} without labels"

    def exported(self, config: PretrainingConfig, model: PretrainingModel, class_names: Sequence[str]) -> Exported:
        """Leave out what no detector has: projector, predictor and target."""
        assert isinstance(config.method, PretrainingSection)
        weights = model.exported(config.method.export_branch)
        left = len(model.state_dict()) - len(weights)
        remark = (
            f" of the {config.method.export_branch} branch ({plural(left, 'tensor')} that no detector has left out)"
        )
        return Exported(weights, list(class_names), config.data.views.model_dump_json(), remark)


FAMILY = Pretraining()
