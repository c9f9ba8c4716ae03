"""`raydet thresholds RUN --apply CONFIG.yaml`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydet.cli import main
from raydet.settings import dump, load, resolve
from raydet.train.launch import launch
from tests.helpers import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with stored labels."""
    folder = tmp_path_factory.mktemp("apply") / "run"
    launch(tiny_config(folder, method__score_threshold=0.06, method__iou_filter_threshold=0.05))
    return folder


def config_file(folder: Path, **changes: object) -> Path:
    """Write a config of the same method, with a comment in it."""
    file = folder / "mine.yaml"
    text = dump(tiny_config(folder / "new", **changes))
    file.write_text(text.replace("  score_threshold:", "  # how sure\n  score_threshold:"))
    return file


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["thresholds", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("raydet: error: ") == 1 and "Traceback" not in said
    return said


def test_the_recommendation_lands_in_the_file_and_nothing_else_changes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = config_file(tmp_path, method__score_threshold=0.9, method__iou_filter_threshold=0.9)
    before, text = load(file), file.read_text()
    assert main(["thresholds", str(run), "--apply", str(file)]) == 0
    said = capsys.readouterr().out
    found = json.loads((run / "thresholds.json").read_text())["recommended"]
    after = load(file)
    changed = {"score_threshold": found["score"], "iou_filter_threshold": found["quality"]}
    assert after == before.model_copy(update={"method": before.method.model_copy(update=changed)})
    assert "-  score_threshold: 0.9" in said and f"+  score_threshold: {found['score']}" in said
    assert f"written: {file}" in said
    different = [(a, b) for a, b in zip(text.splitlines(), file.read_text().splitlines(), strict=True) if a != b]
    assert len(different) == 2
    assert main(["thresholds", str(run), "--apply", str(file)]) == 0
    assert "has the recommended thresholds already" in capsys.readouterr().out


def test_a_new_file_leaves_the_old_one_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, new = config_file(tmp_path, method__score_threshold=0.9), tmp_path / "new.yaml"
    text = file.read_bytes()
    assert main(["thresholds", str(run), "--json", "--apply", str(file), "--out", str(new)]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)["recommended"]  # figures alone on stdout
    assert f"+++ {new}" in said.err
    assert file.read_bytes() == text
    assert load(new).method.score_threshold == found["score"]
    assert "exists already" in refused(capsys, run, "--apply", file, "--out", new)


def test_what_cannot_take_the_thresholds_is_refused_and_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = config_file(tmp_path)
    other = tmp_path / "other.yaml"
    tree = {**tiny_config(tmp_path / "x").model_dump(mode="json"), "method": {"name": "unbiased_teacher"}}
    tree["optim"]["steps"] = 3000
    other.write_text(dump(resolve(tree, {})))
    said = refused(capsys, run, "--apply", other)
    assert "method.name=unbiased_teacher, but" in said and "trained with method.name=il_net" in said
    ungated = config_file(tmp_path, method__iou_filter_enabled=False)
    assert "its method has the thresholds method.score_threshold, that of" in refused(capsys, run, "--apply", ungated)
    high = config_file(tmp_path, labels__score_floor=0.85, method__score_threshold=0.9)
    text = high.read_text()
    assert "below labels.score_floor=0.85" in refused(capsys, run, "--apply", high, "--grid", "score=0.06,0.07")
    assert high.read_text() == text
    assert "no such config file" in refused(capsys, run, "--apply", tmp_path / "nowhere.yaml")
    record = run / "config.yaml"
    assert "record of what a run was trained with" in refused(capsys, run, "--apply", record)
    assert "--out names the file" in refused(capsys, run, "--out", tmp_path / "y.yaml")
    assert main(["thresholds", str(run), "--apply", str(record), "--out", str(tmp_path / "z.yaml")]) == 0
    assert load(tmp_path / "z.yaml").method.name == "il_net" and file.exists()


def test_a_link_stays_a_link_and_a_byte_order_mark_stays(run: Path, tmp_path: Path):
    file = config_file(tmp_path, method__score_threshold=0.9)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    assert main(["thresholds", str(run), "--apply", str(link)]) == 0
    assert link.is_symlink() and file.read_bytes().startswith(b"\xef\xbb\xbf") and load(file).method.name == "il_net"
    assert load(file).method.score_threshold < 0.9
