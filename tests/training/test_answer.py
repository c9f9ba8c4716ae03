"""The report begins with what was gained over the control."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import pytest

from raydet.cli import main
from raydet.config.run import RunConfig
from raydet.data.mapped import write_damaged
from raydet.errors import UserError
from raydet.families.detection.data import BOXES
from raydet.metrics import judged
from raydet.report.answer import answer
from raydet.report.gain import Control, control_of, gain_over, how_to_get_a_control
from raydet.report.inputs import RunRecords, read_records
from raydet.report.lineage import ALIKE, FORKED, common_start, find_control
from raydet.settings import load
from raydet.train.rundir import RunFolder
from tests.helpers import SOFT_VIEWS, tiny_classes, tiny_places, tiny_views
from tests.run_folders import write_run


def said(run: RunRecords, control: Control | None) -> str:
    """Return the visible text of the section, with single spaces."""
    body = "".join(answer(run, control, []).body)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_run_is_judged_by_its_teacher_and_before_there_is_one_by_its_student():
    def record(step: int, model: str, **rest: object) -> dict:
        return {"kind": "eval", "split": "val", "step": step, "model": model, **rest}

    records = [record(1, "student"), record(2, "teacher"), record(2, "student"), record(2, "teacher", AP=1)]
    assert [(r["step"], r["model"]) for r in judged(records)] == [(1, "student"), (2, "teacher")]
    assert judged(records)[1]["AP"] == 1  # a resumed run measures anew
    student = [{"kind": "start", "step": 0, "judged": "student"}, *records, record(3, "student") | {"split": "test"}]
    assert [(r["step"], r["model"]) for r in judged(student)] == [(1, "student"), (2, "student")]


def test_the_gain_is_that_of_the_last_step_that_both_were_evaluated_at(tmp_path: Path):
    run = write_run(tmp_path / "run")
    control = write_run(tmp_path / "control", "supervised", {3: ("student", 0.1), 5: ("teacher", 0.25)})
    gain = gain_over(run, control)
    assert gain is not None and gain.step == 5
    assert gain.difference == pytest.approx(-0.05)  # 0.2 against 0.25
    text = said(run, Control(control, FORKED))
    assert "-5.0 gain over the control 20.0 AP at step 5 25.0 AP of the control" in text
    assert "The unlabelled images cost 5.0 points of AP: it is that much lower than the control" in text
    assert "The two have the same checkpoint in common." in text
    assert "The last evaluations are at steps 8 and 5 (control)." in text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.25, "The unlabelled images gave 5.0 points of AP more than"),
        (0.296, "gave nothing that can be seen: 0.4 points of AP more than"),
        (0.304, "gave nothing that can be seen: 0.4 points of AP less than"),
    ],
)
def test_the_verdict_follows_the_difference(value: float, words: str, tmp_path: Path):
    run = write_run(tmp_path / "run")  # 30.0 at step 8
    control = write_run(tmp_path / "control", "supervised", {8: ("teacher", value)})
    assert words in said(run, Control(control, FORKED))


def test_a_teacher_beside_a_student_is_no_fair_comparison(tmp_path: Path):
    run = write_run(tmp_path / "run")
    control = write_run(tmp_path / "control", "supervised", {8: ("student", 0.25)})
    text = said(run, Control(control, None))
    assert "Its figure is that of a teacher, the control's that of a student" in text
    assert "neither a checkpoint nor seed, labelled images and settings in common" in text
    assert "may be one of seeds or settings" in text
    like = write_run(tmp_path / "like", "supervised", {8: ("teacher", 0.25)})
    assert "is that of a teacher" not in said(run, Control(like, FORKED))


def test_without_a_control_the_burn_ins_end_stands_before(tmp_path: Path):
    run = write_run(tmp_path / "run")
    text = said(run, control_of(run, None))
    assert "30.0 AP at step 8 10.0 at the burn-in's end, step 3 +20.0 since then" in text
    assert "cannot be said" in text and "There is no control beside this run" in text
    command = how_to_get_a_control(run)
    assert command in text
    assert f"run.fork_from={tmp_path}/run/checkpoints/step_00000003" in command
    assert "'method={name: supervised, burn_in_steps: 3, ema_keep_rate: 0.5}'" in command


def soft_run(folder: Path, **changes: object) -> RunRecords:
    """A run by a method with views and a loss of its own."""
    return write_run(folder, "soft_teacher", data__views=SOFT_VIEWS, **changes)


def test_the_control_of_a_method_with_views_of_its_own_gets_their_sizes_and_its_loss(tmp_path: Path):
    run = soft_run(tmp_path / "run", method__views__short_side=[176, 240])
    command = how_to_get_a_control(run)
    # six sizes from 176 to 240, 12.8 apart; Soft Teacher's own loss is cross-entropy, whose exponent is 0
    assert "'data.views.short_side=[176, 189, 202, 214, 227, 240]'" in command
    words = shlex.split(command)
    assert words[:3] == ["raydet", "train", f"{tmp_path}/run/config.yaml"]
    control = load(words[2], words[3:])
    assert control.data.views.short_side == (176, 189, 202, 214, 227, 240)
    assert (control.method.name, control.model.cls_focal_exponent) == ("supervised", 0.0)
    assert control.data.views.max_long_side == 96
    assert "soft_teacher has views of its own" in said(run, None)
    one = soft_run(tmp_path / "one", method__views__short_side=[200, 200])
    assert "'data.views.short_side=[200]'" in how_to_get_a_control(one)
    whole = soft_run(tmp_path / "whole", method__burn_in_steps=0)
    assert how_to_get_a_control(whole) == (
        "train one on the labelled images alone, with the same seed and model.cls_focal_exponent=0.0 "
        "'data.views.short_side=[52, 56, 60, 64, 68, 72]', and name it with --control RUN"
    )
    plain = write_run(tmp_path / "plain")
    assert "short_side" not in how_to_get_a_control(plain) and "views of its own" not in said(plain, None)


def test_other_views_than_the_controls_share_what_was_gained(tmp_path: Path):
    run = soft_run(tmp_path / "run")
    fork = f"{tmp_path}/run/checkpoints/step_00000003"
    control = write_run(tmp_path / "control", "supervised", {8: ("teacher", 0.25)}, run__fork_from=fork)
    text = said(run, Control(control, FORKED))
    assert "The unlabelled images and other views of the labelled ones gave 5.0 points of AP more" in text
    assert "The control sees labelled images through other views, which alone change AP: how much" in text
    plain = write_run(tmp_path / "plain")
    assert "other views" not in said(plain, Control(control, FORKED))
    larger = write_run(tmp_path / "larger", "supervised", {8: ("teacher", 0.25)}, data__views__short_side=[80])
    assert "other views" in said(plain, Control(larger, FORKED))


def test_a_control_from_scratch_may_come_near_a_methods_own_settings(tmp_path: Path):
    run = soft_run(tmp_path / "run")
    near = {"data__views": {**SOFT_VIEWS, "short_side": [52, 72]}, "model__cls_focal_exponent": 0.0}
    assert common_start(run, write_run(tmp_path / "near", "supervised", **near)) == ALIKE
    flips = {**near, "data__views": {**SOFT_VIEWS, "horizontal_flip": 0.0}}
    assert common_start(run, write_run(tmp_path / "flips", "supervised", **flips)) is None
    exponent = write_run(tmp_path / "exponent", "supervised", model__cls_focal_exponent=0.0)
    assert common_start(write_run(tmp_path / "il_net"), exponent) is None


def in_burn_in(tmp_path: Path, steps: list[int]) -> RunRecords:
    """A run with a burn-in of 2000 steps, and evaluations of its student."""
    figures = {step: ("student", 0.1) for step in steps}
    return write_run(tmp_path / "run", figures=figures, method__burn_in_steps=2000, optim__steps=4000)


def test_a_burn_in_that_is_not_over_has_no_end_and_no_gain(tmp_path: Path):
    run = in_burn_in(tmp_path, [100, 200, 300, 400])
    expected = (
        "10.0 AP at step 400 The burn-in is not over: the run is at step 400 of its 2,000 steps, which train on "
        "labelled images alone. What the unlabelled ones give can be seen after them."
    )
    assert said(run, None).startswith(expected)
    settings = {"method__burn_in_steps": 2000, "optim__steps": 4000}
    control = write_run(tmp_path / "control", "supervised", {400: ("student", 0.3)}, **settings)
    assert said(run, Control(control, FORKED)).startswith(expected)


def test_at_the_burn_ins_end_nothing_has_changed_since(tmp_path: Path):
    assert said(in_burn_in(tmp_path, [1000, 2000]), None).startswith(
        "10.0 AP at step 2000 Nothing was evaluated after the burn-in, which ends at step 2000: what the unlabelled "
        "images give cannot be seen yet."
    )


def test_a_control_that_was_evaluated_in_the_burn_in_alone_is_none(tmp_path: Path):
    run = write_run(tmp_path / "run")  # burn-in until 3; evaluated at 3, 5 and 8
    control = write_run(tmp_path / "control", "supervised", {3: ("student", 0.25)})
    text = said(run, Control(control, FORKED))
    assert "30.0 AP at step 8 10.0 at the burn-in's end, step 3 +20.0 since then" in text
    assert "There is no control beside this run, or none that was evaluated at the same step after the burn-in." in text


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (tiny_places(Path("run")), "This run is trained on labelled images alone."),
        (tiny_views(Path("run")), "This run is trained on images without labels."),
    ],
)
def test_a_run_without_pseudo_labels_says_what_it_is_trained_on(config: RunConfig, words: str):
    record = {"kind": "eval", "split": "val", "step": 6, "model": "student", config.figures[0]: 0.5}
    assert f"at step 6 {words}" in said(RunRecords(Path("run"), config, [record]), None)


def test_the_control_is_found_beside_the_run_or_beside_where_it_was_forked_from(tmp_path: Path):
    run = write_run(tmp_path / "a" / "run")
    fork = f"{tmp_path}/a/run/checkpoints/step_00000003"
    write_run(tmp_path / "a" / "another", "supervised", seed=9, run__fork_from=None)  # another seed
    write_run(tmp_path / "a" / "no_figures", "supervised", {}, run__fork_from=fork)
    (tmp_path / "a" / "damaged").mkdir()
    (tmp_path / "a" / "damaged" / "config.json").write_text("{")
    assert find_control(run) is None
    alike = write_run(tmp_path / "a" / "alike", "supervised", {3: ("student", 0.1), 9: ("teacher", 0.2)})
    found = find_control(run)
    assert found is not None and (found[0].folder, found[1]) == (alike.folder, ALIKE)
    forked = write_run(tmp_path / "a" / "forked", "supervised", run__fork_from=fork)
    found = find_control(run)  # before the one that is alike, although that went further
    assert found is not None and (found[0].folder, found[1]) == (forked.folder, FORKED)
    elsewhere = write_run(tmp_path / "b" / "run", run__fork_from=fork)
    found = find_control(elsewhere)
    assert found is not None and found[0].folder == forked.folder


def test_runs_are_alike_only_with_the_same_labelled_images(tmp_path: Path):
    run = write_run(tmp_path / "run")
    assert common_start(run, write_run(tmp_path / "alike", "supervised", optim__steps=20)) == ALIKE
    assert common_start(run, write_run(tmp_path / "lr", "supervised", optim__lr=0.1)) is None
    assert common_start(run, write_run(tmp_path / "box", "supervised", data__on_bad_box="clip")) is None
    assert common_start(run, write_run(tmp_path / "withheld", "supervised", data__val=None, data__val_count=2)) is None
    assert common_start(run, write_run(tmp_path / "split", "supervised", data__split_seed=1)) is None
    ids = BOXES.open(run.folder / "data").labeled.ids()
    listed = tmp_path / "ids.txt"  # the same setting, and another content
    for name, own in (("some", ids[:8]), ("others", ids[1:9])):
        listed.write_text("\n".join(own))
        write_run(tmp_path / name, data__labeled_count=None, data__labeled_ids=str(listed))
    assert common_start(read_records(tmp_path / "some"), read_records(tmp_path / "others")) is None
    longer = write_run(tmp_path / "longer", "supervised", method__burn_in_steps=4)
    assert common_start(run, longer) is None


def test_damaged_pictures_may_be_left_out_where_both_runs_leave_out_the_same(tmp_path: Path):
    run = write_run(tmp_path / "run", data__on_bad_image="skip")
    control = write_run(tmp_path / "control", "supervised")
    assert common_start(run, control) == ALIKE
    write_damaged(run.folder / "data" / "labeled.arrow", [2])  # a picture that was damaged in mid-run
    assert common_start(run, control) is None
    write_damaged(control.folder / "data" / "labeled.arrow", [2])
    assert common_start(run, control) == ALIKE


def test_a_run_on_labelled_images_alone_has_no_gain(tmp_path: Path):
    write_run(tmp_path / "other", "supervised")
    run = write_run(tmp_path / "run", "supervised")
    assert control_of(run, None) is None
    text = said(run, None)
    assert "trained on labelled images alone" in text and "How to train a control" not in text


def test_a_run_without_evaluation_says_so(tmp_path: Path):
    assert said(write_run(tmp_path / "run", figures={}), None).startswith("There was no evaluation")


def test_a_named_control_that_cannot_be_one_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "run")
    classifier = tiny_classes(tmp_path / "classes")
    RunFolder(tmp_path / "classes").prepare(classifier, resume=False)
    other_val = {"path": "shapes", "shapes": {"num_images": 5, "seed": 1, "height": 64, "width": 96}}
    write_run(tmp_path / "val", "supervised", data__val=other_val)
    write_run(tmp_path / "fewer", "supervised", eval__max_images=2)
    write_run(tmp_path / "steps", "supervised", {4: ("teacher", 0.1)})
    write_run(tmp_path / "damaged", "supervised")
    (tmp_path / "damaged" / "metrics.jsonl").write_text("nonsense\n")
    write_run(tmp_path / "picture", "supervised")
    write_damaged(tmp_path / "picture" / "data" / "val.arrow", [0])
    for name, message in (
        ("nowhere", "no config.json there"),
        ("run", "that is the run itself"),
        ("classes", "the first trains a detector, the second a classifier"),
        ("val", "evaluated on different images"),
        ("fewer", "evaluated on different images"),
        ("picture", "evaluated on different images .* damaged pictures left out"),
        ("steps", "no step at which both"),
        ("damaged", "its figures cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            control_of(run, tmp_path / name)
        assert main(["report", str(run.folder), "--control", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count("raydet: error: ") == 1


def test_the_page_begins_with_the_answer(tmp_path: Path):
    run = write_run(tmp_path / "run")
    write_run(tmp_path / "control", "supervised", {8: ("teacher", 0.25)}, seed=8)
    assert main(["report", str(run.folder), "--control", str(tmp_path / "control")]) == 0
    page = (run.folder / "report.html").read_text()
    assert re.search(r'<section id="s0"><h2>The answer</h2><div class="tiles"><div class="tile"><b>\+5.0</b>', page)
