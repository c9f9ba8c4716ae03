"""`model.init_from`: parts of another run's weights as a detector's start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raydet.config.detector import ModelConfig
from raydet.errors import CheckpointError
from raydet.families.detection.transfer import part_of, read_source, start
from raydet.metrics import read_metrics
from raydet.sweep.burn_in import burn_in_key, shared_burn_in
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.saved import export, load_saved
from raydet.vision.detector import Detector
from tests.helpers import TINY, tiny_config, tiny_views

SUPERVISED = {"name": "supervised", "burn_in_steps": 2}


@pytest.fixture(scope="module")
def detector_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of two steps; six classes."""
    folder = tmp_path_factory.mktemp("transfer") / "origin"
    launch(tiny_config(folder, optim__steps=3, method={"name": "supervised", "burn_in_steps": 1, "ema_keep_rate": 0.5}))
    return folder


@pytest.fixture(scope="module")
def soco_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SoCo's network after two steps: no region proposals."""
    folder = tmp_path_factory.mktemp("transfer") / "soco"
    launch(tiny_views(folder, optim__steps=2, method={"name": "soco"}))
    return folder


def model_like(config, **changes) -> ModelConfig:
    """The detector that fits a pre-training run."""
    same = (
        "backbone",
        "small_channels",
        "fpn_channels",
        "fpn_norm",
        "box_head",
        "box_head_dim",
        "anchor_sizes",
        "roi_pool_size",
    )
    return ModelConfig(**{key: getattr(config.model, key) for key in same}, **changes)


def fresh(config: ModelConfig, classes: int = 4) -> Detector:
    torch.manual_seed(5)
    return Detector(config, classes)


def taken(model: Detector, before: Detector) -> set[str | None]:
    """The parts whose weights are others than those of a fresh model."""
    own = before.state_dict()
    return {part_of(name) for name, value in model.state_dict().items() if not torch.equal(value, own[name])}


def test_a_detector_of_other_classes_starts_from_all_but_the_predictors(detector_run: Path):
    config = ModelConfig(**TINY["model"], init_from=str(detector_run))
    model = fresh(config)
    lines = start(model, config)
    theirs = load_saved(detector_run).model.state_dict()
    for name, value in model.state_dict().items():
        if part_of(name) is not None:
            assert torch.equal(value, theirs[name]), name
    assert taken(model, fresh(config)) == {"backbone", "fpn", "rpn", "box_head"}
    assert lines[0].startswith("model.init_from: teacher of supervised at step 3, ")
    assert lines[1:5] == [
        # stem 1 + 2, four blocks of 2 * (1 + 2) + (1 + 2) = 9: 39; the pyramid has 3 levels of 2 * 2
        "  backbone: 39 tensors taken",
        "  fpn: 12 tensors taken",
        "  rpn: 6 tensors taken",
        "  box_head: 4 tensors taken",
    ]
    assert lines[5:] == [
        "  fresh: roi_heads.box_predictor (4 tensors)",
        "  not used: roi_heads.box_predictor (4 tensors)",
    ]


def test_parts_and_role_can_be_chosen(detector_run: Path):
    config = ModelConfig(**TINY["model"], init_from=str(detector_run), init_role="student", init_parts=["rpn"])
    model = fresh(config)
    lines = start(model, config)
    assert taken(model, fresh(config)) == {"rpn"}
    assert lines[1:5] == [
        "  backbone: left out by model.init_parts (39 tensors)",
        "  fpn: left out by model.init_parts (12 tensors)",
        "  rpn: 6 tensors taken",
        "  box_head: left out by model.init_parts (4 tensors)",
    ]
    name = "rpn.head.cls_logits.weight"
    student, teacher = (load_saved(detector_run, role=role).model.state_dict()[name] for role in ("student", "teacher"))
    assert torch.equal(model.state_dict()[name], student)
    assert not torch.equal(student, teacher)
    assert lines[0].startswith("model.init_from: student of ")


def test_what_pre_training_lacks_is_fresh_and_said(soco_run: Path):
    config = model_like(RunFolder(soco_run).load_config(), init_from=str(soco_run))
    model = fresh(config)
    lines = start(model, config)
    assert taken(model, fresh(config)) == {"backbone", "fpn", "box_head"}
    assert any(line.startswith("  rpn: fresh, there is none in it") for line in lines)
    assert "predictor (" in lines[-1] and "projector (" in lines[-1] and "target (" in lines[-1]
    wanted = ModelConfig(**{**config.model_dump(), "init_parts": ["rpn"]})
    with pytest.raises(CheckpointError, match="its rpn is of another network: .* is missing"):
        start(fresh(wanted), wanted)


def test_an_exported_file_is_as_good_as_the_run(detector_run: Path, tmp_path: Path):
    file = tmp_path / "origin.safetensors"
    export(detector_run, file)
    by_file, by_run = (ModelConfig(**TINY["model"], init_from=str(path)) for path in (file, detector_run))
    models = [fresh(config) for config in (by_file, by_run)]
    for model, config in zip(models, (by_file, by_run), strict=True):
        start(model, config)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_another_architecture_is_refused_part_by_part(detector_run: Path):
    wider = ModelConfig(**{**TINY["model"], "box_head_dim": 48}, init_from=str(detector_run))
    with pytest.raises(
        CheckpointError, match=r"its box_head .* has shape \[32, 784\], this detector's has \[48, 784\]"
    ):
        start(fresh(wider), wider)
    without = ModelConfig(
        **{**TINY["model"], "box_head_dim": 48}, init_from=str(detector_run), init_parts=["backbone", "fpn", "rpn"]
    )
    start(fresh(without), without)
    anchors = ModelConfig(
        **{**TINY["model"], "anchor_sizes": [[12, 16], [24, 32], [48, 64]]}, init_from=str(detector_run)
    )
    with pytest.raises(CheckpointError, match=r"its rpn .* model.anchor_sizes and model.anchor_ratios"):
        start(fresh(anchors), anchors)


def test_files_that_are_no_weights_are_one_message_each(tmp_path: Path, detector_run: Path):
    with pytest.raises(CheckpointError, match=r"init_from=.*nowhere.safetensors: there is no such folder or file"):
        read_source(tmp_path / "nowhere.safetensors", None)
    pickled = tmp_path / "model.pth"
    torch.save({"a": torch.ones(1)}, pickled)
    with pytest.raises(CheckpointError, match="expected a run folder, a checkpoint folder, or a .safetensors file"):
        read_source(pickled, None)
    cut = tmp_path / "cut.safetensors"
    export(detector_run, cut)
    cut.write_bytes(cut.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"init_from=.*cut.safetensors.* is it complete"):
        read_source(cut, None)
    with pytest.raises(CheckpointError, match="remove model.init_role=teacher"):
        read_source(cut, "teacher")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"init_from=.*empty"):
        read_source(tmp_path / "empty", None)
    other = tmp_path / "other.safetensors"
    save_file({"classifier.weight": torch.ones(2)}, other)
    config = ModelConfig(**TINY["model"], init_from=str(other), init_parts=["backbone"])
    with pytest.raises(CheckpointError, match="its backbone is of another network"):
        start(fresh(config), config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init_parts": ["rpn"]}, "init_parts says how to use init_from, which is not given"),
        ({"finetune": "predictors"}, "finetune says how to use init_from"),
        ({"init_from": "a", "init_parts": ["rpn", "rpn"]}, "name every part once"),
        ({"init_from": "a", "backbone": "resnet50_fpn", "weights": "imagenet"}, "both say where the backbone starts"),
        ({"init_from": "a", "finetune": "predictors", "init_norms": "trained"}, "remove init_norms=trained"),
        ({"init_from": "a", "finetune": "predictors", "init_norms": "backbone_frozen"}, "remove init_norms=backbone_f"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict, said: str):
    with pytest.raises(ValueError, match=said):
        ModelConfig(**{**TINY["model"], "anchor_sizes": [], **changes})


def test_predictors_alone_can_be_trained(detector_run: Path, tmp_path: Path):
    model = {"model__init_from": str(detector_run), "model__finetune": "predictors"}
    config = tiny_config(tmp_path / "run", optim__steps=3, method=SUPERVISED, **model)
    launch(config)
    before, after = load_saved(detector_run).model, load_saved(tmp_path / "run", role="student").model
    own = before.state_dict()
    moved = {name for name, value in after.state_dict().items() if not torch.equal(value, own[name])}
    assert {part_of(name) for name in moved} == {None}
    assert any("box_predictor.cls_score" in name for name in moved)


def test_a_run_says_what_it_took_and_goes_on_with_the_same_bits(
    detector_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    straight, halved = (
        tiny_config(tmp_path / name, optim__steps=4, method=SUPERVISED, model__init_from=str(detector_run))
        for name in ("straight", "halved")
    )
    launch(straight)
    assert "rpn: 6 tensors taken" in capsys.readouterr().out
    notes = [line["message"] for line in read_metrics(RunFolder(straight.run.dir).metrics) if line["kind"] == "note"]
    assert "  rpn: 6 tensors taken" in notes
    run = halved.run.model_copy(update={"stop_at": 2})
    launch(halved.model_copy(update={"run": run}))
    launch(halved, resume=True)
    first, second = (load_saved(Path(each.run.dir), role="student").model.state_dict() for each in (straight, halved))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_fork_of_a_run_with_another_start_is_refused_before_it_begins(detector_run: Path, tmp_path: Path):
    config = tiny_config(
        tmp_path / "run",
        method=SUPERVISED,
        model__init_from=str(detector_run),
        run__fork_from=str(detector_run / "checkpoints" / "step_00000001"),
    )
    with pytest.raises(CheckpointError, match="started from no other run, not from model.init_from.*keep one of"):
        launch(config)
    assert not RunFolder(config.run.dir).is_started


def test_a_search_shares_the_burn_in_of_a_run_with_a_start(detector_run: Path, tmp_path: Path):
    # As `sweep/trial.py` does it: the trial's settings, and the checkpoint of the shared burn-in.
    straight = tiny_config(tmp_path / "straight", optim__steps=5, model__init_from=str(detector_run))
    launch(straight)
    fork = shared_burn_in(straight, straight, tmp_path / "burn_in")
    forked = tiny_config(
        tmp_path / "forked", optim__steps=5, model__init_from=str(detector_run), run__fork_from=str(fork)
    )
    launch(forked)
    launch(forked, resume=True)
    first, second = (load_saved(Path(each.run.dir)) for each in (straight, forked))
    one, other = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    for saved in (first, second):
        assert saved.checkpoint.state["started"]["from"] == str(detector_run)
        assert "teacher of supervised at step 3" in saved.checkpoint.state["started"]["said"]
    elsewhere = tiny_config(tmp_path / "other", optim__steps=5, model__init_from=str(tmp_path / "elsewhere"))
    assert burn_in_key(elsewhere) != burn_in_key(straight)


def test_a_file_without_any_backbone_is_refused_though_no_part_is_asked_for(tmp_path: Path):
    other = tmp_path / "classifier.safetensors"
    save_file({"classifier.weight": torch.ones(2), "classifier.bias": torch.ones(2)}, other)
    config = ModelConfig(**TINY["model"], init_from=str(other))
    with pytest.raises(
        CheckpointError,
        match=r"nothing of a detector's backbone \(its first tensors are classifier.bias, classifier.weight\)",
    ):
        start(fresh(config), config)
    head = tmp_path / "head.safetensors"
    save_file({k: v.contiguous() for k, v in fresh(config).state_dict().items() if k.startswith("rpn.")}, head)
    config = ModelConfig(**TINY["model"], init_from=str(head))
    with pytest.raises(CheckpointError, match=r"or take the others alone: model.init_parts=\['rpn'\]"):
        start(fresh(config), config)
    alone = ModelConfig(**TINY["model"], init_from=str(head), init_parts=["rpn"])
    assert taken_parts(start(fresh(alone), alone)) == ["rpn"]


def taken_parts(lines: list[str]) -> list[str]:
    return [line.split(":")[0].strip() for line in lines if line.endswith(" taken")]


def test_predictors_alone_are_not_trained_on_random_features(soco_run: Path, detector_run: Path):
    config = model_like(RunFolder(soco_run).load_config(), init_from=str(soco_run), finetune="predictors")
    with pytest.raises(CheckpointError, match=r"finetune=predictors would leave rpn random for ever.*finetune=all"):
        start(fresh(config), config)
    some = ModelConfig(
        **TINY["model"], init_from=str(detector_run), finetune="predictors", init_parts=["backbone", "rpn"]
    )
    with pytest.raises(CheckpointError, match="would leave fpn, box_head random for ever"):
        start(fresh(some), some)


def test_anchors_of_other_sizes_are_said(detector_run: Path, tmp_path: Path):
    config = ModelConfig(**{**TINY["model"], "anchor_sizes": [[16], [32], [64]]}, init_from=str(detector_run))
    said = "    their anchors have sizes 12, 24, 48, here 16, 32, 64"
    assert said in start(fresh(config), config)
    export(detector_run, tmp_path / "exported.safetensors")
    config = config.model_copy(update={"init_from": str(tmp_path / "exported.safetensors")})
    assert said in start(fresh(config), config)
    # Of a file that somebody else wrote nobody knows.
    save_file(load_file(tmp_path / "exported.safetensors"), tmp_path / "bare.safetensors")
    config = config.model_copy(update={"init_from": str(tmp_path / "bare.safetensors")})
    assert not [line for line in start(fresh(config), config) if "anchors have sizes" in line]
