"""`raydet compare`: what it takes for pairs, what it computes from them, what it refuses."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from raydet.cli import main
from raydet.data.bad_images import add_left_out
from raydet.data.mapped import write_damaged
from raydet.errors import UserError
from raydet.families.detection.data import BOXES
from raydet.report.compare.pairs import PairedGain
from raydet.report.compare.runs import Compared, arm_names, read_runs, short_names
from raydet.report.compare.table import as_text, run_rows
from raydet.report.compare.write import folder_for
from raydet.report.lineage import ALIKE, FORKED
from raydet.train.rundir import RunFolder
from tests.helpers import SOFT_VIEWS, tiny_classes
from tests.run_folders import write_run


def write_pairs(folder: Path, ours: list[float], controls: list[float]) -> list[Path]:
    """Write a pair per seed: a run with its own burn-in, and a control forked from its end."""
    found = []
    for seed, (our, control) in enumerate(zip(ours, controls, strict=True)):
        home, seeds = folder / f"seed{seed}", {"seed": seed, "data__split_seed": seed}
        write_run(home / "il_net", "il_net", {3: ("student", 0.1), 8: ("teacher", our)}, **seeds)
        fork = f"{home}/il_net/checkpoints/step_00000003"
        write_run(home / "control", "supervised", {8: ("teacher", control)}, run__fork_from=fork, **seeds)
        found += [home / "control", home / "il_net"]
    return found


def sections_of(path: Path) -> dict[str, str]:
    """Return title -> visible text of each section, with single spaces."""
    found = re.findall(r"<section[^>]*><h2>(.*?)</h2>(.*?)</section>", path.read_text(encoding="utf-8"), flags=re.S)
    return {title: " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split()) for title, body in found}


def test_the_paired_gain_over_seeds():
    # Mean (2 + 0 + 4) / 3 = 2 points; deviations 0, -2, 2: variance 8 / 2 = 4, so the sd is 2, the error 2 / sqrt(3).
    found = PairedGain((0.02, 0.0, 0.04))
    assert (found.mean, found.sd, found.positive) == (pytest.approx(0.02), pytest.approx(0.02), 2)
    assert found.error == pytest.approx(0.02 / 3**0.5)
    assert found.as_text("AP") == (
        "+2.0 points of AP, mean of 3 pairs (+2.0, +0.0, +4.0); standard error 1.2; above 0 in 2 of 3"
    )
    assert PairedGain((-0.01,)).as_text("AP").startswith("-1.0 points of AP (one pair")


def test_runs_pair_with_the_control_that_shares_their_checkpoint(tmp_path: Path):
    compared = read_runs(write_pairs(tmp_path, [0.3, 0.4], [0.25, 0.42]))
    assert [arm.name for arm in compared.arms] == ["supervised", "il_net"]
    assert [(pair.run.config.seed, pair.control.config.seed, pair.shared) for pair in compared.pairs] == [
        (0, 0, FORKED),
        (1, 1, FORKED),
    ]
    ((arm, paired),) = compared.paired
    assert arm.name == "il_net" and paired.differences == (pytest.approx(0.05), pytest.approx(-0.02))
    columns, rows = run_rows(compared)
    assert columns == ["run", "method", "seed", "step", "model", "AP", "AP50", "AP75", "gain"]
    assert rows[1] == ["seed0/il_net", "il_net", "0", "8", "teacher", "30.0", "30.0", "-", "+5.0"]
    assert rows[2] == ["seed1/control", "supervised", "1", "8", "teacher", "42.0", "42.0", "-", "-"]
    text = as_text(compared)
    assert "il_net against the control: +1.5 points of AP, mean of 2 pairs (+5.0, -2.0)" in text
    assert "note" not in text


def test_the_stand_in_of_a_damaged_picture_does_not_count(tmp_path: Path):
    folders = write_pairs(tmp_path, [0.3], [0.25])
    assert read_runs(folders).val_images == 6
    for folder in folders:
        write_damaged(folder / "data" / "val.arrow", [0, 4])
    compared = read_runs(folders)
    assert compared.val_images == 4
    val = BOXES.open(folders[0] / "data").val
    assert val is not None
    assert compared.rows_to_show(val, 2) == [1, 5] and compared.rows_to_show(val, 9) == [1, 2, 3, 5]


def test_seeds_are_not_mixed_up_where_labelled_images_differ(tmp_path: Path):
    folders = write_pairs(tmp_path, [0.3, 0.4], [0.25, 0.42])
    compared = read_runs([folders[0], folders[3]])  # the control of seed 0, the run of seed 1
    assert compared.pairs == []
    text = as_text(compared)
    assert "No two of these runs are a pair" in text and "gain" not in text
    assert "settings of data, model, optimiser and burn-in (method.burn_in_steps)." in text


def test_without_a_control_the_first_kind_of_run_stands_for_one(tmp_path: Path):
    write_run(tmp_path / "low", figures={8: ("teacher", 0.3)})
    write_run(tmp_path / "high", figures={8: ("teacher", 0.35)}, method__score_threshold=0.9)
    compared = read_runs([tmp_path / "low", tmp_path / "high"])
    assert [arm.name for arm in compared.arms] == ["il_net (score_threshold=0.16)", "il_net (score_threshold=0.9)"]
    (pair,) = compared.pairs
    assert (pair.run.folder.name, pair.control.folder.name, pair.shared) == ("high", "low", ALIKE)
    assert "against il_net (score_threshold=0.16), which was given first: +5.0 points of AP" in as_text(compared)


def test_what_happens_on_a_bad_image_makes_no_arm_where_none_was_met(tmp_path: Path):
    folders = [
        write_run(tmp_path / "stops").folder,
        write_run(tmp_path / "skips", seed=5, data__on_bad_image="skip").folder,
    ]
    compared = read_runs(folders)
    assert [(arm.name, len(arm.runs)) for arm in compared.arms] == [("il_net", 2)]
    # nothing trains on these: what was evaluated on is compared by itself
    add_left_out(folders[1] / "data", [{"set": name, "id": "7", "reason": "truncated"} for name in ("val", "test")])
    assert [arm.name for arm in read_runs(folders).arms] == ["il_net"]


def test_runs_that_left_out_other_images_are_arms_of_their_own(tmp_path: Path):
    folders = []
    for name, left_out in (("none", []), ("one", ["7"]), ("two", ["9", "7"]), ("again", ["7", "9"]), ("other", ["8"])):
        folders.append(write_run(tmp_path / name, data__on_bad_image="skip").folder)
        add_left_out(folders[-1] / "data", [{"set": "labeled", "id": each, "reason": "cut off"} for each in left_out])
    arms = read_runs(folders).arms
    assert [[run.folder.name for run in arm.runs] for arm in arms] == [["none"], ["one"], ["two", "again"], ["other"]]
    names = [re.sub(r"[0-9a-f]{8}", "HASH", arm.name) for arm in arms]
    assert names[0] == "il_net (images left out=none)"
    assert names[1:3] == ["il_net (images left out=1 (HASH))", "il_net (images left out=2 (HASH))"]
    assert len({arm.name for arm in arms}) == 4


@pytest.mark.parametrize("text", ["{", "[1]", '{"set": "labeled"}', "\xff"])
def test_a_list_of_left_out_images_that_cannot_be_read_is_named(tmp_path: Path, text: str):
    folders = [write_run(tmp_path / name).folder for name in ("a", "b")]
    (folders[1] / "data" / "skipped.jsonl").write_bytes(text.encode("latin-1") + b"\n")
    with pytest.raises(
        UserError, match=r"b/data/skipped\.jsonl: line 1 names no set and image.*; restore it, or delete"
    ):
        _ = read_runs(folders).arms
    (folders[1] / "data" / "skipped.jsonl").unlink()
    (folders[1] / "data" / "skipped.jsonl").mkdir()
    with pytest.raises(UserError, match=r"b/data/skipped\.jsonl: cannot be read \(Is a directory\)"):
        _ = read_runs(folders).arms


def test_what_makes_a_gain_doubtful_is_said(tmp_path: Path):
    write_run(tmp_path / "run", figures={5: ("teacher", 0.2), 8: ("teacher", 0.3)})
    write_run(tmp_path / "control", "supervised", {5: ("student", 0.1)})
    write_run(tmp_path / "stranger", seed=5)
    text = as_text(read_runs([tmp_path / name for name in ("run", "control", "stranger")]))
    assert "note: run: a teacher's figure stands beside a student's" in text
    assert "note: The runs end at different steps (5, 8)" in text
    assert "note: Without a pair among these: stranger." in text
    assert "+10.0 points of AP" in text  # at step 5


def test_views_that_differ_from_the_controls_are_said(tmp_path: Path):
    write_run(tmp_path / "soft", "soft_teacher", data__views=SOFT_VIEWS)
    write_run(tmp_path / "plain", run__fork_from=f"{tmp_path}/soft/checkpoints/step_00000003")
    fork = f"{tmp_path}/soft/checkpoints/step_00000003"
    write_run(tmp_path / "control", "supervised", {8: ("teacher", 0.1)}, run__fork_from=fork)
    text = as_text(read_runs([tmp_path / name for name in ("soft", "plain", "control")]))
    assert "note: soft: the control sees labelled images through other views, which alone change AP" in text


def test_names_are_as_short_as_they_can_be():
    assert short_names([Path("/a/x/run"), Path("/a/y/run")]) == ["x/run", "y/run"]
    assert short_names([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    same = {"optim.lr": 1, "seed": 2}
    assert arm_names([("a", same), ("b", same)]) == ["a", "b"]
    assert arm_names([("a", same), ("a", same | {"optim.lr": 3})]) == ["a (lr=1)", "a (lr=3)"]
    others = [{"x.lr": 1, "y.lr": 1}, {"x.lr": 1, "y.lr": 2}]
    assert arm_names([("a", each) for each in others]) == ["a (lr=1)", "a (lr=2)"]


def test_the_page_lies_beside_the_runs_unless_a_place_is_given(tmp_path: Path):
    compared = read_runs(write_pairs(tmp_path, [0.3, 0.4], [0.25, 0.42]))
    assert folder_for(compared, None) == tmp_path / "compare"
    assert folder_for(compared, Path("x")) == Path("x")
    far = replace(compared.runs[1], folder=Path("/elsewhere/run"))
    apart = Compared((compared.runs[0], far), compared.class_names, 6)
    assert folder_for(apart, None) == tmp_path / "seed0" / "compare"  # and not in the root of the file system
    first = Compared(compared.runs[:2], compared.class_names, 6)
    assert folder_for(first, None) == tmp_path / "seed0" / "compare"


def test_the_page_has_curves_classes_pairs_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folders = write_pairs(tmp_path, [0.3, 0.4], [0.25, 0.42])
    assert main(["compare", *map(str, folders), "--max-images", "0"]) == 0
    page = tmp_path / "compare" / "compare.html"
    assert f"written: {page}" in capsys.readouterr().out
    shown = sections_of(page)
    assert list(shown) == ["The answer", "Curves", "By class", "Pairs", "Errors by kind", "Settings that differ"]
    assert shown["The answer"].startswith("+1.5 il_net against the control, 2 pairs")
    # circle: controls 25 and 42, runs 30 and 40; means 33.5 and 35, differences +5 and -2. Others have no figure.
    assert "circle 33.5 35.0 +1.5 square - - -" in shown["By class"]
    assert "seed0/il_net seed0/control the same checkpoint 0 8 25.0 30.0 +5.0" in shown["Pairs"]
    assert "mean, ± standard deviation 33.5 35.0 +1.5 ± 4.9" in shown["Pairs"]  # sd of 5 and -2: 7 / sqrt(2)
    assert "method.name supervised il_net" in shown["Settings that differ"]
    assert "seed" not in shown["Settings that differ"].replace("seed0", "")
    pictures = {path.name for path in (tmp_path / "compare" / "plots").iterdir()}
    assert pictures == {f"compare_{name}{kind}.png" for name in ("AP", "AP50") for kind in ("", "_mean")}


def test_pictures_need_checkpoints_and_without_them_the_page_says_so(tmp_path: Path):
    folders = write_pairs(tmp_path, [0.3], [0.25])
    assert main(["compare", *map(str, folders), "--out", str(tmp_path / "out")]) == 0
    shown = sections_of(tmp_path / "out" / "compare.html")
    assert "No pictures: " in shown["Where they differ most"] and "no checkpoint yet" in shown["Where they differ most"]


def test_runs_that_cannot_be_compared_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "run").folder
    RunFolder(tmp_path / "classes").prepare(tiny_classes(tmp_path / "classes"), resume=False)
    other_val = {"path": "shapes", "shapes": {"num_images": 5, "seed": 1, "height": 64, "width": 96}}
    write_run(tmp_path / "val", data__val=other_val)
    write_run(tmp_path / "young", figures={})
    write_run(tmp_path / "no_val", figures={}, data__val=None)
    write_run(tmp_path / "no_data")
    for file in (tmp_path / "no_data" / "data").glob("*.json"):
        file.unlink()
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "sweep.json").write_text("{}")
    for given, message in (
        ([], "give two run folders or more"),
        ([run], "is given twice"),
        ([f"{run}/../run"], "is given twice"),
        ([tmp_path / "nowhere"], "no config.json there; give a run folder"),
        ([tmp_path / "search"], "holds a search; give the runs"),
        ([tmp_path / "classes"], "cannot be compared: the first trains a detector, the second a classifier"),
        ([tmp_path / "val"], "they were evaluated on different images"),
        ([tmp_path / "young"], "young: there is no evaluation on val to compare: it is too young"),
        ([tmp_path / "no_val"], "no_val: there is no evaluation on val to compare: it has no data.val"),
        ([tmp_path / "no_data"], "no prepared data there"),
    ):
        capsys.readouterr()
        assert main(["compare", str(run), *map(str, given), "--max-images", "0"]) == 2, given
        said = capsys.readouterr().err
        assert message in said and said.count("raydet: error: ") == 1, (given, said)
    assert main(["compare", str(run), str(run), "--max-images", "-1"]) == 2
    write_run(tmp_path / "two")
    assert main(["compare", str(run), str(tmp_path / "two"), "--out", str(run)]) == 2
    assert "that is a run's folder" in capsys.readouterr().err


def test_runs_of_other_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, other = write_run(tmp_path / "run"), write_run(tmp_path / "other")
    index = other.folder / "data"
    from raydet.families.detection.data import BOXES

    opened = BOXES.open

    def renamed(folder: Path):
        found = opened(folder)
        if Path(folder) == index:
            object.__setattr__(found, "class_names", ("cat", *found.class_names[1:]))
        return found

    monkeypatch.setattr(type(BOXES), "open", lambda self, folder: renamed(folder))
    with pytest.raises(UserError, match="their classes differ: circle, square, .* against cat, square"):
        read_runs([run.folder, other.folder])
