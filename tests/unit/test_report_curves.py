"""What the report draws of losses and label ages, and how it sets settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.config.run import RunConfig
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.report.history import LabelHistory
from raydet.families.detection.report.inputs import Inputs
from raydet.families.detection.report.sections import marks_text
from raydet.metrics import Record
from raydet.report.common import _ages, elapsed, loss_curves, marks_of, speed
from raydet.report.inputs import RunRecords
from raydet.report.page import Pictures, settings
from tests.helpers import tiny_classes, tiny_config, tiny_places, tiny_soft, tiny_views

RETRAINED = tiny_soft(Path("run"), method={"name": "classifier_retraining", "burn_in_steps": 2, "retrain_from_step": 4})


def run_of(*steps: Record) -> RunRecords:
    """A run of which only these lines are known."""
    timing = {"kind": "step", "step_s": 1.0, "images_per_s": 1.0}
    return RunRecords(Path("run"), tiny_classes(Path("run")), [{**timing, **step} for step in steps])


def test_the_time_of_a_run_is_that_of_its_attempts():
    attempts = [("start", 0.0), ("step", 90.0), ("start", 345_600.0), ("end", 345_660.0)]  # four days later
    assert elapsed(run_of(*({"kind": kind, "step": 1, "time": at} for kind, at in attempts))) == {"time": "2.5 min"}
    assert elapsed(run_of()) == {}


def aged(step: int, age: int, taken: int) -> Record:
    return {"step": step, "labels/age_max": age, "labels/age_mean": age / 2, "pseudo/repredicted": taken}


@pytest.mark.parametrize(
    ("config", "ends"),
    [
        (tiny_config(Path("run"), method__burn_in_steps=3), (3,)),
        (tiny_config(Path("run"), method__burn_in_steps=0), ()),
        (RETRAINED, (2, 4)),
        (tiny_classes(Path("run")), (4, 10, 16)),
        (tiny_places(Path("run")), (4,)),
        (tiny_views(Path("run")), ()),
    ],
)
def test_every_stage_end_of_a_method_is_marked_in_plots(config: RunConfig, ends: tuple[int, ...]):
    assert marks_of(RunRecords(Path("run"), config, [])).major == ends


def test_a_detectors_page_says_what_each_mark_is():
    def text(config: DetectionConfig) -> str:
        return marks_text(Inputs(Path("run"), config, [], (), None, None, "", LabelHistory([], []), ""))

    burn_in = "the end of the burn-in, where the teacher appears"
    assert text(tiny_config(Path("run"), method__burn_in_steps=0)) == ""
    assert text(tiny_config(Path("run"))) == f"The dotted line marks {burn_in}."
    assert text(RETRAINED) == f"Dotted lines mark {burn_in}, and step 4, where a stage begins."


def test_losses_have_gaps_at_the_steps_of_other_stages():
    names = ("loss/sup/ce/weighted", "loss/d2/class/weighted", "loss/d2/entropy/weighted")
    shown = ((5, (1.0, 0.0, 0.0)), (10, (0.0, 0.5, 0.25)))
    run = run_of(*({"step": step, "loss": 1.0, **dict(zip(names, values, strict=True))} for step, values in shown))
    assert loss_curves(run) == {
        "total": ([5.0, 10.0], [1.0, 1.0]),
        "labelled": ([5.0, 10.0], [1.0, None]),
        "D2": ([5.0, 10.0], [None, 0.75]),
    }


def test_ages_have_gaps_where_no_label_was_taken():
    run, pictures = run_of(aged(25, 4, 8), aged(30, 0, 0), aged(45, 3, 2)), Pictures()
    assert _ages(run)["oldest"] == ([25.0, 30.0, 45.0], [4, None, 3])
    assert "Age of the pseudo-labels" in "".join(speed(run, pictures).body) and "age.png" in pictures.files


def test_labels_that_are_always_fresh_are_not_drawn_but_mentioned():
    pictures = Pictures()
    assert "age 0." in speed(run_of(aged(5, 0, 4), aged(10, 0, 4)), pictures).body[0]
    assert "age.png" not in pictures.files


def test_settings_break_between_words_and_stay_text():
    assert settings([("method.label_lr", "a/b<c")]) == (
        '<dl class="settings"><div><dt>method.label_<wbr>lr</dt><dd>a/<wbr>b&lt;c</dd></div></dl>'
    )
