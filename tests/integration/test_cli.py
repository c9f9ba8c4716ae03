"""The command line as users meet it; in this process where a new one would only cost time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raydet import __version__
from raydet.cli import main
from raydet.data.boxes.synthetic import materialise
from raydet.metrics import read_metrics
from raydet.settings import dump, load
from tests.helpers import TINY, tiny_config
from tests.integration.processes import steps_done

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that `raydet train` has made."""
    folder = tmp_path_factory.mktemp("cli")
    assert main(["train", written(folder, folder / "run")]) == 0
    return folder / "run"


def written(folder: Path, run_dir: Path, **changes: object) -> str:
    file = folder / "config.yaml"
    file.write_text(dump(tiny_config(run_dir, **changes)))
    return str(file)


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A valid YAML file for a run at tmp_path/run."""
    return written(tmp_path, tmp_path / "run")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that is the user's mistake; return the one message."""
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("raydet: error: ")
    assert said.count("raydet: error") == 1
    assert "Traceback" not in said
    return said.removeprefix("raydet: error: ")


# starting


def test_help_and_config_errors_do_not_wait_for_torch():
    code = """
import sys
from raydet.cli import main
assert main(["train", "missing.yaml"]) == 2
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
slow = {"torch", "ray", "pyarrow"} & set(sys.modules)
assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "raydet: error: missing.yaml: no such config file\n"
    assert "check-data" in done.stdout


def test_a_printed_config_is_the_config(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", config, "--print-config", "optim.lr=1e-2", "data.views.short_side=[32, 64]"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    expected = tiny_config(tmp_path / "run", optim__lr=0.01, data__views__short_side=[32, 64])
    assert load(printed) == expected
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("before", [0, 1, 2])
def test_options_may_stand_before_between_and_behind_overrides(
    before: int, config: str, capsys: pytest.CaptureFixture[str]
):
    words = [config, "optim.lr=0.5"]
    words.insert(before, "--print-config")
    assert main(["train", *words]) == 0
    assert "lr: 0.5" in capsys.readouterr().out


def test_unknown_options_are_refused(config: str, capsys: pytest.CaptureFixture[str]):
    for wrong in (["train", config, "--resum", "--nonsense"], ["evaluate", "run", "optim.lr=1"], []):
        with pytest.raises(SystemExit) as end:
            main(wrong)
        assert end.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.stpes=3"], "optim.stpes: unknown key; did you mean optim.steps?"),
        (["optim.steps=many"], 'optim.steps="many"'),
        (["optim.steps"], "expected key.path=value"),
        (["data.labeled=/nowhere/boxes.json"], "/nowhere/boxes.json"),
        (
            ["data.labeled_count=null"],
            "needs unlabelled images: set data.unlabeled, or one of data.shots_per_class",
        ),
        (["data.labeled_count=24"], "needs unlabelled images, but the 24 images are labelled"),
        (["data.labeled_count=25"], "25"),
        (["run.fork_from=/nowhere"], "/nowhere: no such checkpoint folder"),
        (["optim.precision=fp16"], "optim.precision=fp16 needs a GPU"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(
    overrides: list[str], message: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert message in refused(capsys, "train", config, *overrides)
    assert not (tmp_path / "run").exists()


def test_a_run_whose_data_was_bad_can_be_started_again(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "run").mkdir()
    refused(capsys, "train", config, "data.labeled_count=25")
    assert list((tmp_path / "run").iterdir()) == []
    assert main(["train", config, "optim.steps=4", "method.burn_in_steps=2"]) == 0


def test_an_existing_run_is_not_written_over(run: Path, capsys: pytest.CaptureFixture[str]):
    config = str(run.parent / "config.yaml")
    before = (run / "metrics.jsonl").read_bytes()
    assert "already holds a run; add --resume" in refused(capsys, "train", config)
    assert "optim.lr_scaling: 'none' -> 'linear'" in refused(
        capsys, "train", config, "--resume", "optim.lr_scaling=linear"
    )
    assert (run / "metrics.jsonl").read_bytes() == before


def test_what_a_diverged_run_is_mended_with_may_change_and_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = written(tmp_path, tmp_path / "run", optim__steps=4)
    assert main(["train", config]) == 0
    assert "so far the run was trained by" not in capsys.readouterr().out
    saved = tmp_path / "run" / "config.json"
    saved.write_text(saved.read_text().replace(__version__, "0.0.1", 1))  # as an older raydet would have left it
    assert main(["train", config, "--resume", "optim.lr=0.0005", "optim.steps=6"]) == 0
    said = capsys.readouterr().out
    assert f"note: so far the run was trained by raydet 0.0.1, this is {__version__}" in said
    assert "changed: optim.lr: 0.001 -> 0.0005" in said
    assert "changed: optim.steps: 4 -> 6" in said


def test_training_ends_with_what_to_do_next(run: Path, capsys: pytest.CaptureFixture[str]):
    config = str(run.parent / "config.yaml")
    capsys.readouterr()
    assert main(["train", config, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{run}: finished at step 8; raise optim.steps to train on",
        f"trained: {run}",
        f"  raydet report {run}",
        f"  raydet evaluate {run}",
    ]


def test_there_must_be_something_to_resume(config: str, capsys: pytest.CaptureFixture[str]):
    assert "there is no run at" in refused(capsys, "train", config, "--resume")


def test_an_interrupted_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    config = written(tmp_path, run, optim__steps=5000, checkpoint__every=2)
    command = [sys.executable, "-m", "raydet", "train", config]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    try:
        deadline = time.monotonic() + 150
        while steps_done(run) < 6 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "raydet: interrupted; go on with --resume" in said
    assert "Traceback" not in said
    done = steps_done(run)
    assert read_metrics(run / "metrics.jsonl")[-1]["reason"] == "interrupted"

    assert main(["train", config, "--resume", f"optim.steps={done + 2}"]) == 0
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, done + 3))
    start = [line for line in lines if line["kind"] == "start"][-1]
    assert start["resumed_from"] >= 5  # the burn-in ends at 3; checkpoints at 3, 5, ...
    assert lines[-1]["reason"] == "done"


# afterwards


def test_evaluate_prints_figures_for_people_and_programs(run: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == f"teacher of {run}/checkpoints/step_00000008"
    assert second.startswith("6 images, 13 boxes, ")
    assert main(["evaluate", str(run), "--model", "student", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["model"], said["step"], said["images"], said["boxes"]) == ("student", 8, 6, 13)
    (line,) = [x for x in read_metrics(run / "metrics.jsonl") if x.get("model") == "student" and x["step"] == 8]
    assert said["AP"] == line["AP"]
    assert "names no data.test" in refused(capsys, "evaluate", str(run), "--split", "test")
    assert "neither a run folder" in refused(capsys, "evaluate", "nowhere")


def test_evaluate_takes_other_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shapes = TINY["data"]["val"]["shapes"]  # type: ignore[index]
    made = tiny_config(tmp_path, data__val__shapes={**shapes, "num_images": 3}).data.val
    assert made is not None
    assert made.shapes is not None
    file = materialise(made.shapes, tmp_path)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3
    assert "/nowhere.json" in refused(capsys, "evaluate", str(run), "--data", "/nowhere.json")
    assert refused(capsys, "evaluate", str(run), "--data", str(file), "--split", "test") == (
        "--split test chooses among the run's own data sets, and --data gives another one; leave out one of them (the "
        "part of a data set is --subset)\n"
    )


def test_export_writes_the_model(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert main(["export", str(run), "--out", str(tmp_path / "model.safetensors")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/model.safetensors: teacher at step 8, ")
    assert (tmp_path / "model.safetensors").is_file()
    assert "ends in .safetensors or .onnx" in refused(capsys, "export", str(run), "--out", str(tmp_path / "model.h5"))


def test_export_replaces_a_file_only_where_it_is_told_to(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "model.safetensors"
    file.write_text("mine")
    assert refused(capsys, "export", str(run), "--out", str(file)) == (
        f"--out {file}: exists already and is not overwritten; give another name, or add --overwrite\n"
    )
    assert file.read_text() == "mine"
    assert main(["export", str(run), "--out", str(file), "--overwrite"]) == 0
    assert file.stat().st_size > 1000
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in refused(capsys, "export", str(run), "--out", str(tmp_path / "folder.onnx"), "--overwrite")


def test_report_writes_one_page(run: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib", reason="the plots extra is not installed (pip install 'raydet[plots]')")
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}/report.html\n"
    assert "<html" in (run / "report.html").read_text()[:500]
    assert "no config.json there" in refused(capsys, "report", str(run / "data"))


# data


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A COCO JSON of five images with one mistake of each of four kinds."""
    shapes = tiny_config(
        tmp_path, data__labeled__shapes={"num_images": 5, "height": 64, "width": 96}
    ).data.labeled.shapes
    assert shapes is not None
    file = materialise(shapes, tmp_path / "set")
    content = json.loads(file.read_text())
    first, second, third = content["annotations"][:3]
    first["bbox"] = [80, 10, 40, 20]  # leaves the image on the right
    second["bbox"] = [10, 10, 0, 20]  # no area
    third["category_id"] = 999
    content["images"].append({"id": 999, "file_name": "missing.png", "height": 64, "width": 96})
    file.write_text(json.dumps(content))
    return file


def test_check_data_lists_all_problems_at_once(broken: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["check-data", str(broken)]) == 1
    said = capsys.readouterr().out
    assert "4 errors:" in said
    for part in ("leaves its image", "has no area", "999", "missing.png"):
        assert part in said


@pytest.mark.parametrize(("policy", "lost"), [("drop", 3), ("clip", 3)])
def test_check_data_writes_a_cleaned_copy(
    policy: str, lost: int, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    images = str(broken.parent)
    before = broken.read_bytes()
    out = tmp_path / "clean.json"
    assert main(["check-data", str(broken), "--images", images, "--fix", policy, "--out", str(out)]) == 0
    assert broken.read_bytes() == before
    number = len(json.loads(before)["annotations"])
    assert len(json.loads(out.read_text())["annotations"]) == number - lost
    assert main(["check-data", str(out), "--images", images]) == 0
    assert "no errors" in capsys.readouterr().out
    assert "exists already" in refused(
        capsys, "check-data", str(broken), "--images", images, "--fix", policy, "--out", str(out)
    )
    assert "--fix works on one data set" in refused(capsys, "check-data", str(broken), "--fix", policy)


def test_check_data_checks_a_whole_config(config: str, capsys: pytest.CaptureFixture[str]):
    assert main(["check-data", config]) == 0
    assert "no errors" in capsys.readouterr().out
    assert "/nowhere.json: no such file" in refused(capsys, "check-data", "/nowhere.json")
