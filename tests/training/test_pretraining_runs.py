"""Pre-training runs as a user sees them: resuming, exporting, evaluating, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet.config.detector import ModelConfig
from raydet.errors import CheckpointError, ConfigError, DataError
from raydet.families.pretraining.data import PROPOSED
from raydet.families.pretraining.evaluate import known_proposals
from raydet.metrics import read_metrics
from raydet.proposals.run import ProposalOptions, propose
from raydet.proposals.sources import Grid
from raydet.registry import family_of
from raydet.report.write import write_report
from raydet.train.launch import launch
from raydet.train.saved import evaluate_saved, export, load_saved
from raydet.vision.detector import Detector
from raydet.vision.weights import read_tensors
from tests.helpers import tiny_config, tiny_views
from tests.integration.runs import assert_same_bits, losses
from tests.tiny_data import coco_content, write_coco


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tiny_views(tmp_path_factory.mktemp("whole") / "run")).path


@pytest.fixture(scope="module")
def soco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tiny_views(tmp_path_factory.mktemp("soco") / "run", method={"name": "soco"})).path


def test_a_resumed_run_of_soco_ends_with_the_same_bits(soco: Path, tmp_path: Path):
    launch(tiny_views(tmp_path / "halved", method={"name": "soco"}, run__stop_at=2))
    halved = launch(tiny_views(tmp_path / "halved", method={"name": "soco"}), resume=True).path
    assert_same_bits(soco, halved)
    assert losses(soco) == losses(halved)


def test_resumed_region_proposals_on_a_frozen_network_end_with_the_same_bits(soco: Path, tmp_path: Path):
    method = {"name": "adept", "mode": "separate", "soco_checkpoint": str(soco)}
    straight = launch(tiny_views(tmp_path / "straight", method=method)).path
    launch(tiny_views(tmp_path / "halved", method=method, run__stop_at=2))
    halved = launch(tiny_views(tmp_path / "halved", method=method), resume=True).path
    assert_same_bits(straight, halved)
    assert losses(straight) == losses(halved)


def test_a_resumed_run_ends_with_the_same_bits(run: Path, tmp_path: Path):
    launch(tiny_views(tmp_path / "halved", run__stop_at=2))
    halved = launch(tiny_views(tmp_path / "halved"), resume=True).path
    assert_same_bits(run, halved)
    assert losses(run) == losses(halved)
    name = "similarity/projection_spread"
    mine, theirs = (read_metrics(each / "metrics.jsonl") for each in (run, halved))
    assert [line[name] for line in mine if name in line] == [line[name] for line in theirs if name in line]


def test_the_log_and_the_page_tell_which_share_of_the_drawn_anchors_lies_on_a_box(run: Path):
    steps = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    assert all(0 < line["anchors/on_boxes"] <= 0.5 for line in steps) and steps  # at most half are drawn from boxes
    page = write_report(run).read_text()
    assert "Anchors drawn for the region proposals" in page


def test_the_page_shows_collapse_similarity_and_recall(run: Path):
    write_report(run)
    drawn = {path.stem for path in (run / "plots").iterdir()}
    assert drawn >= {"spread", "similarity", "recall", "levels"}, drawn


def test_a_run_cannot_be_made_longer(run: Path):
    with pytest.raises(ConfigError, match="optim.steps: 6 -> 9"):
        launch(tiny_views(run, optim__steps=9), resume=True)


def test_what_is_exported_is_a_detectors_by_its_names(run: Path, tmp_path: Path):
    said = export(run, tmp_path / "weights.safetensors")
    assert "of the online branch" in said
    found = read_tensors(tmp_path / "weights.safetensors")
    settings = load_saved(run).config.model
    own = {name: getattr(settings, name) for name in ModelConfig.model_fields}
    detector = Detector(ModelConfig(**own), 3).state_dict()
    assert set(found) == {name for name in detector if "box_predictor" not in name}
    assert all(found[name].shape == detector[name].shape for name in found)


def test_passes_of_two_images_each_are_enough_for_batch_norms(tmp_path: Path):
    assert losses(launch(tiny_views(tmp_path / "run", optim__accumulate=2, optim__steps=1)).path)  # 4 images / 2
    assert tiny_views(tmp_path / "run", optim__accumulate=4, model__fpn_norm="group").optim.accumulate == 4


def test_a_rate_that_follows_the_batch_counts_no_unlabelled_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    launch(tiny_views(tmp_path / "run", optim__steps=1, optim__lr_scaling="linear", optim__reference_batch=2))
    assert "learning rate: 0.1 = 0.05 x 4 / 2 images" in capsys.readouterr().out


@pytest.mark.parametrize(("method", "recall"), [("soco", False), ("adept", True)])
def test_true_boxes_are_counted_but_for_crowds_whether_or_not_something_proposes(
    tmp_path: Path, method: str, recall: bool
):
    content = coco_content()  # two boxes in the first image, one in the second
    content["annotations"][1]["iscrowd"] = 1
    val = write_coco(tmp_path / "val", content)
    run = launch(tiny_views(tmp_path / "run", optim__steps=1, method={"name": method}, data__val=str(val))).path
    found = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"][-1]
    assert (found["images"], found["boxes"], found["recall_100"] is not None) == (2, 2, recall)
    assert evaluate_saved(run, data=None, split="val", role=None).as_text().startswith("2 images, 2 true boxes")


def test_evaluation_repeats_what_the_run_measured_of_itself(run: Path):
    newest = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"][-1]
    said = evaluate_saved(run, data=None, split="val", role=None)
    assert said.as_json() == {name: newest[name] for name in said.as_json()}
    assert said.boxes > 0 and said.recall_100 is not None and said.similarity is not None
    assert "recall at 10, 100, 1000" in said.as_text()


# --- proposals that do not fit ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if number % 2 else ".") / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def file(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proposals") / "out"
    propose(ProposalOptions(images=str(pictures), out=out, source=Grid(), actors=0))
    return out


def on(pictures: Path, proposals: Path, run_dir: Path, **changes: object):
    data = {"data__images": str(pictures), "data__proposals": str(proposals), "data__val": None}
    return tiny_views(run_dir, optim__steps=1, **{**data, **changes})


def test_a_folder_and_its_file_of_proposals_train(pictures: Path, file: Path, tmp_path: Path):
    path = launch(on(pictures, file, tmp_path / "run")).path
    assert losses(path)


def test_images_below_the_folder_that_was_searched_find_their_proposals(pictures: Path, file: Path, tmp_path: Path):
    path = launch(on(pictures / "more", file, tmp_path / "run", optim__labeled_batch=2)).path
    assert losses(path)


def test_proposals_of_other_images_are_refused_by_name(pictures: Path, file: Path, tmp_path: Path):
    other = tmp_path / "others"
    other.mkdir()
    (other / "stranger.png").write_bytes((pictures / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"data\.proposals: .*no proposals of 1 of 1 image \('stranger\.png'\)"):
        launch(on(other, file, tmp_path / "run"))


def test_proposals_of_another_size_are_refused_by_name(pictures: Path, file: Path, tmp_path: Path):
    other = tmp_path / "others"
    other.mkdir()
    Image.open(pictures / "0.png").resize((60, 40)).save(other / "0.png")
    with pytest.raises(DataError, match=r"'0\.png': proposals for 50 x 40 pixels, the image is 60 x 40"):
        launch(on(other, file, tmp_path / "run"))


def test_other_pictures_of_the_same_names_and_sizes_are_refused(pictures: Path, file: Path, tmp_path: Path):
    other = tmp_path / "others"
    shutil.copytree(pictures, other)
    assert launch(on(other, file, tmp_path / "copied"))  # the same pictures elsewhere
    Image.new("RGB", (50, 40)).save(other / "0.png")
    config = on(other, file, tmp_path / "run")
    with pytest.raises(
        DataError, match=r"data\.proposals: .*0\.png' has [\d,]+ bytes, the file that was searched [\d,]+"
    ):
        launch(config)
    report = family_of(config).check_data(config, decode_images=False)
    assert [problem.code for problem in report.problems if problem.severity == "error"] == ["proposals"]


def test_held_out_pictures_that_share_names_and_sizes_with_the_searched_ones_are_not_given_their_boxes(
    pictures: Path, file: Path, tmp_path: Path
):
    other = tmp_path / "others"
    shutil.copytree(pictures, other)
    for name, known in (("searched", True), ("changed", False)):
        with (
            nullcontext() if known else pytest.warns(UserWarning, match=r"is not measured: .*0\.png' has [\d,]+ bytes")
        ):
            run = launch(on(pictures, file, tmp_path / name, data__val=str(other))).path
        newest = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "eval"][-1]
        assert (newest["similarity"] is not None) == known
        Image.new("RGB", (50, 40)).save(other / "0.png")


def test_a_picture_that_became_a_link_out_of_its_folder_is_told_of_as_such(pictures: Path, file: Path, tmp_path: Path):
    own = tmp_path / "own"
    shutil.copytree(pictures, own)
    config = on(own, file, tmp_path / "run")
    launch(config)
    (tmp_path / "aside.png").write_bytes((own / "0.png").read_bytes())
    (own / "0.png").unlink()
    (own / "0.png").symlink_to(tmp_path / "aside.png")
    with pytest.raises(DataError, match=r"0\.png"):
        launch(config, resume=True)


def test_without_their_proposals_a_run_is_judged_but_for_the_likeness_of_views(
    pictures: Path, file: Path, tmp_path: Path
):
    own = tmp_path / "proposals"
    shutil.copytree(file, own)
    run = launch(on(pictures, own, tmp_path / "run", data__val=str(pictures))).path
    assert evaluate_saved(run, data=None, split="val", role=None).similarity is not None
    shutil.rmtree(own)
    with pytest.warns(UserWarning, match="is not measured: .*raydet proposals"):
        assert evaluate_saved(run, data=None, split="val", role=None).similarity is None
    index = PROPOSED.open(run / "data").val
    with warnings.catch_warnings():  # of many ranks one says it
        warnings.simplefilter("error")
        assert known_proposals(index, str(own), tell=False) is None


def test_a_file_that_is_none_is_named(pictures: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"data\.proposals: .*nowhere.*raydet proposals"):
        launch(on(pictures, tmp_path / "nowhere", tmp_path / "run"))


def test_a_run_goes_on_with_a_copy_of_its_proposals_and_with_no_others(pictures: Path, file: Path, tmp_path: Path):
    launch(on(pictures, file, tmp_path / "run"))
    copy, other = tmp_path / "copy.arrow", tmp_path / "other"
    copy.write_bytes((file / "proposals.arrow").read_bytes())
    assert launch(on(pictures, copy, tmp_path / "run"), resume=True)
    propose(ProposalOptions(images=str(pictures), out=other, source=Grid(sizes=(0.4,)), actors=0))
    with pytest.raises(DataError, match="not the proposals that the run"):
        launch(on(pictures, other, tmp_path / "run"), resume=True)


def test_check_data_looks_at_the_proposals_too(pictures: Path, file: Path, tmp_path: Path):
    good = on(pictures, file, tmp_path / "run")
    assert family_of(good).check_data(good, decode_images=False).num_errors == 0
    other = tmp_path / "others"
    other.mkdir()
    Image.open(pictures / "0.png").resize((60, 40)).save(other / "0.png")
    bad = on(other, file, tmp_path / "run")
    report = family_of(bad).check_data(bad, decode_images=False)
    assert [problem.code for problem in report.problems if problem.severity == "error"] == ["proposals"]


TWO_PASSES = {"cluster__backend": "ray", "cluster__workers": 2, "optim__accumulate": 2}
ALONE = {"optim__labeled_batch": 1, "model__fpn_norm": "group"}


# --- settings that cannot be meant ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"name": "adept", "mode": "separate"}}, "method.soco_checkpoint"),
        ({"method": {"name": "adept", "soco_checkpoint": "runs/soco"}}, "method.mode=separate"),
        ({"method": {"name": "adept", "rpn_views": [1, 1]}}, r"expected \[1\], \[2\] or \[1, 2\]"),
        ({"method": {"name": "soco", "rpn_views": [1]}}, "for method.name=adept, not for soco"),
        ({"data__labeled": "shapes"}, r"data\.labeled"),
        ({"data__views__small_size": 65}, "small_size=65 is larger than size=64"),
        ({"data__views__crop_area": [0.9, 0.5]}, "the lower first"),
        ({"model__level_bounds": [16]}, "expected 2 ascending sides"),
        ({"optim__labeled_batch": 1}, "labeled_batch=1 gives a pass fewer than two images, .* nothing: raise it$"),
        # 4 images in 4 passes of one each; in 3 of 1, 1 and 2
        ({"optim__accumulate": 4}, "optim.accumulate=4 gives a pass fewer than two images"),
        ({"optim__accumulate": 3}, "raise it, or lower optim.accumulate$"),
        # Two of each worker, in two passes: of all workers two, of its own one.
        (
            {**TWO_PASSES, "model__sync_norms": False},
            "a pass of a worker .* lower optim.accumulate, or set model.sync_norms=true$",
        ),
        # Group norms in the pyramid, and the batch norms of a backbone that starts from random weights.
        ({**ALONE, "model__backbone": "efficientnet_lite0_fpn"}, "fewer than two images"),
        ({"data__val": None, "data__val_count": 50}, "val_count is 50"),
        ({"model__detector": "cascade_rcnn"}, "detector=cascade_rcnn is for detectors"),
        ({"model__init_from": "runs/other"}, "init_from is for detectors"),
    ],
)
def test_what_cannot_be_meant_names_the_key(tmp_path: Path, changes: dict[str, object], said: str):
    with pytest.raises((ConfigError, DataError), match=said):
        launch(tiny_views(tmp_path / "run", **changes))


@pytest.mark.parametrize("changes", [TWO_PASSES, ALONE])
def test_two_images_of_all_workers_or_norms_that_see_one_at_a_time_are_enough(
    tmp_path: Path, changes: dict[str, object]
):
    assert tiny_views(tmp_path / "run", **changes).contradictions() == []


def test_a_checkpoint_of_another_network_is_refused_by_name(run: Path, tmp_path: Path):
    method = {"name": "adept", "mode": "separate", "soco_checkpoint": str(run)}
    with pytest.raises(CheckpointError, match=r"method\.soco_checkpoint=.*do not fit.*projector.*Check network"):
        launch(tiny_views(tmp_path / "run", method=method, model__projector_dim=8))
    detector = launch(
        tiny_config(tmp_path / "det", optim__steps=1, method={"name": "supervised", "burn_in_steps": 0})
    ).path
    with pytest.raises(CheckpointError, match=r"made by method\.name=supervised.*method\.name=soco"):
        launch(tiny_views(tmp_path / "run", method={**method, "soco_checkpoint": str(detector)}))


def test_images_may_be_withheld_and_are_measured_by_their_boxes(tmp_path: Path):
    path = launch(tiny_views(tmp_path / "run", data__val=None, data__val_count=3)).path
    newest = [line for line in read_metrics(path / "metrics.jsonl") if line["kind"] == "eval"][-1]
    assert newest["images"] == 3 and newest["boxes"] > 0 and newest["similarity"] is not None
    assert not (path / "data" / "unlabeled.arrow").exists()
    assert json.loads((path / "data" / "proposals.json").read_text())["content"] == "grid"
