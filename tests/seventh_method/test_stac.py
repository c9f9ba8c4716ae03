"""A method that raydet does not know: a file, a config class, a line in its family, a YAML; nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydet.cli import main
from raydet.config.load import read_yaml
from raydet.contract import ParamGroup
from raydet.errors import ConfigError
from raydet.families.detection import config as family
from raydet.labels.convert import from_table
from raydet.labels.store import read_all
from raydet.metrics import read_metrics
from raydet.settings import load
from raydet.train.checkpoint import latest_checkpoint, open_checkpoint
from raydet.train.launch import launch
from tests.seventh_method.stac import Stac, StacConfig

YAML = Path(__file__).with_name("stac.yaml")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "METHODS", [*family.METHODS, StacConfig])  # the one line


def test_without_its_line_the_method_is_unknown(tmp_path: Path):
    with pytest.raises(ConfigError, match="method.name='stac': expected one of supervised, unbiased_teacher, il_net"):
        load(YAML, [f"run.dir={tmp_path / 'run'}"])


def test_a_seventh_method_trains_with_labels_of_one_frozen_teacher(known: None, tmp_path: Path):
    run = launch(load(YAML, [f"run.dir={tmp_path / 'run'}"])).path
    steps = [each for each in read_metrics(run / "metrics.jsonl") if each["kind"] == "step"]
    assert [each["step"] for each in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(each["loss/unsup/rpn_cls/raw"] == 0 for each in steps[:3])  # the burn-in
    assert all(each["loss/unsup/rpn_cls/raw"] > 0 for each in steps[3:])
    assert [each["labels/age_max"] for each in steps[3:]] == [0, 1, 2, 3, 4]  # of the teacher of step 3
    labels = [label for table in read_all(run / "labels") for label in from_table(table)]
    assert {label.teacher.version for label in labels} == {3}
    assert len(labels) == len({label.image_id for label in labels}) == 14  # 24 images, 10 of them labelled; each once
    assert sum(each["pseudo/boxes_per_image"] for each in steps[3:]) > 0
    assert not latest_checkpoint(run / "checkpoints").has("teacher")  # the student is all there is


def test_its_settings_are_checked_and_explained_like_everybodys(known: None, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"method\.unsup_wait: unknown key; did you mean method\.unsup_weight\?"):
        load(YAML, [f"run.dir={tmp_path / 'run'}", "method.unsup_wait=1"])
    with pytest.raises(ConfigError, match=r"method\.iou_filter_threshold: unknown key: for method\.name=il_net, not"):
        load(YAML, [f"run.dir={tmp_path / 'run'}", "method.iou_filter_threshold=0.4"])


# 10 labels are fewer than `few`, or they are not; the paper's weight is 2.
@pytest.mark.parametrize(("few", "weight"), [(2000, 1.0), (10, 2.0)])
def test_init_proposes_the_settings_that_it_has(
    known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, weight: float
):
    monkeypatch.setattr("raydet.families.detection.recipe.propose.FEW_LABELS", few)
    made = str(tmp_path / "made.yaml")
    shapes = "shapes={num_images: 24, height: 64, width: 96, max_objects: 3}"
    assert main(["init", "shapes", shapes, "--labels", "10", "--method", "stac", "--no-measure", "--out", made]) == 0
    # The least length is 1,000 steps, half of them burn-in; no rule knows its threshold, which is the paper's.
    assert load(made).method == StacConfig(burn_in_steps=500, unsup_weight=weight, confidence_threshold=0.9)
    assert list(read_yaml(Path(made).read_text(), made)["method"]) == ["name", "burn_in_steps", "unsup_weight"]


def test_its_own_alarm_is_raised(known: None, tmp_path: Path):
    run = launch(load(YAML, [f"run.dir={tmp_path / 'run'}", "method.confidence_threshold=0.99"])).path
    alarms = [each for each in read_metrics(run / "metrics.jsonl") if each["kind"] == "alarm"]
    assert [(each["step"], each["name"]) for each in alarms] == [
        (5, "frozen_teacher_unsure"),  # steps 4 and 5 are barren, then the count starts anew
        (7, "frozen_teacher_unsure"),
    ]
    assert "method.confidence_threshold is 0.99" in alarms[0]["message"]


def test_a_resumed_run_of_it_ends_with_the_same_weights(known: None, tmp_path: Path):
    whole = launch(load(YAML, [f"run.dir={tmp_path / 'whole'}"])).path
    settings = [f"run.dir={tmp_path / 'halved'}"]
    launch(load(YAML, [*settings, "run.stop_at=5"]))
    halved = launch(load(YAML, settings), resume=True).path
    one, other = (latest_checkpoint(run / "checkpoints").tensors("student") for run in (whole, halved))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_group_that_is_frozen_at_a_stages_end_stays_as_it_is_from_there_on(
    known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def groups(self: Stac) -> list[ParamGroup]:
        backbone = ParamGroup("backbone", lambda name: name.startswith("backbone."), lambda s: 1e-3 if s < 3 else None)
        return [backbone, ParamGroup("heads", lambda name: True, lambda step: 5e-4)]

    monkeypatch.setattr(Stac, "param_groups", groups)
    settings = [f"run.dir={tmp_path / 'run'}"]
    launch(load(YAML, [*settings, "run.stop_at=5"]))
    run = launch(load(YAML, settings), resume=True).path  # in the middle of the stage in which it is frozen
    whole = launch(load(YAML, [f"run.dir={tmp_path / 'whole'}"])).path
    at_3, at_8 = (open_checkpoint(run / "checkpoints" / f"step_{step:08d}").tensors("student") for step in (3, 8))
    moved = {name.split(".")[0] for name in at_3 if not torch.equal(at_3[name], at_8[name])}
    assert moved == {"rpn", "roi_heads"}
    straight = latest_checkpoint(whole / "checkpoints").tensors("student")
    assert all(torch.equal(at_8[name], straight[name]) for name in straight)
    lines = [each for each in read_metrics(whole / "metrics.jsonl") if each["kind"] == "step"]
    assert [each["lr/backbone"] for each in lines] == [1e-3] * 3 + [0.0] * 5
    assert [each["lr"] for each in lines] == [1e-3] * 3 + [5e-4] * 5  # of the first group that is not frozen
