"""What commands make of a localizer's run: evaluation, report, snapshots, export, labels, doctor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from raydet.cli import main
from raydet.contract import DataSizes
from raydet.doctor.estimate import disk_of
from raydet.doctor.measure import measure
from raydet.families.localization.data import LOCATED
from raydet.families.localization.snapshot import KIND, read_snapshot
from raydet.labels.snapshots import steps_with
from raydet.report.write import write_report
from raydet.train.launch import launch
from tests.helpers import tiny_places


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of LCHP."""
    folder = tmp_path_factory.mktemp("service") / "run"
    return launch(tiny_places(folder, method__stability_every=2, data__val__shapes__num_images=12)).path


def test_evaluate_says_the_same_as_training_did(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "eval"][-1]
    figures = {key: value for key, value in found.items() if key != "checkpoint"}
    assert {key: trained[key] for key in figures} == figures
    assert {"gt_known", "top1_loc", "mean_box", "centre_box", "whole_image", "pseudo_label"} <= found.keys()


def test_the_report_shows_stages_gate_drift_stability_and_pictures(run: Path):
    page = write_report(run).read_text()
    for title in (
        "Figures at the end of each stage",
        "The gate",
        "Box area",
        "Stability",
        "Boxes of each stage",
        "Attention",
    ):
        assert title in page
    assert "the mean training box" in page and "GT-Known of kept" in page
    plots = {path.name for path in (run / "plots").iterdir()}
    assert {"gate.png", "confidence.png", "areas.png", "stability.png", "gt_known.png"} <= plots
    assert any(name.startswith("attention_") for name in plots) and any(name.startswith("boxes_") for name in plots)


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Takes away what it is given of the run, a file or a folder, and puts it back in the end."""
    taken: list[tuple[Path, Path]] = []

    def take(path: Path) -> None:
        taken.append((path, tmp_path / str(len(taken))))
        path.rename(taken[-1][1])

    yield take
    for path, aside in taken:
        aside.rename(path)


def sections_of(page: str) -> dict[str, str]:
    """Return the HTML of each section by its title."""
    return dict(re.findall(r"<section[^>]*><h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL))


def test_one_image_that_is_gone_costs_the_report_its_picture_alone(run: Path, damaged: Callable[[Path], None]):
    data = LOCATED.open(run / "data")
    whole = sections_of(write_report(run).read_text())
    gone = [data.labeled.file_at(3), data.val.file_at(0)]
    for file in gone:
        damaged(file)
    found = sections_of(write_report(run).read_text())
    assert found.keys() == whole.keys()
    gate = found["The gate: confidence in the crop"]
    assert gate.count(f'class="absent">GT-Known is without 1 image that cannot be read; the first: {gone[0]}') == 2
    for title in ("Boxes of each stage", "Attention before and after masking"):
        assert f'<p class="absent">{data.val.id_at(0)}: {gone[1]}' in found[title]
        assert found[title].count('class="absent"') == 1
    assert [whole["Boxes of each stage"].count("<img"), found["Boxes of each stage"].count("<img")] == [12, 11]


def test_images_that_have_moved_cost_the_report_what_they_show_alone(run: Path, damaged: Callable[[Path], None]):
    damaged(run / "data" / "generated")
    found = sections_of(write_report(run).read_text())
    assert "GT-Known is without 24 images that cannot be read; the first: " in found["The gate: confidence in the crop"]
    assert found["Boxes of each stage"].count('class="absent"') == 12 and "<img" not in found["Boxes of each stage"]
    assert "<img" in found["Learning curves"] and "<img" in found["Box area"]


def test_data_that_cannot_be_opened_are_named_where_pictures_would_be(run: Path, damaged: Callable[[Path], None]):
    damaged(run / "data" / "labeled.arrow")
    found = sections_of(write_report(run).read_text())
    for title in ("Boxes of each stage", "Attention before and after masking"):
        assert '<p class="absent">The prepared data cannot be opened: ' in found[title]


def test_snapshots_hold_what_was_said_and_no_true_box(run: Path):
    assert steps_with(run / "diagnostics", KIND) == [4, 8]
    found = read_snapshot(run / "diagnostics", 8)
    assert len(found["train"].rows) == 24 and len(found["val"].rows) == 12
    assert np.isfinite(found["train"].boxes).all() and np.isfinite(found["train"].pseudo).all()
    assert all(each.shape[0] == each.shape[1] > 1 for each in found["val"].attention)
    assert ((found["train"].confidence > 0) & (found["train"].confidence <= 1)).all()


def test_export_leaves_the_copies_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(run), "--out", str(tmp_path / "x.safetensors")]) == 0
    assert {name.split(".")[0] for name in load_file(tmp_path / "x.safetensors")} == {"classifier", "localizer"}
    assert "copies that training keeps left out" in capsys.readouterr().out


def test_export_keeps_the_average_whose_maps_are_the_boxes_of_a_run_without_a_localizer(tmp_path: Path):
    method = {"name": "lchp", "stage": "pseudo_label_only", "burn_in_steps": 2}
    run = launch(tiny_places(tmp_path / "run", method=method, optim__steps=2)).path
    assert main(["export", str(run), "--out", str(tmp_path / "x.safetensors")]) == 0
    names = {name.split(".")[0] for name in load_file(tmp_path / "x.safetensors")}
    assert names == {"classifier", "pseudo_classifier"}


def test_export_to_onnx_is_checked_against_pytorch(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnxruntime")
    assert main(["export", str(run), "--out", str(tmp_path / "x.onnx")]) == 0
    assert "onnxruntime and PyTorch agree on 4 images" in capsys.readouterr().out


def test_label_writes_one_box_per_image_inside_it(run: Path, tmp_path: Path):
    index = LOCATED.open(run / "data").val
    folder = index.path.parent / "generated" / "val"
    out = tmp_path / "labels"
    assert main(["label", str(run), str(folder), "--out", str(out), "--actors", "0", "--batch", "5"]) == 0
    coco = json.loads((out / "coco.json").read_text())
    assert len(coco["images"]) == len(coco["annotations"]) == 12
    assert sorted(each["image_id"] for each in coco["annotations"]) == [image["id"] for image in coco["images"]]
    for each in coco["annotations"]:
        x, y, w, h = each["bbox"]
        assert w >= 1 and h >= 1 and x >= 0 and y >= 0 and x + w <= 64.001 and y + h <= 48.001
        assert 0 < each["score"] <= 1
    assert [each["name"] for each in coco["categories"]] == list(index.class_names)


def test_a_method_without_a_localizer_is_no_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnxruntime")
    run = launch(tiny_places(tmp_path / "run", method={"name": "cam"}, optim__steps=2)).path
    assert main(["export", str(run), "--out", str(tmp_path / "x.onnx")]) != 0
    assert "ONNX is for runs with a localizer; this one (method.name=cam)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "method", [{"name": "lchp", "burn_in_steps": 4}, {"name": "lchp", "stage": "init"}, {"name": "cam"}]
)
def test_doctor_measures_and_estimates(method: dict, tmp_path: Path):
    config = tiny_places(tmp_path / "run", method=method, optim__steps=900 if method["name"] == "lchp" else 8)
    assert disk_of(config, DataSizes(24, 0, 6)).parameters > 0
    text = measure(config).text
    assert "s per init step" in text
    assert ("s per refine step" in text) == (method.get("stage") is None and method["name"] == "lchp")
