"""What `raydet doctor` says a run will need: places, disk, main memory, time."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.config.run import RunConfig
from raydet.contract import DataSizes
from raydet.doctor import estimate
from raydet.doctor.estimate import Disk, Written, disk_of, judge_disk, judge_memory, plan, written_by
from raydet.doctor.measure import extrapolate, short_run
from raydet.families.classification.method import ClassificationMethod
from raydet.registry import build_method
from raydet.settings import load
from raydet.train.checkpoint import folder_of, write_checkpoint
from raydet.train.rundir import RunFolder
from tests.helpers import tiny_classes, tiny_config

JOBS = Path(__file__).parents[2] / "jobs" / "configs"


def test_places_are_arithmetic(tmp_path: Path):
    config = tiny_config(
        tmp_path,
        cluster__backend="ray",
        cluster__workers=4,
        cluster__gpus_per_worker=1,
        labels__source="pool",
        labels__lookahead=1,
        pool__actors=2,
        pool__gpus_per_actor=1.0,
    )
    big, small = {"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}
    (enough,) = plan(config, [big, big], is_local=False)
    # 4 workers x 1 CPU + 2 teachers x 1 CPU; 4 x 1 GPU + 2 x 1 GPU; 16 + 16 CPUs and 4 + 4 GPUs
    assert enough.level == "ok"
    assert enough.text == (
        "CPU: 4 for 4 workers + 2 for 2 teachers; there is 32; GPU: 4 for 4 workers + 2 for 2 teachers; there is 8"
    )
    (short,) = plan(config, [big, small], is_local=False)
    assert short.level == "fail"
    assert "GPU: 4 for 4 workers + 2 for 2 teachers, together 6; the cluster has 5" in short.text
    (elastic,) = plan(
        config.model_copy(update={"cluster": config.cluster.model_copy(update={"min_workers": 2})}),
        [big, small],
        is_local=False,
    )
    assert elastic.level == "warn"
    (local,) = plan(config, [{"GPU": 0.0}], is_local=True)
    assert local.level == "fail"
    assert "CPU" not in local.text
    assert plan(tiny_config(tmp_path), [{}], is_local=True)[0].level == "ok"


def test_gpus_that_nothing_asks_for_are_a_warning(tmp_path: Path):
    config = tiny_config(tmp_path, cluster__backend="ray")
    for is_local in (True, False):
        places, gpus = plan(config, [{"CPU": 4.0, "GPU": 1.0}], is_local=is_local)
        assert (places.level, gpus.level, gpus.topic) == ("ok", "warn", "GPUs")
        assert "the cluster has 1 GPU, and none is asked for" in gpus.text


def test_disk_is_parameters_times_copies_plus_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = tiny_config(tmp_path, optim__steps=103, checkpoint__keep=2)  # burn-in 3; 4 unlabelled images a step
    sizes = DataSizes(10, 14, 6)
    disk = disk_of(config, sizes)
    # AdamW keeps 2 moments: student 1 + 2, teacher 1, published teacher 1 = 5 copies; 2 + 3 checkpoints; 4 bytes
    assert disk.checkpoints == 5 * 5 * 4 * disk.parameters
    assert disk.labels == 100 * 4 * 8000  # (103 - 3) steps x 4 labels x 8.0 KB
    # 2 steps ahead: those beyond the end are labelled too
    ahead = tiny_config(tmp_path, optim__steps=103, labels__lookahead=2)
    assert disk_of(ahead, sizes).labels == 102 * 4 * 8000
    # 10 steps a teacher: 40 times an image comes up, but there are 14; the eleventh teacher has 2 steps
    seldom = tiny_config(tmp_path, optim__steps=105, labels__publish_every=10)
    assert disk_of(seldom, sizes).labels == (10 * 14 + 2 * 4) * 8000
    assert judge_disk(disk, tmp_path / "not" / "yet").level == "ok"
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3_000_000}))
    assert judge_disk(disk, tmp_path).level == "fail"  # the labels alone are 3.2 MB


@pytest.mark.parametrize(
    ("written", "free", "level"),
    [
        (Written(), 30, "fail"),  # 60 GB in all
        (Written(45, 5), 30, "ok"),  # 50 - 45 + 10 - 5 = 10 GB to come
        (Written(45, 5), 9, "fail"),
        (Written(60, 0), 9, "fail"),  # more checkpoints than there are to be make no room for 10 GB of labels
        (Written(50, 10), 0, "ok"),
    ],
)
def test_what_a_run_has_written_needs_no_room(
    written: Written, free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    giga = 1_000_000_000
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free * giga}))
    disk = Disk(parameters=1, weights=50 * giga, learned=0, labels=10 * giga)
    found = judge_disk(disk, tmp_path, Written(written.checkpoints * giga, written.labels * giga))
    assert found.level == level
    assert ("50.0 GB are written already; " in found.text) == (written == Written(45, 5))


def test_a_started_run_has_written_its_checkpoints_and_labels(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    files = {"checkpoints/step_00000003/student.safetensors": 100, "labels/rank0/1.arrow": 30, "metrics.jsonl": 7}
    for name, size in files.items():
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_bytes(b"x" * size)
    assert written_by(folder) == Written(0, 0)  # of nobody knows whom
    folder.config_json.write_text("{}")
    assert written_by(folder) == Written(100, 30)


def test_old_labels_go_at_checkpoints_and_what_the_last_two_need_stays(tmp_path: Path):
    sizes = DataSizes(10, 14, 6)
    bounded = {"optim__steps": 103, "labels__keep_versions": 10}
    often = tiny_config(tmp_path, **bounded, checkpoint__every=5)
    # a teacher a step, 4 labels each: 10 versions kept + 3 x 5 since the checkpoint before the last
    assert disk_of(often, sizes).labels == 25 * 4 * 8000
    never = tiny_config(tmp_path, **bounded, checkpoint__every=50)
    assert disk_of(never, sizes).labels == 100 * 4 * 8000  # 10 + 3 x 50 would be more than there ever are


def test_disk_of_learned_labels_has_one_label_per_image_and_prediction(tmp_path: Path):
    config = tiny_classes(tmp_path)
    disk = disk_of(config, DataSizes(12, 42, 3))
    # predictions at 4, 10 and 13, by 12 images a step: 6 x 12 = 72 > 42 images, 3 x 12, and 42 until the end
    assert disk.labels == (42 + 36 + 42) * (100 + 4 * 3)
    # SGD: student 1 + 1, no average, published 1; 2 newest, best, being written, ends of stages at 4, 10 and 16
    assert disk.weights == 7 * 3 * 4 * disk.parameters
    assert disk.learned == 6 * 42 * (3 * 4 + 8)  # all but the one at 4 have the table: 42 x (3 float32 + 1 int64)
    short = tiny_classes(tmp_path, run__stop_at=12)  # stages end at 4 and 10; predictions at 4 and 10
    assert disk_of(short, DataSizes(12, 42, 3)).labels == (42 + 42) * 112


def test_the_disk_of_imagenet_is_a_few_labels_per_image_and_a_table_per_checkpoint():
    config = load(JOBS / "r2d2_imagenet10.yaml", ["labels.keep_versions=null"])
    disk = disk_of(config, DataSizes(128_000, 1_153_167, 1000))
    # predictions at 30,000, 120,090, 210,180 and 300,270; 4,100 bytes each: 18.9 GB
    assert disk.labels == 4 * 1_153_167 * 4_100
    # tables of 1,153,167 x 4,008 bytes = 4.6 GB in 2 newest, best, being written, ends of stages at 120,090 and 390,360
    assert disk.learned == 6 * 1_153_167 * 4_008
    assert "(27.7 GB of it the state of the method) + 18.9 GB of labels at most" in judge_disk(disk, Path("/")).text


def test_main_memory_must_hold_a_label_table_per_rank():
    assert judge_memory(2_208_000, 1, None).text.startswith(
        "what the method learns beside weights takes 2.2 MB in every rank (here 1)"
    )
    assert judge_memory(5_000_000_000, 4, 30_000_000_000).level == "ok"  # 4 x 5 = 20 <= 0.8 x 30 GB
    assert judge_memory(5_000_000_000, 5, 30_000_000_000).level == "warn"  # 25
    assert judge_memory(5_000_000_000, 7, 30_000_000_000).level == "fail"  # 35


@pytest.mark.parametrize(
    "overrides", [[], ["method.finetune_label_source=reprediction"], ["method.repeat_stage2=false"]]
)
def test_the_measured_steps_of_r2d2_are_two_of_stage_1_and_four_of_d2(overrides: list[str], tmp_path: Path):
    config = short_run(load(JOBS / "r2d2_cifar10.yaml", overrides), tmp_path)
    method = build_method(config)
    assert isinstance(method, ClassificationMethod)
    assert [method.stage_at(step).name for step in range(config.last_step)] == ["supervised"] * 2 + ["D2"] * 4
    assert config.optim.unlabeled_batch == 384 and config.data.val is None


MEASURED = [
    *({"step": s, "stage": "supervised", "step_s": 30.0, "label_wait_s": 0.0} for s in (1, 2)),
    *({"step": s, "stage": "D2", "step_s": 90.0, "label_wait_s": 60.0} for s in (3, 4, 5, 6)),
]


def test_the_time_counts_labels_as_often_as_they_are_made(tmp_path: Path):
    # 42 + 36 + 42 labels for 16 steps of 12 images: 62.5 %; 4 x 30 s + 16 x (90 - 0.375 x 60) s = 1200 s
    assert extrapolate(tiny_classes(tmp_path), MEASURED, 42, "cpu").startswith(
        "30.00 s per supervised step, 90.00 s per D2 step (60.00 s of it for labels, which 62% of the images need), "
        "fine-tuning taken to be as slow, with the whole batch and the teacher in one process on cpu: 20.0 min for 20"
    )


@pytest.mark.parametrize(
    ("name", "is_there", "time"),
    [
        # 1 x 30 s + 16 x 67.5 s = 1110 s; 16 x 67.5 s = 1080 s; 4 x 30 s more
        ("final", True, "18.5 min for 17 steps from step 3 on, where run.fork_from begins, without evaluations"),
        ("step_00000004", False, "18.0 min for 16 steps from step 4 on, where run.fork_from begins, without"),
        ("final", False, "20.0 min for 20 steps without evaluations"),
    ],
)
def test_the_time_of_a_fork_is_without_the_burn_in_that_it_does_not_train(
    name: str, is_there: bool, time: str, tmp_path: Path
):
    fork = tmp_path / name
    if is_there:
        write_checkpoint(tmp_path, 3, {}, {}).rename(fork)
    said = extrapolate(tiny_classes(tmp_path / "run", run__fork_from=str(fork)), MEASURED, 42, "cpu")
    assert f" on cpu: {time}" in said


@pytest.mark.parametrize(
    ("step", "time"),
    [
        # 2 x 30 s + 16 x (90 - 0.375 x 60) s = 60 + 1080 = 1140 s: no label is made yet
        (
            2,
            "which 62% of the images need), fine-tuning taken to be as slow, ON cpu: 19.0 min for 18 steps from step 2",
        ),
        # of 42 + 36 + 42 labels 42 and, in 2 steps of 12 images, 24 are made: 12 + 42 for 8 steps of 12, 56.25 %;
        # 8 x (90 - 0.4375 x 60) s = 510 s
        (
            12,
            "which 56% of the images need), fine-tuning taken to be as slow, ON cpu: 8.5 min for 8 steps from step 12",
        ),
        # all labels but 42 - 3 x 12 = 6 of them are made, for 4 steps of 12: 12.5 %; 4 x (90 - 0.875 x 60) s = 150 s
        (
            16,
            "which 12% of the images need), fine-tuning taken to be as slow, ON cpu: 2.5 min for 4 steps from step 16",
        ),
    ],
)
def test_the_time_of_a_run_that_is_to_be_resumed_is_that_of_what_is_left(step: int, time: str, tmp_path: Path):
    config = begun(tiny_classes(tmp_path / "run", run__fork_from=str(tmp_path / "step_00000004")), 1, step)
    said = extrapolate(config, MEASURED, 42, "cpu")
    expected = time.replace("ON", "with the whole batch and the teacher in one process on")
    assert f"{expected} on, where --resume goes on with the run in run.dir, without evaluations" in said


def test_a_run_without_a_usable_checkpoint_is_all_to_be_done(tmp_path: Path):
    config = begun(tiny_classes(tmp_path / "run"))
    assert " on cpu: 20.0 min for 20 steps without" in extrapolate(config, MEASURED, 42, "cpu")
    begun(config, 12, 16)
    checkpoints = RunFolder(config.run.dir).checkpoints
    (folder_of(checkpoints, 16) / "state.json").write_text("{}")  # not what COMMIT says
    assert " on cpu: 8.5 min for 8 steps from step 12 on, where --resume" in extrapolate(config, MEASURED, 42, "cpu")
    (folder_of(checkpoints, 12) / "COMMIT").unlink()
    assert " on cpu: 20.0 min for 20 steps without" in extrapolate(config, MEASURED, 42, "cpu")
    forked = begun(tiny_classes(tmp_path / "fork", run__fork_from=str(tmp_path / "step_00000004")))
    assert "18.0 min for 16 steps from step 4 on, where run.fork_from begins" in extrapolate(
        forked, MEASURED, 42, "cpu"
    )


def test_of_a_run_at_its_end_nothing_is_left(tmp_path: Path):
    config = begun(tiny_classes(tmp_path / "run"), 20)
    assert extrapolate(config, MEASURED, 42, "cpu").endswith(
        " in one process on cpu. Nothing is left to train: the run in run.dir is at step 20, and the run ends at step "
        "20"  # which is part of its method
    )
    longer = begun(tiny_config(tmp_path / "longer", optim__steps=13), 14)
    assert extrapolate(longer, MEASURED, 14, "cpu").endswith(
        "the run in run.dir is at step 14, and the run ends at step 13; raise optim.steps to train on"
    )
    fork = tiny_classes(tmp_path / "fork", run__fork_from=str(tmp_path / "step_00000004"), run__stop_at=4)
    assert extrapolate(fork, MEASURED, 42, "cpu").endswith(
        ": run.fork_from is at step 4, and the run ends at step 4; raise run.stop_at to train on"
    )


def begun(config: RunConfig, *steps: int) -> RunConfig:
    """Let there be a run in run.dir, with checkpoints of these steps."""
    folder = RunFolder(config.run.dir)
    folder.path.mkdir(exist_ok=True)
    folder.config_json.write_text("{}")
    for step in steps:
        write_checkpoint(folder.checkpoints, step, {}, {})
    return config


def test_the_time_of_a_fork_with_one_kind_of_steps_is_that_of_its_own(tmp_path: Path):
    lines = [{"step": s, "step_s": 60.0, "label_wait_s": 0.0} for s in range(1, 7)]
    method = {"name": "supervised", "burn_in_steps": 3}
    config = tiny_config(tmp_path, method=method, optim__steps=13, run__fork_from=str(tmp_path / "step_00000003"))
    assert "10.0 min for 10 steps from step 3 on" in extrapolate(config, lines, 14, "cpu")
