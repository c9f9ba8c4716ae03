"""What `raydet doctor` says about facts that it was given, and about this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydet.cli import main
from raydet.cluster.nodes import Answer
from raydet.cluster.storage import _read_and_reply
from raydet.cluster.upload import upload_of
from raydet.doctor import network, probe
from raydet.doctor.finding import Finding
from raydet.doctor.machine import compare, judge
from raydet.settings import dump
from raydet.train.rundir import RunFolder
from tests.helpers import tiny_classes, tiny_config
from tests.tiny_data import coco_content, write_coco

GOOD = {
    "python": "3.11.7",
    "versions": {name: "1.0" for name in probe.PACKAGES},
    "operators": "",
    "gpus": ["H200, 139 GiB"],
    "has_driver": True,
    "shm_bytes": 8 * 2**30,
    "open_files": 65536,
    "home": "/home/me",
    "home_problem": "",
    "time": 1000.0,
}


def bad(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    return {each.topic: (each.level, each.text) for each in findings if each.level != "ok"}


# one machine


def test_a_good_machine_has_no_finding():
    assert bad(judge(GOOD, wants_gpu=True)) == {}


@pytest.mark.parametrize(
    ("facts", "topic", "level", "text"),
    [
        ({"versions": {**GOOD["versions"], "ray": None}}, "versions", "fail", "not installed: ray"),
        (
            {"operators": "RuntimeError: operator torchvision::nms does not exist"},
            "operators",
            "fail",
            "torchvision 1.0 does not work with torch 1.0: RuntimeError: operator torchvision::nms does not exist",
        ),
        ({"gpus": []}, "GPUs", "warn", "a driver is there, but torch sees no GPU"),
        ({"gpus": [], "has_driver": False}, "GPUs", "fail", "torch sees none, the config asks for some"),
        # Docker's default of 64 MiB: 64 / 1024 = 0.06 GiB
        ({"shm_bytes": 64 * 2**20}, "shared memory", "warn", "/dev/shm has 0.06 GiB"),
        ({"shm_bytes": None}, "shared memory", "warn", "no /dev/shm"),
        ({"open_files": 1024}, "open files", "warn", "at most 1024 per process"),
        ({"home_problem": "/home/me: Read-only file system"}, "home", "fail", "/home/me: Read-only file system"),
    ],
)
def test_what_is_wrong_with_a_machine_is_named(facts: dict[str, Any], topic: str, level: str, text: str):
    found = bad(judge({**GOOD, **facts}, wants_gpu=True))
    assert list(found) == [topic]
    assert found[topic][0] == level
    assert text in found[topic][1]


def test_this_machine_can_run_the_tests():
    facts = probe.look()
    assert facts["operators"] == ""
    assert None not in facts["versions"].values()
    assert facts.keys() >= GOOD.keys()


# a cluster


def test_nodes_with_other_versions_or_clocks_are_named():
    other = {**GOOD, "python": "3.12.1", "versions": {**GOOD["versions"], "torch": "1.1"}, "time": 1090.0}
    answers = [Answer("a", GOOD), Answer("b", other), Answer("c", None, "no answer within 60 s")]
    found = compare(GOOD, answers, wants_gpu=True)
    assert [(each.level, each.topic, each.text) for each in found] == [
        ("ok", "node a", "same versions as here, 1 GPU"),
        ("fail", "node b", "other versions: Python 3.12.1, here 3.11.7; torch 1.1, here 1.0"),
        ("warn", "node b", "its clock is +90 s off, transfer included"),
        ("fail", "node c", "no answer within 60 s"),
    ]


def test_a_patch_version_of_python_may_differ_and_some_nodes_need_no_gpu():
    answers = [Answer("a", GOOD), Answer("b", {**GOOD, "python": "3.11.9", "gpus": [], "has_driver": False})]
    assert bad(compare(GOOD, answers, wants_gpu=True)) == {}
    assert "GPUs" in bad(compare(GOOD, answers[1:], wants_gpu=True))


def test_a_node_tells_what_is_wrong_with_a_folder(tmp_path: Path):
    file = tmp_path / "token"
    file.write_text("abc")
    said = _read_and_reply(str(file), "abc")
    assert (tmp_path / said.removeprefix("replied in ")).read_text() == "cba"
    long = tmp_path / ("x" * 250)  # the reply's name would be longer than the 255 bytes that a name may have
    long.write_text("abc")
    assert _read_and_reply(str(long), "abc") == "cannot be written there: File name too long"


def test_a_folder_that_only_one_side_sees_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("time.monotonic", iter(range(0, 1000, 10)).__next__)
    assert "a file written here is not there" in _read_and_reply(str(tmp_path / "missing"), "abc")
    (tmp_path / "other").write_text("xyz")
    assert "holds something else" in _read_and_reply(str(tmp_path / "other"), "abc")


# the network


def test_listeners_and_what_they_are_bound_to_are_read(tmp_path: Path):
    head = "  sl  local_address rem_address   st\n"
    tcp, tcp6 = tmp_path / "tcp", tmp_path / "tcp6"
    tcp.write_text(
        head
        + "   0: 0100007F:2049 00000000:0000 0A 0\n"  # 127.0.0.1:8265
        + "   1: 00000000:2711 00000000:0000 0A 0\n"  # 0.0.0.0:10001
        + "   2: 0100007F:1234 0100007F:18EB 01 0\n"  # a connection to 6379, not a listener
    )
    tcp6.write_text(
        head
        + "   0: 00000000000000000000000000000000:18EB 0:0 0A 0\n"  # [::]:6379
        + "   1: 00000000000000000000000001000000:0050 0:0 0A 0\n"  # [::1]:80
        + "   2: 0000000000000000FFFF00000100007F:0051 0:0 0A 0\n"  # [::ffff:127.0.0.1]:81
    )
    assert network.listening([tcp, tcp6, tmp_path / "none"]) == {
        8265: False,
        10001: True,
        6379: True,
        80: False,
        81: False,
    }


def test_a_head_that_everybody_may_use_is_warned_of():
    assert bad(network.judge_ports({8265: False}, "disabled")) == {}
    assert bad(network.judge_ports({6379: True, 8265: False}, "token")) == {}
    level, text = bad(network.judge_ports({6379: True, 8265: False}, "disabled"))["token"]
    assert level == "warn"
    assert "listens beyond loopback (6379) and asks for no token" in text
    assert network.judge_mode("token", "x").level == "ok"
    assert network.judge_mode("disabled", "x").level == "warn"
    assert network.judge_mode(None, "x").level == "warn"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("nonsense", "expected HOST:PORT"),
        ("127.0.0.1:99999999", "expected HOST:PORT"),
        ("no-such-host.invalid:6379", "no such host"),
        ("127.0.0.1:1", "Connection refused"),
    ],
)
def test_an_address_that_does_not_answer_is_explained(address: str, text: str):
    found = network.reachable(address)
    assert found.level == "fail"
    assert text in found.text


# what goes with a job


def test_an_upload_leaves_out_what_the_ignore_files_name(tmp_path: Path):
    (tmp_path / ".gitignore").write_text("runs/\n")
    (tmp_path / ".rayignore").write_text("*.pt\n")
    for name, size in {"a.py": 10, "big.pt": 1000, "runs/x": 500, "sub/b.py": 5, "sub/c.pt": 7, ".git/y": 9}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    upload = upload_of(tmp_path)
    # a.py 10 + sub/b.py 5 + .gitignore 6 + .rayignore 5
    assert (upload.files, upload.bytes) == (4, 26)
    assert upload.largest[0] == ("a.py", 10)


def test_the_upload_of_this_repository_is_small():
    upload = upload_of(Path(__file__).parents[2])
    assert upload.bytes < 3 * 2**20
    assert not any(name.startswith(("tests/", "docs/", "benchmarks/", ".git/")) for name, _ in upload.largest)


# the command


def test_doctor_says_what_would_go_wrong_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tmp_path / "config.yaml"
    config.write_text(dump(tiny_config(tmp_path / "run")))
    assert main(["doctor", str(config), "--measure", "--json"]) == 0
    found = {each["topic"]: each for each in json.loads(capsys.readouterr().out)}
    assert "labeled 24 images, 48 boxes, val 6 images, 13 boxes" in found["data"]["text"]
    assert "10 labelled and 14 unlabelled images to train on" in found["data"]["text"]
    assert " per later step" in found["time"]["text"] and "memory" not in found
    assert not (tmp_path / "run").exists()
    assert main(["doctor", str(config), "data.labeled=/nowhere.json", "--address", "127.0.0.1:1"]) == 1
    said = capsys.readouterr().out
    assert "Connection refused" in said
    assert "1 error; " in said and "/nowhere.json: no such file or folder" in said


def test_the_first_error_of_each_kind_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    content = coco_content()
    content["annotations"][0]["bbox"] = [90, 10, 20, 20]  # of an image of 100 x 80
    content["annotations"][1]["bbox"] = [90, 10, 30, 20]
    content["annotations"].append({**content["annotations"][2], "id": 4, "bbox": [10, 10, 0, 20]})
    file = write_coco(tmp_path / "set", content)
    config = tmp_path / "config.yaml"
    changes = {"data__labeled": {"path": str(file)}, "data__labeled_count": 1, "data__val": None}
    config.write_text(dump(tiny_config(tmp_path / "run", **changes)))
    assert main(["doctor", str(config), "--json"]) == 1
    found = {each["topic"]: each for each in json.loads(capsys.readouterr().out)}
    said = found["data"]["text"]
    assert said.startswith("3 errors; labeled ")
    assert f"[box-outside] {file}, annotation id" in said and "[box-degenerate] " in said
    assert said.count("[box-outside]") == 1 and said.endswith("; ...") and "\n" not in said


def test_doctor_knows_classifiers_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tmp_path / "config.yaml"
    config.write_text(dump(tiny_classes(tmp_path / "run")))
    assert main(["doctor", str(config), "--measure", "--json"]) == 0
    found = {each["topic"]: each for each in json.loads(capsys.readouterr().out)}
    # 54 images, 4 of each of 3 classes labelled
    assert "labeled 54 images of 3 classes, val 12 images of 3 classes; 12 labelled and 42 unl" in found["data"]["text"]
    assert " per supervised step, " in found["time"]["text"] and " per D2 step (" in found["time"]["text"]
    assert "0.8 kB in every rank (here 1)" in found["memory"]["text"]
    assert not (tmp_path / "run").exists()


def test_main_memory_is_what_a_container_may_have_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probe, "_memory_bytes", lambda: 900)  # the table takes 42 x (3 x 4 + 8) = 840
    config = tmp_path / "config.yaml"
    config.write_text(dump(tiny_classes(tmp_path / "run")))
    assert main(["doctor", str(config), "--json"]) == 0
    found = {each["topic"]: each for each in json.loads(capsys.readouterr().out)}
    assert (found["memory"]["level"], found["memory"]["text"].split("; ")[-1]) == ("warn", "this machine has 0.9 kB")


def test_a_started_run_needs_room_for_what_it_has_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    config, folder = tiny_config(tmp_path / "run"), RunFolder(tmp_path / "run")
    (tmp_path / "config.yaml").write_text(dump(config))
    levels = []
    for bytes_written in (10, 10**9):
        folder.prepare(config, resume=folder.is_started)
        for file in (folder.checkpoints / "x", folder.labels / "x"):
            file.parent.mkdir(exist_ok=True)
            with file.open("wb") as stream:
                stream.truncate(bytes_written)  # takes no disk
        main(["doctor", str(tmp_path / "config.yaml"), "--json"])
        found = {each["topic"]: each for each in json.loads(capsys.readouterr().out)}
        levels.append(found["disk"]["level"])
    assert levels == ["fail", "ok"]
    assert "2.0 GB are written already; " in found["disk"]["text"]


def test_a_method_of_pseudo_labels_needs_unlabelled_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tmp_path / "config.yaml"
    config.write_text(dump(tiny_config(tmp_path / "run", data__labeled_count=24)))  # all of them
    assert main(["doctor", str(config), "--measure"]) == 1
    assert "none is unlabelled" in capsys.readouterr().out


def test_what_a_run_would_refuse_is_a_finding_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tmp_path / "config.yaml"
    config.write_text(dump(tiny_classes(tmp_path / "run", optim__unlabeled_batch=50)))  # of 42 images
    assert main(["doctor", str(config), "--measure"]) == 1
    said = capsys.readouterr().out
    assert "stage 'D2' wants 50 unlabelled images per step, there are 42" in said
    assert "ok    disk" in said
