from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from raydet.data.decode import decode
from raydet.errors import CheckpointError, DataError, UserError
from raydet.families.detection import onnx as onnx_export
from raydet.families.detection.evaluate import predict
from raydet.families.detection.onnx import Difference, difference
from raydet.metrics import read_metrics
from raydet.records import Candidates
from raydet.report.write import write_report
from raydet.train import saved
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.saved import evaluate_saved, export, load_saved
from raydet.vision.images import collate
from tests.helpers import tiny_config

CLASSES = ("circle", "square", "triangle", "ellipse", "hexagon", "star")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps of IL-net; the burn-in ends at step 3."""
    return launch(tiny_config(tmp_path_factory.mktemp("saved") / "run")).path


@pytest.fixture(scope="module")
def onnx_file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed (pip install 'raydet[onnx]')")
    out = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    message = export(run, out, role=None)
    assert "teacher at step 8, input uint8 [B, 3, H, W] RGB: any number of images of any one size" in message
    assert "in 6 images of 2 sizes" in message
    return out


def last(run: Path) -> Path:
    return run / "checkpoints" / "step_00000008"


def figures(path: Path, **changes: object) -> dict[str, object]:
    return evaluate_saved(path, **{"data": None, "split": "val", "role": None, **changes}).as_json()


# safetensors


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_exported_file_holds_exactly_the_detector_without_the_iou_branch(run: Path, tmp_path: Path, role: str):
    out = tmp_path / "new folder" / "model.safetensors"
    message = export(run, out, role=role)
    trained = load_file(last(run) / f"{role}.safetensors")
    branch = {name for name in trained if name.startswith("iou_branch.")}
    assert len(branch) == 4  # two layers, each with weight and bias
    exported = load_file(out)
    assert exported.keys() == trained.keys() - branch
    assert all(torch.equal(exported[name], trained[name]) for name in exported)
    assert message.endswith(f": {role} at step 8, {len(exported)} tensors (4 tensors of iou_branch left out)")
    assert [file.name for file in out.parent.iterdir()] == [out.name]


def test_the_exported_file_says_what_it_is(run: Path, tmp_path: Path):
    export(run, tmp_path / "x.safetensors", role=None)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        notes = file.metadata()
    assert json.loads(notes["class_names"]) == ["__background__", *CLASSES]
    assert (notes["model"], notes["step"]) == ("teacher", "8")
    assert json.loads(notes["raydet_model_config"])["backbone"] == "small_gn"


def test_student_and_teacher_differ(run: Path):
    student, teacher = (load_saved(run, role=role).model.state_dict() for role in ("student", "teacher"))
    assert any(not torch.equal(student[name], teacher[name]) for name in student)


def test_impossible_outputs_are_refused(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"ends in \.safetensors or \.onnx"):
        export(run, tmp_path / "model.pt", role=None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="its folder cannot be created"):
        export(run, tmp_path / "file" / "model.safetensors", role=None)


# evaluation


def test_a_run_and_its_last_checkpoint_are_one_model(run: Path, monkeypatch: pytest.MonkeyPatch):
    of_run = figures(run)
    assert of_run["detections"] > 0
    assert figures(last(run)) == of_run
    monkeypatch.chdir(run / "checkpoints")
    assert figures(Path("step_00000008")) == of_run  # also by a path that names no folder above


def test_evaluation_repeats_what_the_run_measured_of_itself(run: Path):
    for role in ("student", "teacher"):
        (line,) = [x for x in read_metrics(run / "metrics.jsonl") if (x.get("model"), x["step"]) == (role, 8)]
        said = figures(run, role=role)
        assert said == {key: line[key] for key in said}


def test_before_the_burn_ins_end_there_is_no_teacher(run: Path):
    first = run / "checkpoints" / "step_00000003"
    assert load_saved(first).role == "student"
    with pytest.raises(CheckpointError, match="has no teacher"):
        load_saved(first, role="teacher")


def test_a_split_that_the_run_does_not_have(run: Path):
    with pytest.raises(DataError, match=r"names no data\.test; give a data set with --data"):
        figures(run, split="test")


def test_paths_that_are_no_run(run: Path, tmp_path: Path):
    for wrong in (tmp_path / "nothing", run / "metrics.jsonl"):
        with pytest.raises(CheckpointError, match=f"{wrong}: neither a run folder"):
            load_saved(wrong)
    with pytest.raises(CheckpointError, match="data: neither a run nor a checkpoint; name a folder that holds config"):
        load_saved(run / "data")
    RunFolder(tmp_path / "empty").prepare(tiny_config(tmp_path / "empty"), resume=False)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        load_saved(tmp_path / "empty")
    with pytest.raises(UserError, match=r"no config\.json there"):
        write_report(tmp_path / "nothing")


def test_a_damaged_checkpoint_is_named_and_passed_over(run: Path, tmp_path: Path):
    copy = shutil.copytree(run, tmp_path / "copy")
    file = last(copy) / "teacher.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"teacher\.safetensors: checksum differs from COMMIT"):
        load_saved(last(copy))
    assert load_saved(copy).checkpoint.step == 3  # the one before
    shutil.rmtree(copy / "checkpoints" / "step_00000003")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint:\n.*checksum differs"):
        load_saved(copy)


# evaluation on other data: the truth is what the model itself says, so that its figures are known


def self_made(run: Path, folder: Path, *, rename: dict[str, str], order: tuple[str, ...]) -> dict[str, str]:
    """Write a COCO JSON whose boxes are the teacher's own detections, with category ids in `order`."""
    model = load_saved(run)
    index = saved.index_for(model, None, "val")
    found = predict(model.method, model.model, index, range(len(index)))
    number = {name: 10 * (i + 1) for i, name in enumerate(order)}
    images, boxes = [], []
    for i, said in enumerate(found):
        height, width = index.size_at(i)
        images.append({"id": i, "file_name": str(index.file_at(i).name), "height": height, "width": width})
        for box, label in zip(said.boxes.double().tolist(), said.classes.tolist(), strict=True):
            x1, y1, x2, y2 = box
            name = CLASSES[label]
            one = {"id": len(boxes), "image_id": i, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            boxes.append(one | {"category_id": number[name], "area": (x2 - x1) * (y2 - y1)})
    categories = [{"id": number[name], "name": rename.get(name, name)} for name in order]
    folder.mkdir()
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return {"path": str(file), "images": str(index.file_at(0).parent)}


def test_classes_of_another_data_set_are_matched_by_name(run: Path, tmp_path: Path):
    data = self_made(run, tmp_path / "reversed", rename={}, order=CLASSES[::-1])
    assert figures(run, data=data)["AP"] == pytest.approx(1.0, abs=1e-6)  # every detection is a true box
    swap = {"circle": "square", "square": "circle"}
    swapped = self_made(run, tmp_path / "swapped", rename=swap, order=CLASSES)
    assert figures(run, data=swapped)["AP"] < 0.99


def test_a_class_that_the_model_does_not_know_is_an_error(run: Path, tmp_path: Path):
    model = load_saved(run)
    common = CLASSES[int(model.method.detect(model.model, collate([noise()], "cpu"))[0].classes[0])]
    data = self_made(run, tmp_path / "renamed", rename={common: f"{common}s"}, order=CLASSES)
    with pytest.raises(DataError, match=rf"class '{common}s' \([\d,]+ boxes\).*did you mean '{common}'\?"):
        figures(run, data=data)


def test_evaluating_other_data_leaves_the_runs_own_alone(run: Path, tmp_path: Path):
    before = figures(run)
    figures(run, data=self_made(run, tmp_path / "other", rename={}, order=CLASSES))
    assert figures(run) == before


# ONNX


def noise(seed: int = 5) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, 64, 96), dtype=torch.uint8, generator=rng)


def many(number: int, height: int, width: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(2)
    return torch.randint(256, (number, 3, height, width), dtype=torch.uint8, generator=rng)


def test_onnxruntime_says_what_pytorch_says(run: Path, onnx_file: Path):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == list(CLASSES)
    assert json.loads(about["contract"])["input"]["images"]["shape"] == ["B", 3, "H", "W"]
    model = load_saved(run)
    index = saved.index_for(model, None, "val")
    picture = decode(index.file_at(4))
    # None of these was seen by the check at export: two sizes and two numbers of images, and a size that 32 divides.
    for batch in [
        noise()[None],
        torch.stack([picture, noise(), picture]),
        noise()[None, :, :50, :77],
        many(2, 96, 128),
    ]:
        with torch.no_grad():
            expected = model.method.detect(model.model, collate(list(batch), "cpu"))
        boxes, labels, scores, image = session.run(["boxes", "labels", "scores", "image"], {"images": batch.numpy()})
        assert np.bincount(image, minlength=len(batch)).tolist() == [len(each) for each in expected]
        assert (np.diff(image) >= 0).all()
        assert scores.tolist() == pytest.approx(torch.cat([each.scores for each in expected]).tolist(), abs=1e-5)
        assert labels.tolist() == torch.cat([each.classes for each in expected]).tolist()
        assert torch.allclose(torch.from_numpy(boxes), torch.cat([each.boxes for each in expected]), atol=1e-3)


def test_a_file_of_a_fixed_size_says_so(run: Path, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "fixed.onnx"
    message = export(run, out, size="70x90")
    assert "input uint8 [1, 3, 70, 90] RGB: one image of 70 x 90" in message
    session = onnxruntime.InferenceSession(str(out))
    assert session.get_inputs()[0].shape == [1, 3, 70, 90]
    contract = json.loads(session.get_modelmeta().custom_metadata_map["contract"])
    assert contract["input"]["images"]["shape"] == [1, 3, 70, 90]


def test_a_network_that_cannot_be_exported_for_any_size_is_fixed_and_says_why(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("onnxruntime")
    real = onnx_export._write

    def refuses(model, images, file, *, fixed):
        if fixed is None:
            raise RuntimeError("cannot follow a size")
        real(model, images, file, fixed=fixed)

    monkeypatch.setattr(onnx_export, "_write", refuses)
    message = export(run, tmp_path / "x.onnx")
    assert "one image of 64 x 96 (fixed: this network cannot be exported for any size: RuntimeError: cannot" in message


def test_sizes_that_cannot_be_meant_are_refused(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match="--size 64: expected HEIGHTxWIDTH"):
        export(run, tmp_path / "x.onnx", size="64")
    with pytest.raises(UserError, match=r"--size 64x64: only for FILE\.onnx"):
        export(run, tmp_path / "x.safetensors", size="64x64")


def test_a_file_that_says_something_else_is_not_written(
    run: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The teacher's file in place of the student's.
    monkeypatch.setattr(onnx_export, "_write", lambda model, images, file, fixed: shutil.copy(onnx_file, file))
    with pytest.raises(UserError, match=r"does not say what PyTorch says .* it was not written"):
        export(run, tmp_path / "student.onnx", role="student")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_export_says_what_to_install(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(UserError, match=r"ONNX needs onnxscript: pip install 'raydet\[onnx\]'"):
        export(run, tmp_path / "x.onnx", role=None)


def said(*rows: tuple[float, int, float]) -> Candidates:
    """Boxes of 10 x 10 pixels: (left edge, class, score)."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x, _, _ in rows]).reshape(-1, 4)
    scores = torch.tensor([score for _, _, score in rows])
    return Candidates(boxes, torch.tensor([c for _, c, _ in rows]), scores, torch.ones(len(rows)), 0.05)


def test_detections_are_compared_with_the_nearest_of_their_class():
    these = said((0, 1, 0.5), (20, 2, 0.25))
    assert difference(these, these, above=0.05) == Difference(0.0, 0.0, 2)
    moved = said((20.5, 2, 0.125), (0, 1, 0.5))
    assert difference(these, moved, above=0.05) == Difference(0.5, 0.125, 2)
    assert difference(these, said((0, 1, 0.5), (20, 1, 0.25)), above=0.05).pixels == float("inf")  # class 2 is missing
    assert difference(these, said((0, 1, 0.5)), above=0.25) == Difference(0.0, 0.0, 1)  # too weak to be missed
