"""Configuration: what is accepted, what is refused, and what the message says."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet import __version__
from raydet.config.load import read_yaml
from raydet.errors import ConfigError
from raydet.families.classification.config import PseudoLabelConfig
from raydet.families.detection.config import IlNetConfig
from raydet.settings import dump, dump_file, load, resolve
from tests.helpers import TINY

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
BASE = {
    "run": {"dir": "runs/x"},
    "data": {"labeled": "a.json", "labeled_count": 3, "val": "b.json"},
    "method": {"name": "il_net", "burn_in_steps": 10},
    "optim": {"steps": 100},
}


def refused(overrides: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as error:
        resolve(BASE, overrides, where="c.yaml")
    return str(error.value)


def test_method_defaults_are_the_papers_setting():
    method = resolve(BASE, {}).method
    assert (method.iou_target_threshold, method.iou_filter_threshold) == (0.75, 0.4)  # mu, theta
    assert (method.unsup_cls_weight, method.unsup_reg_weight, method.unsup_iou_weight) == (4.0, 1.0, 4.0)
    assert (method.ema_keep_rate, method.score_threshold) == (0.9996, 0.7)
    assert method.iou_branch.inputs == ("roi_features", "class_logits")  # Table 5, row 4


def test_a_methods_name_and_what_its_teacher_keeps_are_asked_in_one_way():
    assert (IlNetConfig.called(), PseudoLabelConfig.called()) == ("il_net", "pseudo_label")
    assert IlNetConfig(ema_keep_rate=0.75).keep_rate == 0.75
    assert PseudoLabelConfig().keep_rate is None  # its teacher is the student of a stage's end


def test_a_resolved_config_reads_back_equal():
    config = resolve(BASE, {"method.score_threshold": 0.8, "data.val.images": "imgs"})
    assert resolve(read_yaml(dump(config), "dump"), {}) == config
    assert resolve(read_yaml(dump_file(config), "dump"), {}) == config  # which raydet wrote it is no setting
    assert config.data.val.images == "imgs"  # the short form of a data set takes overrides too


def test_a_file_of_a_newer_version_is_recognised_where_it_cannot_be_read(tmp_path: Path):
    file = tmp_path / "run.yaml"
    text = dump_file(resolve(BASE, {}))
    for version, is_said in ((__version__, False), ("0.0.1", False), ("900.0.0rc1", True)):
        file.write_text(text.replace(f"raydet_version: {__version__}", f"raydet_version: {version}"))
        assert load(file) == resolve(BASE, {})
        file.write_text(file.read_text() + "zzz: true\n")
        with pytest.raises(ConfigError, match="zzz: unknown key") as caught:
            load(file)
        said = f"{file}: written by raydet {version}, this is {__version__}: update raydet"
        assert (said in str(caught.value)) == is_said
    file.write_text(text.replace(f"raydet_version: {__version__}", "raydet_version: newest"))
    with pytest.raises(ConfigError, match="raydet_version='newest': expected a version like"):
        load(file)


def test_unknown_key_names_the_nearest_valid_key():
    assert refused({"method.score_treshold": 0.8}) == (
        "c.yaml: method.score_treshold: unknown key; did you mean method.score_threshold?"
    )


def test_a_misspelt_section_is_named_beside_everything_else():
    tree = {**BASE, "methd": {**BASE["method"], "score_threshold": 2.0}, "optim": {"stpes": 3}, "evla": {"evry": 1}}
    del tree["method"]
    with pytest.raises(ConfigError) as error:
        resolve(tree, {"data.labeled_cuont": 3}, where="c.yaml")
    assert str(error.value).splitlines() == [
        "c.yaml: methd: unknown key; did you mean method?",
        "c.yaml: evla: unknown key; did you mean eval?",
        "c.yaml: data.labeled_cuont: unknown key; did you mean data.labeled_count?",
        "c.yaml: method.score_threshold=2.0: Input should be less than or equal to 1",
        "c.yaml: optim.stpes: unknown key; did you mean optim.steps?",
        "c.yaml: eval.evry: unknown key; did you mean eval.every?",
    ]


def test_a_section_that_is_misspelt_and_otherwise_right_is_refused_too():
    tree = {("optm" if key == "optim" else key): value for key, value in BASE.items()}
    with pytest.raises(ConfigError) as error:
        resolve(tree, {}, where="c.yaml")
    assert str(error.value) == "c.yaml: optm: unknown key; did you mean optim?"


@pytest.mark.parametrize("name", ["il_nett", None, "nonsense"])
def test_a_method_that_there_is_not_hides_no_other_mistake(name: str | None):
    said = refused({"method.name": name, "optim.stpes": 3, "run.dir": None, "seed": "x"}).splitlines()
    assert said[0].startswith("c.yaml: method.name")
    assert said[1:] == [
        "c.yaml: run.dir=null: Input should be a valid string",
        'c.yaml: seed="x": Input should be a valid integer',
        "c.yaml: optim.stpes: unknown key; did you mean optim.steps?",
    ]


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        ({"method.ema_keep_rate": 1.0}, "must be in [0, 1); 1.0 would freeze the teacher forever"),
        ({"method.burn_in_steps": 100}, "leaves nothing of optim.steps=100"),
        ({"labels.source": "pool"}, "labels.lookahead"),
        ({"labels.source": "pool", "labels.lookahead": 2}, "needs Ray"),
        ({"data.labeled_fraction": 0.5}, "both choose the labelled images"),
        ({"data.labeled_count": None}, "needs unlabelled images"),
        ({"cluster.workers": 2}, "backend process has exactly 1 worker"),
        ({"cluster.backend": "ray", "cluster.workers": 16, "model.weights": "w"}, "needs batches of at least"),
        (
            {"cluster.backend": "ray", "cluster.workers": 2, "model.backbone": "resnet50_fpn", "model.weights": "none"},
            "set model.weights",
        ),
        ({"cluster.backend": "ray", "cluster.workers": 1, "cluster.min_workers": 2}, "exceeds workers"),
        ({"method.iou_filter_threshold": 1.4}, "method.iou_filter_threshold=1.4"),
        ({"method.score_threshold": -0.1}, "method.score_threshold=-0.1"),
        ({"method.score_threshold": 0.01}, "labels.score_floor"),
        ({"optim.lr": "1e-3"}, "should be a valid number"),
        ({"seed": True}, "should be a valid integer"),
        ({"seed": 2**64}, "seed=18446744073709551616: Input should be less than or equal to 9223372036854775807"),
        ({"data.views.short_side": []}, "data.views.short_side=[]: Tuple should have at least 1 item"),
        ({"method.name": "il_nett"}, "il_net"),
        ({"model.backbone": "small_gn", "model.anchor_sizes": [[8.0]] * 5}, "one tuple of sizes per level"),
        ({"run.dir": None}, "run.dir=null"),
        ({"pool.min_actors": 1}, "go together"),
    ],
)
def test_contradictions_and_wrong_values_say_what_to_change(overrides: dict[str, object], fragment: str):
    assert fragment in refused(overrides)


def test_an_override_below_a_plain_value_is_refused():
    with pytest.raises(ConfigError, match="seed is 0, not a section"):
        resolve({**BASE, "seed": 0}, {"seed.x": 1})


def test_a_key_that_is_given_twice_is_refused_with_both_lines():
    text = "optim:\n  steps: 3\n  lr: 0.1\n  steps: 5\n"
    with pytest.raises(ConfigError, match="^c.yaml: line 4: 'steps' is given again, after line 2; remove one of them$"):
        read_yaml(text, "c.yaml")
    assert read_yaml("a: {steps: 3}\nb: {steps: 5}\n", "c.yaml") == {"a": {"steps": 3}, "b": {"steps": 5}}


def test_yaml_scalars_mean_what_they_look_like():
    read = read_yaml("a: 1e-4\nb: no\nc: 010\nd: true\ne: 1_000\nf: .5", "t")
    assert read == {"a": 1e-4, "b": "no", "c": "010", "d": True, "e": 1000, "f": 0.5}


@pytest.mark.parametrize(
    "text",
    ["a: &x [1]\nb: *x", "a: !!python/object/apply:os.system ['true']", "a: [1", "a: 1\n\tb: 2"],
)
def test_yaml_tricks_are_refused_with_the_file_name(text: str, tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="bad.yaml"):
        load(file)


def test_missing_file_and_non_mapping_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such config file"):
        load(tmp_path / "none.yaml")
    file = tmp_path / "list.yaml"
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load(file)
    for text in ("", "# to be written\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"list.yaml: is empty; a config has at least .* raydet init DATASET"):
            load(file)


def test_a_folder_is_no_config_file_and_the_one_in_it_is_named(tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        load(tmp_path)
    assert str(error.value) == f"{tmp_path}: is a folder; give a config file (.yaml)"
    (tmp_path / "config.yaml").write_text("run: {dir: x}")
    with pytest.raises(ConfigError, match=r"give a config file \(\.yaml\): .*/config\.yaml is there$"):
        load(tmp_path)


def test_overrides_without_equals_are_explained(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("run: {dir: x}")
    with pytest.raises(ConfigError, match=r"expected key\.path=value"):
        load(file, ["method.score_threshold"])


def test_the_coco_config_is_row_4_of_table_5():
    config = load(CONFIGS / "il_net_coco10.yaml")
    method, optim, model = config.method, config.optim, config.model
    assert method.name == "il_net" and method.iou_branch_enabled and method.iou_filter_enabled
    assert (method.iou_target_threshold, method.iou_filter_threshold) == (0.75, 0.4)
    assert (method.unsup_cls_weight, method.unsup_reg_weight, method.unsup_iou_weight) == (4, 1, 4)
    assert method.iou_branch.inputs == ("roi_features", "class_logits")  # x_sh and scores, no deltas
    assert (method.score_threshold, method.burn_in_steps, method.ema_keep_rate) == (0.7, 2000, 0.9996)
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 0.0075, 0.9, 1e-4)
    assert (optim.steps, optim.decay_at) == (180_000, (179_990, 179_995))
    assert (optim.labeled_batch, optim.unlabeled_batch, config.cluster.workers) == (12, 12, 6)  # 2 + 2 per GPU
    assert (model.backbone, model.trainable_stages) == ("resnet50_fpn", 3)
    assert (model.box_loss, model.roi_cls_loss) == ("l1", "focal")
    assert (model.rpn_positive_fraction, model.rpn_post_nms_train, model.roi_align_aligned) == (0.25, 1000, True)
    assert config.data.labeled_ids.endswith("#10/1")
    assert (config.labels.lookahead, config.labels.publish_every) == (0, 1)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_loads(path: Path):
    load(path)


def test_an_override_into_a_section_that_is_an_override_leaves_the_given_section_alone():
    section = {"max_long_side": 96}
    load_from = {"data.views": section, "data.views.max_long_side": 80}
    resolve(TINY, {"run.dir": "unused", **load_from})
    assert section == {"max_long_side": 96}
